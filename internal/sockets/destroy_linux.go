package sockets

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

const anyState = ^uint32(0)

// A Closer destroys sockets of the network namespace that it was made in, whichever thread asks. Several goroutines
// may ask at once.
type Closer struct {
	netlink  map[int]*nl.SocketHandle
	protocol map[uint8]bool // those that the kernel has a module for
}

// New makes a closer in the network namespace of the calling thread.
func New() (*Closer, error) {
	s, err := nl.Subscribe(unix.NETLINK_SOCK_DIAG) // to no group: a plain socket of this thread's namespace
	if err != nil {
		return nil, fmt.Errorf("open sock_diag socket: %w", err)
	}
	c := &Closer{
		netlink:  map[int]*nl.SocketHandle{unix.NETLINK_SOCK_DIAG: {Socket: s}},
		protocol: make(map[uint8]bool),
	}
	for _, p := range []uint8{unix.IPPROTO_TCP, unix.IPPROTO_UDP} {
		if c.protocol[p], err = c.knows(p); err != nil {
			return nil, errors.Join(fmt.Errorf("ask sock_diag for protocol %d: %w", p, err), c.Close())
		}
	}
	return c, nil
}

// Close gives the netlink socket back.
func (c *Closer) Close() error {
	c.netlink[unix.NETLINK_SOCK_DIAG].Close()
	return nil
}

// Destroy ends the socket of f. Its program gets ECONNABORTED, at once if it waits, and
//
//   - the peer of a TCP connection gets a reset, unless that is in TIME-WAIT or SYN-RECV and just ends,
//   - a UDP socket has no peer any more, is bound to no link, and has no local port unless its program asked for that
//     very one; it can be connected again.
//
// A socket that is gone already is no error. Of UDP sockets that share all of their name (SO_REUSEPORT) the kernel
// finds one only, and says that the others are gone: whoever must be sure looks again and calls again.
func (c *Closer) Destroy(f Flow) error {
	if err := c.destroy(f); err != nil {
		return fmt.Errorf("destroy socket %v: %w", f, err)
	}
	return nil
}

func (c *Closer) destroy(f Flow) error {
	if !c.protocol[f.Protocol] {
		return ErrUnsupported
	}
	if f.Local.Addr().Is4() != f.Remote.Addr().Is4() {
		return errors.New("addresses of two families")
	}
	var err error
	if f.Cookie == 0 {
		f.Cookie, err = c.find(f)
	}
	if err == nil {
		_, err = c.ask(unix.SOCK_DESTROY, unix.NLM_F_ACK, f.request(anyState))
	}
	switch {
	case errors.Is(err, unix.ENOENT):
		return nil // gone
	case errors.Is(err, unix.EOPNOTSUPP):
		return ErrUnsupported
	}
	return err
}

// find returns the cookie of the socket of f, or ENOENT. It comes before destroying by name alone, because the kernel
// would take any socket that gets the flow's packets: without the connection, that is the listener.
func (c *Closer) find(f Flow) (uint64, error) {
	answers, err := c.ask(unix.SOCK_DIAG_BY_FAMILY, 0, f.question().request(anyState))
	for _, a := range answers {
		if cookie, ok := f.cookieIn(a); ok {
			return cookie, nil
		}
	}
	if err == nil {
		err = unix.ENOENT
	}
	return 0, err
}

// knows reports whether the kernel has, or can load, what it takes to find sockets of a protocol. Where it has not,
// it says ENOENT, as it does of a socket that is gone; so it is asked beforehand, for all sockets in no state.
func (c *Closer) knows(protocol uint8) (bool, error) {
	nobody := netip.AddrPortFrom(netip.IPv4Unspecified(), 0)
	f := Flow{Protocol: protocol, Local: nobody, Remote: nobody}
	_, err := c.ask(unix.SOCK_DIAG_BY_FAMILY, unix.NLM_F_DUMP, f.request(0))
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	return err == nil, err
}

func (c *Closer) ask(command, flags uint16, body []byte) ([][]byte, error) {
	req := nl.NetlinkRequest{Sockets: c.netlink, RawData: body}
	req.Type = command
	req.Flags = unix.NLM_F_REQUEST | flags
	return req.Execute(unix.NETLINK_SOCK_DIAG, unix.SOCK_DIAG_BY_FAMILY)
}
