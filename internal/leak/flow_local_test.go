package leak_test

import (
	"errors"
	"net"
	"net/netip"
	"strconv"
	"testing"

	"github.com/vishvananda/netlink"

	"sidestep/internal/lab"
	"sidestep/internal/lab/actor"
)

// TestLocalFlowsOutliveEveryChange is about what never leaves the house: the machine's own addresses, its LAN, and
// private networks behind a router of the LAN.
func TestLocalFlowsOutliveEveryChange(t *testing.T) {
	t.Parallel()
	r := newRig(t, lab.Options{})
	private := r.private()
	r.run()
	listed := r.install("listed")
	app, other := r.start(listed), r.start(r.install("other"))
	lan, host := r.elsewhere(r.world.Router), r.elsewhere(r.world.Internet)
	own := addrs("127.0.0.1", "::1", lab.Machine4, lab.Machine6, lab.Tunnel4, lab.Tunnel6)
	local := r.dial(app, other, own...)
	local = append(local, r.dial(other, app, own...)...)
	local = append(local, r.dial(app, app, own...)...)
	local = append(local, r.dial(app, lan, append(private, addrs(lab.LAN4, lab.LAN6)...)...)...)
	local = append(local, r.dial(lan, app, addrs(lab.Machine4, lab.Machine6)...)...)
	local = append(local, r.dialLinkLocal(app, lan)...)
	for _, to := range []side{outside, inside, outside, inside} {
		remote := r.dial(app, host, internet...)
		r.move(listed, to)
		for _, f := range local {
			f.lives("once its app is " + to.String())
			r.wantNothing(inside, f.port)
		}
		for _, f := range remote {
			f.wantCut("once its app is " + to.String())
		}
	}
	r.wantNoMixture()
}

func addrs(texts ...string) (as []netip.Addr) {
	for _, text := range texts {
		as = append(as, netip.MustParseAddr(text))
	}
	return as
}

// private makes a private network behind the router, and returns the addresses of a host there, who is the router.
func (r *rig) private() []netip.Addr {
	r.t.Helper()
	hosts := []string{"10.9.8.1/32", "fd09:8::1/128"}
	r.ok(r.world.Router.Do(func() error { return onLink("lo", func(l netlink.Link) error { return addAddrs(l, hosts) }) }))
	r.ok(r.world.Machine.Do(func() error {
		return onLink(lab.UplinkName, func(l netlink.Link) error {
			return errors.Join(
				addRoute(l, "10.9.8.0/24", lab.LAN4),
				addRoute(l, "fd09:8::/64", lab.LAN6))
		})
	}))
	return addrs("10.9.8.1", "fd09:8::1")
}

// onLink calls fn with a link of the calling thread's network namespace.
func onLink(name string, fn func(netlink.Link) error) error {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	return fn(l)
}

func addAddrs(l netlink.Link, texts []string) error {
	for _, text := range texts {
		a, err := netlink.ParseAddr(text)
		if err == nil {
			err = netlink.AddrAdd(l, a)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// addRoute adds a route to table main.
func addRoute(l netlink.Link, to, via string) error {
	_, dst, err := net.ParseCIDR(to)
	if err != nil {
		return err
	}
	return netlink.RouteAdd(&netlink.Route{Dst: dst, Gw: net.ParseIP(via), LinkIndex: l.Attrs().Index})
}

// dialLinkLocal opens flows to the router's link-local address.
func (r *rig) dialLinkLocal(near, far *actor.Actor) []*flow {
	r.t.Helper()
	index := r.index(lab.UplinkName)
	var at netip.Addr
	r.ok(r.world.Router.Do(func() error {
		return onLink("lan0", func(l netlink.Link) error {
			found, err := netlink.AddrList(l, netlink.FAMILY_V6)
			for _, a := range found {
				if a.IP.IsLinkLocalUnicast() {
					at = netip.AddrFrom16([16]byte(a.IP)).WithZone(strconv.Itoa(l.Attrs().Index))
				}
			}
			return err
		})
	}))
	to := at.WithZone(strconv.Itoa(index))
	return []*flow{r.openScoped(actor.TCP, near, far, to, at), r.openScoped(actor.UDPConnected, near, far, to, at)}
}

// index is the number of a link of the machine.
func (r *rig) index(link string) (index int) {
	r.t.Helper()
	r.ok(r.world.Machine.Do(func() error {
		return onLink(link, func(l netlink.Link) error {
			index = l.Attrs().Index
			return nil
		})
	}))
	return index
}
