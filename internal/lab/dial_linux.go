package lab

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A SocketOption changes a socket before it is bound or connected.
type SocketOption func(fd int) error

// Mark returns the option that gives a socket a mark, as SO_MARK does.
func Mark(mark uint32) SocketOption {
	return func(fd int) error {
		return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, int(mark))
	}
}

// Dial connects to a literal address from inside the namespace.
func (n *Namespace) Dial(ctx context.Context, network, address string, opts ...SocketOption) (net.Conn, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, fmt.Errorf("dial: %w", err)
	}
	if _, err := netip.ParseAddr(host); err != nil { // a name would be resolved in another namespace
		return nil, fmt.Errorf("dial: %w", err)
	}
	d := net.Dialer{Control: func(_, _ string, c syscall.RawConn) error { return control(c, opts...) }}
	var conn net.Conn
	err = n.Do(func() (err error) {
		conn, err = d.DialContext(ctx, network, address)
		return err
	})
	return conn, err
}

// Source asks the lab service at the literal address, over "tcp" or "udp", which address it sees the caller come from.
func (n *Namespace) Source(ctx context.Context, network, address string, opts ...SocketOption) (netip.AddrPort, error) {
	conn, err := n.Dial(ctx, network, address, opts...)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("ask for source: %w", err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(0, 1)) })
	defer stop()
	if strings.HasPrefix(network, "udp") {
		if _, err := conn.Write(nil); err != nil {
			return netip.AddrPort{}, fmt.Errorf("ask for source: %w", err)
		}
	}
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("ask for source: %w", errors.Join(err, context.Cause(ctx)))
	}
	return netip.ParseAddrPort(strings.TrimSuffix(line, "\n"))
}

// control applies options to a socket.
func control(c syscall.RawConn, opts ...SocketOption) error {
	var failed error
	err := c.Control(func(fd uintptr) {
		for _, opt := range opts {
			failed = errors.Join(failed, opt(int(fd)))
		}
	})
	return errors.Join(err, failed)
}
