package leak_test

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"sidestep/internal/doctor"
	"sidestep/internal/lab"
	"sidestep/internal/lab/actor"
)

// etherTypes are those of IPv4 and IPv6.
var etherTypes = [2]uint16{unix.ETH_P_IP, unix.ETH_P_IPV6}

// TestPacketSocketOfAnExcludedProgramLeadsNowhere is about packets that a program hands to the tunnel's link itself.
func TestPacketSocketOfAnExcludedProgramLeadsNowhere(t *testing.T) {
	t.Parallel()
	if err := doctor.Offers("tcx"); err != nil {
		t.Skipf("this kernel has no door for packets of packet sockets to pass: %v", err)
	}
	r := engaged(t)
	excluded, included := r.bothSides()
	tunnel := r.door(lab.TunnelName, inside)
	old := map[int]actor.Socket{}
	listed := r.install("later")
	later := r.start(listed)
	for _, typ := range []int{unix.SOCK_DGRAM, unix.SOCK_RAW} {
		old[typ] = r.packetSocket(later, typ)
	}
	for i, f := range speeches[:2] {
		for typ, name := range map[int]string{unix.SOCK_DGRAM: "SOCK_DGRAM", unix.SOCK_RAW: "SOCK_RAW"} {
			t.Run(f.name+", "+name, func(t *testing.T) {
				r := r.sub(t)
				if n := r.handOver(included, r.packetSocket(included, typ), tunnel, i); n != 1 {
					t.Errorf("%d packets of an included program are inside, want 1", n)
				}
				if n := r.handOver(later, old[typ], tunnel, i); n != 1 {
					t.Errorf("%d packets of a program that will be excluded are inside, want 1", n)
				}
				r.exclude(listed)
				for what, e := range map[string]end{
					"a packet socket":                {a: excluded, s: r.packetSocket(excluded, typ)},
					"one made before it is excluded": {a: later, s: old[typ]},
				} {
					if n := r.handOver(e.a, e.s, tunnel, i); n != 0 {
						t.Errorf("%s: %d packets of an excluded program are inside, want none", what, n)
					}
				}
				r.include(listed)
			})
		}
	}
}

func (r *rig) packetSocket(a *actor.Actor, typ int) actor.Socket {
	r.t.Helper()
	s, err := a.Syscall(r.ctx, unix.SYS_SOCKET, unix.AF_PACKET, typ, 0)
	r.ok(err)
	return actor.Socket(s)
}

// handOver has an actor hand an IP packet to a link, and returns how many got into the tunnel.
func (r *rig) handOver(a *actor.Actor, s actor.Socket, d door, i int) uint64 {
	r.t.Helper()
	packet := datagram(netip.AddrPortFrom(d.addrs[i], 9), netip.AddrPortFrom(nowhere[i], r.port()))
	r.settle()
	before := r.seen(nowhere[i])
	to := linkAddr(d.index, etherTypes[i], nil)
	// What comes of it is counted; the error says nothing.
	_, _ = a.Syscall(r.ctx, unix.SYS_SENDTO, int(s), packet, len(packet), 0, to, len(to))
	r.settle()
	return r.seen(nowhere[i]).inside - before.inside
}

// linkAddr is a struct sockaddr_ll.
func linkAddr(link int, protocol uint16, hardware []byte) []byte {
	sa := binary.NativeEndian.AppendUint16(nil, unix.AF_PACKET)
	sa = binary.BigEndian.AppendUint16(sa, protocol)
	sa = binary.NativeEndian.AppendUint32(sa, uint32(link))
	sa = append(sa, 0, 0, 0, byte(len(hardware)))
	return append(sa, append(hardware, make([]byte, 8-len(hardware))...)...)
}
