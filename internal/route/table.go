package route

import (
	"net/netip"
	"slices"

	"sidestep/internal/netmon"
)

// table returns what our table should hold for one family: what of main uses no tunnel.
func (w *world) table(fam netmon.Family) []netmon.Route {
	all := w.copies(fam, netmon.TableMain)
	if !slices.ContainsFunc(all, carriesDefault) {
		all = append(all, w.substitute(fam)...)
	}
	return tidy(all)
}

// copies returns what of a table our table should have.
func (w *world) copies(fam netmon.Family, table uint32) []netmon.Route {
	var all []netmon.Route
	for _, r := range w.routes {
		if r.Table != table || r.Family() != fam {
			continue
		}
		if c, ok := w.copyRoute(r); ok {
			all = append(all, c)
		}
	}
	return all
}

// copyRoute returns the route as our table should have it; ok is false if it should not.
func (w *world) copyRoute(r netmon.Route) (c netmon.Route, ok bool) {
	c = r
	c.Table, c.Protocol = w.cfg.Table, w.cfg.Protocol
	if r.From.IsValid() {
		if c.From, c.Src = (netip.Prefix{}), w.addressIn(r); !c.Src.IsValid() {
			return c, false
		}
	}
	switch r.Type {
	case netmon.Unicast, netmon.Local:
		c.Nexthops = w.usable(r)
		if len(c.Nexthops) == 0 || !r.Encap {
			return c, len(c.Nexthops) > 0
		}
		c.Type = netmon.Unreachable // we cannot say how to wrap, and unwrapped is not what was meant
	case netmon.Throw:
		c.Type = netmon.Unreachable // what it leaves to other tables leads to the tunnel
	case netmon.Blackhole, netmon.Unreachable, netmon.Prohibit:
		if wide(r.Dst) {
			return c, false // a VPN's kill switch, not meant for packets that go out beside the VPN
		}
	default:
		return c, false
	}
	return netmon.Route{
		Table: c.Table, Dst: c.Dst, Type: c.Type, Metric: c.Metric, Protocol: c.Protocol, TOS: c.TOS,
	}, c.Dst.Bits() > 0
}

// addressIn returns this machine's address on the route's link that is in the source prefix of the route. A route for
// some sources becomes one for all that says which source to take: sockets have none yet when they look for a route.
func (w *world) addressIn(r netmon.Route) netip.Addr {
	for _, a := range w.snap.Addrs {
		if r.From.Contains(a.Prefix.Addr()) && slices.Contains(outLinks(r), a.Link) {
			return a.Prefix.Addr()
		}
	}
	return netip.Addr{}
}

// usable returns the ways out that use no tunnel and lead somewhere, and for a default route only those by the named
// uplink.
func (w *world) usable(r netmon.Route) []netmon.Nexthop {
	var all []netmon.Nexthop
	for _, nh := range r.Nexthops {
		l, exists := w.links[nh.OIF]
		chosen := w.cfg.Uplink == "" || r.Dst.Bits() > 0 || l.Name == w.cfg.Uplink
		lost := leadsNowhere(l) && wide(r.Dst)
		if exists && l.Up && !nh.Dead && chosen && !lost && !w.avoided[nh.OIF] {
			all = append(all, nh)
		}
	}
	if len(all) == 1 {
		all[0].Weight = 1
	}
	return all
}

// tidy drops copies that came out the same, and makes one route of those that several IPv6 routers announced
// for one destination. In main these stand side by side and the kernel takes the preferred router that answers.
// Copies of them would become one multipath route as they are written, so that is what is planned: of the
// best preference, on one link.
func tidy(routes []netmon.Route) []netmon.Route {
	at := make(map[routeKey][]int, len(routes)) // the places of the routes with this key
	all := make([]netmon.Route, 0, len(routes))
	for _, r := range routes {
		key := keyOf(r)
		if slices.ContainsFunc(at[key], func(i int) bool { return absorb(&all[i], r) }) {
			continue
		}
		at[key] = append(at[key], len(all))
		all = append(all, r)
	}
	return all
}

// A routeKey is what the kernel takes for the same route, apart from where it leads.
type routeKey struct {
	dst    netip.Prefix
	metric uint32
	tos    uint8
}

func keyOf(r netmon.Route) routeKey { return routeKey{dst: r.Dst, metric: r.Metric, tos: r.TOS} }

// absorb makes the route stand for another one of the same key too, if it can.
func absorb(r *netmon.Route, o netmon.Route) bool {
	if r.Equal(o) {
		return true
	}
	if r.Family() != netmon.IPv6 || !routed(*r) || !routed(o) {
		return false
	}
	switch {
	case o.Pref > r.Pref:
		*r = o
	case o.Pref == r.Pref && o.Nexthops[0].OIF == r.Nexthops[0].OIF && o.Src == r.Src: // else the first
		r.Nexthops = union(r.Nexthops, o.Nexthops)
	}
	return true
}

// routed reports whether the route goes through routers.
func routed(r netmon.Route) bool {
	return r.Type == netmon.Unicast &&
		!slices.ContainsFunc(r.Nexthops, func(nh netmon.Nexthop) bool { return !nh.Gateway.IsValid() })
}

func union(a, b []netmon.Nexthop) []netmon.Nexthop {
	all := slices.Clone(a)
	for _, nh := range b {
		if !slices.Contains(all, nh) {
			all = append(all, nh)
		}
	}
	return all
}
