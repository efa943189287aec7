package leak_test

import (
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"sidestep"
	"sidestep/internal/lab"
)

// A lure is a route by which a network takes traffic out of the tunnel: its DHCP server or router tells of it, or whoever
// poses as one.
type lure struct {
	name     string
	to, via  string
	protocol netlink.RouteProtocol
	at       func(port uint16) netip.AddrPort
}

var lures = []lure{
	{"a route by DHCP", "203.0.113.0/24", lab.LAN4, unix.RTPROT_DHCP, internet4},
	{"a route by router advertisement", "2001:db8:99::/64", lab.LAN6, unix.RTPROT_RA, internet6},
	{"a neighbour by DHCP", lab.Internet4 + "/32", "", unix.RTPROT_DHCP, internet4},
}

// TestNetworkThatLuresIncludedProgramsIsNamedAndStrictModeHolds is about the attacks that are known as TunnelVision and
// TunnelCrack. Without strict mode it is the VPN client's part to resist.
func TestNetworkThatLuresIncludedProgramsIsNamedAndStrictModeHolds(t *testing.T) {
	t.Parallel()
	r := newRig(t, lab.Options{})
	e, _ := r.engage(sidestep.Options{})
	excluded, included := r.bothSides()
	r.ok(r.world.Router.Do(func() error { return setSysctl("ipv4/conf/lan0/proxy_arp", "1") })) // the neighbour answers
	warned := func() bool { return strings.Contains(strings.Join(r.status().Warnings, "\n"), "past the tunnel") }
	for _, l := range lures {
		if warned() {
			t.Errorf("%s: warned of before it is there", l.name)
		}
		_, dst, err := net.ParseCIDR(l.to)
		r.ok(err)
		lured := &netlink.Route{Dst: dst, Gw: net.ParseIP(l.via), Protocol: l.protocol}
		if l.via == "" {
			lured.Scope = netlink.SCOPE_LINK
		}
		r.ok(r.world.Machine.Do(func() error {
			return onLink(lab.UplinkName, func(uplink netlink.Link) error {
				lured.LinkIndex = uplink.Attrs().Index
				return netlink.RouteAdd(lured)
			})
		}))
		r.wait("a warning of "+l.name, warned)
		port := r.port()
		r.ok(included.Send(r.ctx, l.at(port), each))
		r.wantSide(l.name+", not strict: the sensor", port, outside, each)

		r.setStrict(e, true)
		port = r.port()
		_ = included.Send(r.ctx, l.at(port), each) // refused, and counted
		r.wantNothing(outside, port)
		r.goes(excluded, outside, l.name+": an excluded program")
		r.setStrict(e, false)
		r.ok(r.world.Machine.Do(func() error { return netlink.RouteDel(lured) }))
		r.wait("no warning any more", func() bool { return !warned() })
		r.goes(included, inside, l.name+", gone")
	}
}
