package lab

import (
	"fmt"
	"net/netip"
)

// A Direction is the way a packet took, seen from the machine.
type Direction uint8

// The zero value stands for any direction.
const (
	Received Direction = 1 + iota
	Sent
)

// A Family is the network protocol of a packet.
type Family uint8

// The zero value stands for any family. Other is everything that is not IP, such as ARP.
const (
	IPv4  Family = 4
	IPv6  Family = 6
	Other Family = 255
)

// Protocol numbers of the transports that the lab speaks.
const (
	ICMP   uint8 = 1
	IGMP   uint8 = 2
	TCP    uint8 = 6
	UDP    uint8 = 17
	ICMPv6 uint8 = 58
)

// A Flow counts the packets that had all of these in common. Src is the sender's side, whatever the direction.
// An ICMP message has its type in SrcPort and its code in DstPort.
type Flow struct {
	Direction        Direction
	Family           Family
	Proto            uint8
	Src, Dst         netip.Addr
	SrcPort, DstPort uint16

	Packets uint64 // as cut for the wire: a packet that segmentation offload left large counts as its segments
	Bytes   uint64 // from the IP header on, before it is cut
}

// Transport reports whether the flow is the tunnel's own, encrypted, on its way to or from the VPN server.
func (f Flow) Transport() bool {
	server := netip.MustParseAddr(VPN4)
	return f.Proto == UDP &&
		(f.Dst == server && f.DstPort == TransportPort || f.Src == server && f.SrcPort == TransportPort)
}

// Housekeeping reports whether the flow is the link's own and no program's: ARP, IGMP, or IPv6's neighbour, router
// and multicast listener discovery.
func (f Flow) Housekeeping() bool {
	discovery := f.SrcPort >= 130 && f.SrcPort <= 137 || f.SrcPort == 143 // RFC 2710, 4861, 3810
	return f.Family == Other || f.Proto == IGMP || f.Proto == ICMPv6 && discovery
}

// String returns the flow as one line of a table.
func (f Flow) String() string {
	way := "sent"
	if f.Direction == Received {
		way = "received"
	}
	return fmt.Sprintf("%s proto %d %v > %v: %d packets, %d bytes", way, f.Proto,
		netip.AddrPortFrom(f.Src, f.SrcPort), netip.AddrPortFrom(f.Dst, f.DstPort), f.Packets, f.Bytes)
}

// A Match selects flows. A zero field matches anything, so the zero Match selects all.
type Match struct {
	Direction        Direction
	Family           Family
	Proto            uint8
	Src, Dst         netip.Addr
	SrcPort, DstPort uint16

	// Payload leaves out the tunnel's own transport and the link's housekeeping: what remains, programs caused.
	Payload bool
}

// Has reports whether the match selects the flow.
func (m Match) Has(f Flow) bool {
	return fits(m.Direction, f.Direction) && fits(m.Family, f.Family) && fits(m.Proto, f.Proto) &&
		fits(m.Src, f.Src) && fits(m.Dst, f.Dst) && fits(m.SrcPort, f.SrcPort) && fits(m.DstPort, f.DstPort) &&
		!(m.Payload && (f.Transport() || f.Housekeeping()))
}

// fits reports whether want is the zero value, which stands for anything, or equals got.
func fits[T comparable](want, got T) bool {
	var anything T
	return want == anything || want == got
}

// Flows is what a wire had counted at one moment.
type Flows []Flow

// Count returns how many packets of the flows that m selects have passed.
func (fs Flows) Count(m Match) uint64 {
	var n uint64
	for _, f := range fs {
		if m.Has(f) {
			n += f.Packets
		}
	}
	return n
}

// Since returns what has passed since an earlier moment of the same wire.
func (fs Flows) Since(earlier Flows) Flows {
	before := make(map[Flow]Flow, len(earlier))
	for _, f := range earlier {
		before[f.key()] = f
	}
	var since Flows
	for _, f := range fs {
		was := before[f.key()]
		f.Packets -= was.Packets
		f.Bytes -= was.Bytes
		if f.Packets != 0 {
			since = append(since, f)
		}
	}
	return since
}

// key returns the flow without its counts.
func (f Flow) key() Flow {
	f.Packets, f.Bytes = 0, 0
	return f
}
