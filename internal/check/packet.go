package check

import (
	"bytes"
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"
)

const (
	dnsPort   = 53
	dnsHeader = 12
	udpHeader = 8
	tcpHeader = 20
	ip6Header = 40
)

// payload is what a probe carries: its label, in a question where it is one. A label is all digits, so that a resolver
// that plays with upper and lower case passes it on as it is.
func payload(k Kind, label string) []byte {
	if k != DNS {
		return []byte(label)
	}
	b := []byte{label[len(label)-2], label[len(label)-1], 1, 0, 0, 1, 0, 0, 0, 0, 0, 0} // id, recursion desired, one question
	b = append(b, byte(len(label)))
	b = append(b, label...)
	b = append(b, "\x07example\x00"...) // a top level domain that nobody has: RFC 2606
	return append(b, 0, 1, 0, 1)        // type A, class IN
}

// labelAt is where the label is in the payload.
func labelAt(k Kind) int {
	if k == DNS {
		return dnsHeader + 1
	}
	return 0
}

// A packet is one that was seen to leave.
type packet struct {
	by       int // the interface's index
	proto    byte
	fromPort uint16
	to       netip.AddrPort
	payload  []byte
}

// parse reads an IP packet, as far as it matters here. ok is false for what no probe is.
func parse(b []byte) (p packet, ok bool) {
	if len(b) == 0 {
		return p, false
	}
	var rest []byte
	var to netip.Addr
	switch length := int(b[0]&0xf) * 4; {
	case b[0]>>4 == 4 && length >= 20 && len(b) >= length:
		p.proto, to, rest = b[9], netip.AddrFrom4([4]byte(b[16:20])), b[length:]
	case b[0]>>4 == 6 && len(b) >= ip6Header:
		p.proto, to, rest = b[6], netip.AddrFrom16([16]byte(b[24:40])), b[ip6Header:]
	default:
		return p, false
	}
	header := map[byte]int{unix.IPPROTO_UDP: udpHeader, unix.IPPROTO_TCP: tcpHeader}[p.proto]
	if header == 0 || len(rest) < header {
		return p, false
	}
	p.fromPort = binary.BigEndian.Uint16(rest)
	p.to = netip.AddrPortFrom(to, binary.BigEndian.Uint16(rest[2:]))
	p.payload = rest[header:]
	return p, true
}

// is reports whether a packet is the probe that was sent from a port. A datagram is known by what is in it, whatever
// became of its addresses on the way. A connection's first packet has nothing in it.
func (p packet) is(probe Probe, from uint16) bool {
	if probe.Kind == TCP {
		to := netip.AddrPortFrom(probe.To.Addr().WithZone(""), probe.To.Port())
		return p.proto == unix.IPPROTO_TCP && p.to == to && p.fromPort == from
	}
	at := labelAt(probe.Kind)
	return p.proto == unix.IPPROTO_UDP && len(p.payload) >= at && bytes.HasPrefix(p.payload[at:], []byte(probe.label))
}
