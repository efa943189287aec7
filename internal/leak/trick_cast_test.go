package leak_test

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"slices"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"sidestep/internal/lab"
	"sidestep/internal/lab/actor"
)

// TestNoDestinationLeadsExcludedProgramsIntoTheTunnel is about addresses that belong to the tunnel's link, or to all
// links: broadcasts, groups, neighbours.
func TestNoDestinationLeadsExcludedProgramsIntoTheTunnel(t *testing.T) {
	t.Parallel()
	r := newRig(t, lab.Options{})
	r.run()
	excluded, included := r.bothSides()
	tunnel := r.door(lab.TunnelName, inside)
	udp := kind{name: "UDP", typ: unix.SOCK_DGRAM, send: (*try).sendTo}
	group := way{name: "IP_MULTICAST_IF", prepare: (*try).groupLink}
	groupAddr := way{name: "IP_MULTICAST_IF with the address", prepare: (*try).groupAddr}
	device := way{name: "SO_BINDTODEVICE", prepare: (*try).bindToDevice}
	broadcast := way{name: "SO_BROADCAST", prepare: (*try).broadcast}
	onTunnel := "%" + strconv.Itoa(tunnel.index)
	for _, c := range []struct {
		to   string
		ways []way
	}{
		{"255.255.255.255", []way{broadcast}},
		{"10.64.0.255", []way{broadcast}},
		{lab.TunnelHost4, []way{plain, device}},
		{lab.TunnelHost6, []way{plain, device}},
		{"224.0.0.251", []way{plain, group, groupAddr, device}},
		{"239.1.2.3", []way{plain, group, groupAddr, device}},
		{"ff02::fb" + onTunnel, []way{plain, group, device}},
		{"ff05::c", []way{group, device}},
		{"ff0e::101", []way{group, device}},
		{"fe80::77" + onTunnel, []way{plain, device}},
	} {
		to := netip.MustParseAddr(c.to)
		f := speeches[to.BitLen()/128]
		for _, w := range c.ways {
			t.Run(c.to+", "+w.name, func(t *testing.T) {
				r := r.sub(t)
				r.try(included, tunnel, f, to, udp, w).wantInside(t, udp)
				r.try(excluded, tunnel, f, to, udp, w).wantNotInside(t)
			})
		}
	}
}

func (t *try) broadcast() error {
	on := binary.NativeEndian.AppendUint32(nil, 1)
	return t.a.SetSocketOption(t.ctx, t.s, unix.SOL_SOCKET, unix.SO_BROADCAST, on)
}

// groupLink names the door's link for what is sent to groups.
func (t *try) groupLink() error {
	index := binary.NativeEndian.AppendUint32(nil, uint32(t.by.index))
	mreqn := append(make([]byte, 8), index...)
	if t.i == 0 {
		return t.a.SetSocketOption(t.ctx, t.s, unix.SOL_IP, unix.IP_MULTICAST_IF, mreqn)
	}
	return t.a.SetSocketOption(t.ctx, t.s, unix.SOL_IPV6, unix.IPV6_MULTICAST_IF, index)
}

// groupAddr names the door's address, which IPv4 can.
func (t *try) groupAddr() error {
	return t.a.SetSocketOption(t.ctx, t.s, unix.SOL_IP, unix.IP_MULTICAST_IF, t.by.addrs[0].AsSlice())
}

// TestExcludedProgramsJoinNoGroupInTheTunnel is about the reports that the kernel sends for whoever joins a group.
func TestExcludedProgramsJoinNoGroupInTheTunnel(t *testing.T) {
	t.Parallel()
	r := newRig(t, lab.Options{})
	r.ok(r.world.Machine.Do(func() error { // of these versions a report goes to the group that it is about
		return errors.Join(
			setSysctl("ipv4/conf/all/force_igmp_version", "2"),
			setSysctl("ipv6/conf/all/force_mld_version", "1"))
	}))
	r.run()
	excluded, included := r.bothSides()
	tunnel := r.index(lab.TunnelName)
	for _, c := range []struct {
		name string
		join func(r *rig, a *actor.Actor) lab.Match
	}{
		{"IPv4, by no link", func(r *rig, a *actor.Actor) lab.Match { return r.join4(a, 0) }}, // the kernel asks its routes
		{"IPv4, by the tunnel", func(r *rig, a *actor.Actor) lab.Match { return r.join4(a, tunnel) }},
		{"IPv6, by the tunnel", func(r *rig, a *actor.Actor) lab.Match { return r.join6(a, tunnel) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := r.sub(t)
			sensor := c.join(r, included)
			r.wait("the report of an included program's join", func() bool { return r.inside(sensor) > 0 })
			secret, later := c.join(r, excluded), c.join(r, included)
			r.wait("the report of a later join", func() bool { return r.inside(later) > 0 })
			if n := r.inside(secret); n != 0 {
				t.Errorf("%d reports of an excluded program's join are inside", n)
			}
		})
	}
}

// join4 joins a new group over IPv4, and returns what selects the reports of it.
func (r *rig) join4(a *actor.Actor, link int) lab.Match {
	r.t.Helper()
	group := []byte{239, 1, 0, 0}
	binary.BigEndian.PutUint16(group[2:], r.port())
	mreqn := binary.NativeEndian.AppendUint32(append(slices.Clone(group), 0, 0, 0, 0), uint32(link))
	return r.join(a, group, unix.SOL_IP, unix.IP_ADD_MEMBERSHIP, mreqn)
}

// join6 is join4 over IPv6.
func (r *rig) join6(a *actor.Actor, link int) lab.Match {
	r.t.Helper()
	group := netip.MustParseAddr("ff05::1:0").AsSlice()
	binary.BigEndian.PutUint16(group[14:], r.port())
	mreq := binary.NativeEndian.AppendUint32(slices.Clone(group), uint32(link))
	return r.join(a, group, unix.SOL_IPV6, unix.IPV6_ADD_MEMBERSHIP, mreq)
}

// join asks the kernel to join a group. Whether it lets an excluded program is all the same.
func (r *rig) join(a *actor.Actor, group []byte, level, option int, value []byte) lab.Match {
	r.t.Helper()
	addr, _ := netip.AddrFromSlice(group)
	s, err := a.Socket(r.ctx, netip.AddrPortFrom(addr, 0), unix.SOCK_DGRAM)
	r.ok(err)
	_ = a.SetSocketOption(r.ctx, s, level, option, value)
	return lab.Match{Direction: lab.Sent, Dst: addr}
}
