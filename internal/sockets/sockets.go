// Package sockets closes sockets that are on the wrong side.
//
// There are two ways, and neither needs the program's help. A [Closer] ends a socket that has a peer, as `ss -K` does:
// the program gets ECONNABORTED, and a TCP peer a reset. [Shut] takes from any other socket, through the process that
// holds it, the power to send.
//
//	TCP, connected UDP ──Destroy──▶ ECONNABORTED; the peer is gone, and of UDP the port
//	UDP, raw, ping     ──Shut─────▶ EPIPE for as long as the socket lives
//
// Both name the socket by its cookie too, which no other socket ever has: a port or a descriptor that was used again
// meanwhile is left alone.
package sockets

import (
	"errors"
	"fmt"
	"net/netip"
)

// ErrUnsupported means that the kernel cannot destroy sockets of that protocol: it was built without
// CONFIG_INET_DIAG_DESTROY, or has no module for the protocol (CONFIG_INET_TCP_DIAG, CONFIG_INET_UDP_DIAG).
var ErrUnsupported = errors.New("kernel cannot destroy sockets of this protocol")

// A Flow names one socket of the network namespace.
type Flow struct {
	// Protocol is the number of TCP (6) or of UDP (17).
	Protocol uint8
	// Local and Remote are as the socket has them: IPv4 addresses of an AF_INET socket, IPv6 addresses of an AF_INET6
	// socket, 4in6 addresses of an AF_INET6 socket that talks IPv4. Zones are not looked at.
	Local, Remote netip.AddrPort
	// Link is the index of the link that the socket is bound to, and 0 if it is bound to none.
	Link int
	// Cookie is the socket's SO_COOKIE, and 0 if that is not known.
	Cookie uint64
}

// String is for error messages.
func (f Flow) String() string {
	name := fmt.Sprintf("protocol %d", f.Protocol)
	switch f.Protocol {
	case 6:
		name = "tcp"
	case 17:
		name = "udp"
	}
	return fmt.Sprintf("%s %v > %v", name, f.Local, f.Remote)
}
