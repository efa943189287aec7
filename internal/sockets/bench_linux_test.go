package sockets

import (
	"errors"
	"net/netip"
	"os"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"sidestep/internal/lab"
	"sidestep/internal/lab/labtest"
)

var (
	here4  = netip.MustParseAddr("127.0.0.1")
	here6  = netip.MustParseAddr("::1")
	mapped = netip.MustParseAddr("::ffff:127.0.0.1")
)

// A bench is a network namespace with nothing but lo, and a closer of it. Sockets are descriptors; none of them waits
// longer than ten seconds.
type bench struct {
	*testing.T
	ns     *lab.Namespace
	closer *Closer
}

func newBench(t *testing.T) *bench {
	t.Helper()
	labtest.NeedRoot(t)
	ns, err := lab.NewNamespace()
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{T: t, ns: ns}
	t.Cleanup(func() { b.ok(ns.Close()) })
	b.do(func() (err error) {
		b.closer, err = New()
		return errors.Join(err, os.WriteFile("/proc/sys/net/ipv4/ping_group_range", []byte("0 65535"), 0))
	})
	t.Cleanup(func() { b.ok(b.closer.Close()) })
	return b
}

func (b *bench) do(fn func() error) {
	b.Helper()
	b.ok(b.ns.Do(fn))
}

func (b *bench) ok(err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}

func (b *bench) want(what string, err, want error) {
	b.Helper()
	if !errors.Is(err, want) {
		b.Errorf("%s: got %v, want %v", what, err, want)
	}
}

// socket makes a socket of addr's family in the namespace.
func (b *bench) socket(addr netip.Addr, typ, protocol int) int {
	b.Helper()
	family := unix.AF_INET6
	if addr.Is4() {
		family = unix.AF_INET
	}
	var s int
	b.do(func() (err error) {
		s, err = unix.Socket(family, typ|unix.SOCK_CLOEXEC, protocol)
		return err
	})
	b.Cleanup(func() { _ = unix.Close(s) })
	patience := unix.Timeval{Sec: 10}
	b.ok(unix.SetsockoptTimeval(s, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &patience))
	return s
}

// udp makes a UDP socket that is bound to addr.
func (b *bench) udp(addr netip.Addr) int {
	b.Helper()
	s := b.socket(addr, unix.SOCK_DGRAM, 0)
	b.ok(unix.Bind(s, sockaddr(netip.AddrPortFrom(addr, 0))))
	return s
}

// listen makes a TCP socket that listens on addr.
func (b *bench) listen(addr netip.Addr) int {
	b.Helper()
	s := b.socket(addr, unix.SOCK_STREAM, 0)
	b.ok(unix.Bind(s, sockaddr(netip.AddrPortFrom(addr, 0))))
	b.ok(unix.Listen(s, 16))
	return s
}

func (b *bench) accept(listener int) int {
	b.Helper()
	s, _, err := unix.Accept4(listener, unix.SOCK_CLOEXEC)
	b.ok(err)
	b.Cleanup(func() { _ = unix.Close(s) })
	patience := unix.Timeval{Sec: 10}
	b.ok(unix.SetsockoptTimeval(s, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &patience))
	return s
}

// dial connects a socket to the port of server, at addr.
func (b *bench) dial(s int, addr netip.Addr, server int) {
	b.Helper()
	b.ok(unix.Connect(s, sockaddr(netip.AddrPortFrom(addr, b.local(server).Port()))))
}

// connection makes a TCP connection to addr, and returns both its ends and the listener.
func (b *bench) connection(addr netip.Addr) (client, server, listener int) {
	b.Helper()
	listener = b.listen(addr.Unmap())
	client = b.socket(addr, unix.SOCK_STREAM, 0)
	b.dial(client, addr, listener)
	return client, b.accept(listener), listener
}

// flow names a socket as it is now.
func (b *bench) flow(protocol uint8, s int) Flow {
	b.Helper()
	peer, err := unix.Getpeername(s)
	b.ok(err)
	return Flow{Protocol: protocol, Local: b.local(s), Remote: addrPort(peer), Cookie: b.cookie(s)}
}

func (b *bench) local(s int) netip.AddrPort {
	b.Helper()
	sa, err := unix.Getsockname(s)
	b.ok(err)
	return addrPort(sa)
}

func (b *bench) cookie(s int) uint64 {
	b.Helper()
	cookie, err := unix.GetsockoptUint64(s, unix.SOL_SOCKET, unix.SO_COOKIE)
	b.ok(err)
	return cookie
}

func (b *bench) mark(s int) uint32 {
	b.Helper()
	mark, err := unix.GetsockoptInt(s, unix.SOL_SOCKET, unix.SO_MARK)
	b.ok(err)
	return uint32(mark)
}

func (b *bench) setMark(s int, mark uint32) {
	b.Helper()
	b.ok(unix.SetsockoptInt(s, unix.SOL_SOCKET, unix.SO_MARK, int(mark)))
}

// lives checks that what from sends arrives at to.
func (b *bench) lives(from, to int) {
	b.Helper()
	_, err := unix.Write(from, []byte("x"))
	b.ok(err)
	if n, err := unix.Read(to, make([]byte, 8)); n < 1 || err != nil {
		b.Errorf("read %d bytes, %v", n, err)
	}
}

// disconnect is connect(AF_UNSPEC).
func disconnect(s int) error {
	var nobody unix.RawSockaddr
	_, _, errno := unix.Syscall(unix.SYS_CONNECT, uintptr(s), uintptr(unsafe.Pointer(&nobody)), unsafe.Sizeof(nobody))
	if errno != 0 {
		return errno
	}
	return nil
}

func read(s int) error {
	_, err := unix.Read(s, make([]byte, 8))
	return err
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}
	}
	return &unix.SockaddrInet6{Addr: a.Addr().As16(), Port: int(a.Port())}
}

func addrPort(sa unix.Sockaddr) netip.AddrPort {
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr), uint16(sa.Port))
	}
	return netip.AddrPort{}
}
