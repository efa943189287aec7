//go:build linux

package actor

import (
	"context"
	"encoding/binary"
	"errors"
	"net/netip"

	"golang.org/x/sys/unix"
)

// A Socket is the number of a descriptor in an actor. The same number means the same socket in children born later
// and after an exec.
type Socket int

// A SocketKind is what [Actor.Open] opens.
type SocketKind uint8

// The kinds of socket.
const (
	UDP          SocketKind = iota // not connected
	UDPConnected                   // connected: the source address is chosen
	TCP                            // a connection
)

// Open makes a socket for addr and keeps it.
func (a *Actor) Open(ctx context.Context, kind SocketKind, addr netip.AddrPort) (Socket, error) {
	typ := unix.SOCK_DGRAM
	if kind == TCP {
		typ = unix.SOCK_STREAM
	}
	s, err := a.Socket(ctx, addr, typ)
	if err != nil || kind == UDP {
		return s, err
	}
	if err := a.ConnectSocket(ctx, s, addr); err != nil {
		return -1, errors.Join(err, a.CloseSocket(ctx, s))
	}
	return s, nil
}

// Socket makes a non-blocking socket of type typ in addr's family, and does nothing with it.
func (a *Actor) Socket(ctx context.Context, addr netip.AddrPort, typ int) (Socket, error) {
	family := unix.AF_INET6
	if addr.Addr().Is4() {
		family = unix.AF_INET
	}
	fd, err := a.Syscall(ctx, unix.SYS_SOCKET, family, typ|unix.SOCK_NONBLOCK, 0)
	return Socket(fd), err
}

// ConnectSocket connects s to addr, and waits as [Actor.Connect] does.
func (a *Actor) ConnectSocket(ctx context.Context, s Socket, addr netip.AddrPort) error {
	sa := Sockaddr(addr)
	_, err := a.Syscall(ctx, unix.SYS_CONNECT, int(s), sa, len(sa))
	if !errors.Is(err, unix.EINPROGRESS) {
		return err
	}
	if err := a.Poll(ctx, s, unix.POLLOUT); err != nil {
		return err
	}
	failed, err := a.SocketOption(ctx, s, unix.SOL_SOCKET, unix.SO_ERROR)
	if err == nil && failed != 0 {
		err = a.p.describe(&request{op: opConnect}, unix.Errno(failed))
	}
	return err
}

// Poll waits until s has one of events (POLLIN, ...), or an error or a hang-up. ETIMEDOUT comes as with [Actor.Connect].
func (a *Actor) Poll(ctx context.Context, s Socket, events int) error {
	arg := [7]uint64{uint64(s), uint64(events), patience(ctx)}
	_, err := a.call(ctx, &request{op: opPoll, arg: arg})
	return err
}

// Bind binds s to addr.
func (a *Actor) Bind(ctx context.Context, s Socket, addr netip.AddrPort) error {
	sa := Sockaddr(addr)
	_, err := a.Syscall(ctx, unix.SYS_BIND, int(s), sa, len(sa))
	return err
}

// ListenTCP makes a socket that listens on addr.
func (a *Actor) ListenTCP(ctx context.Context, addr netip.AddrPort) (Socket, error) {
	s, err := a.Socket(ctx, addr, unix.SOCK_STREAM)
	if err != nil {
		return -1, err
	}
	err = a.Bind(ctx, s, addr)
	if err == nil {
		_, err = a.Syscall(ctx, unix.SYS_LISTEN, int(s), 16)
	}
	if err != nil {
		return -1, errors.Join(err, a.CloseSocket(ctx, s))
	}
	return s, nil
}

// Accept waits for a connection to s.
func (a *Actor) Accept(ctx context.Context, s Socket) (Socket, error) {
	if err := a.Poll(ctx, s, unix.POLLIN); err != nil {
		return -1, err
	}
	fd, err := a.Syscall(ctx, unix.SYS_ACCEPT4, int(s), 0, 0, unix.SOCK_NONBLOCK)
	return Socket(fd), err
}

// SendOn sends one [Datagram] on s: to addr, or where s is connected to if addr is not valid.
func (a *Actor) SendOn(ctx context.Context, s Socket, addr netip.AddrPort) error {
	d := binary.LittleEndian.AppendUint32(nil, datagramMagic)
	d = binary.LittleEndian.AppendUint32(d, uint32(a.p.pid))
	d = binary.LittleEndian.AppendUint32(d, uint32(a.p.pid))
	d = binary.LittleEndian.AppendUint32(d, 0)
	sa := Sockaddr(addr)
	_, err := a.Syscall(ctx, unix.SYS_SENDTO, int(s), d, len(d), unix.MSG_NOSIGNAL, sa, len(sa))
	return err
}

// Receive waits for bytes on s and returns them: none at the end of a connection.
func (a *Actor) Receive(ctx context.Context, s Socket) ([]byte, error) {
	if err := a.Poll(ctx, s, unix.POLLIN); err != nil {
		return nil, err
	}
	b := make([]byte, 4096)
	n, err := a.Syscall(ctx, unix.SYS_RECVFROM, int(s), b, len(b), unix.MSG_DONTWAIT, 0, 0)
	if err != nil {
		return nil, err
	}
	return b[:n], nil
}

// LocalAddr is getsockname.
func (a *Actor) LocalAddr(ctx context.Context, s Socket) (netip.AddrPort, error) {
	b := make([]byte, unix.SizeofSockaddrInet6)
	length := binary.NativeEndian.AppendUint32(nil, uint32(len(b)))
	if _, err := a.Syscall(ctx, unix.SYS_GETSOCKNAME, int(s), b, length); err != nil {
		return netip.AddrPort{}, err
	}
	return parseSockaddr(b[:min(int(binary.NativeEndian.Uint32(length)), len(b))])
}

// SocketOption is getsockopt of an integer.
func (a *Actor) SocketOption(ctx context.Context, s Socket, level, name int) (int, error) {
	value := make([]byte, 4)
	length := binary.NativeEndian.AppendUint32(nil, uint32(len(value)))
	_, err := a.Syscall(ctx, unix.SYS_GETSOCKOPT, int(s), level, name, value, length)
	return int(int32(binary.NativeEndian.Uint32(value))), err
}

// SetSocketOption is setsockopt of the bytes of value.
func (a *Actor) SetSocketOption(ctx context.Context, s Socket, level, name int, value []byte) error {
	_, err := a.Syscall(ctx, unix.SYS_SETSOCKOPT, int(s), level, name, value, len(value))
	return err
}

// CloseSocket closes s.
func (a *Actor) CloseSocket(ctx context.Context, s Socket) error {
	_, err := a.Syscall(ctx, unix.SYS_CLOSE, int(s))
	return err
}
