package route

import (
	"net/netip"
	"slices"

	"sidestep/internal/netmon"
)

// permitted returns the links that marked packets may use: all but tunnels.
//
// A link of a tunnel's kind is one even before it carries a default route, because the moment at which it gets one is
// the moment that counts. Whoever named the tunnels has said which links are none.
func (w *world) permitted(p Plan) []int {
	var all []int
	for _, l := range w.snap.Links {
		uplink := slices.Contains(p.Uplinks, w.iface(l.Index))
		named := slices.Contains(w.cfg.Tunnels, l.Name)
		unproven := tunnelKind(l.Kind) && len(w.cfg.Tunnels) == 0
		if uplink || !named && !unproven && !w.avoided[l.Index] {
			all = append(all, l.Index)
		}
	}
	return all
}

// closed returns the links that marked packets may not use: whatever is not permitted, but loopback.
func (w *world) closed(p Plan) []int {
	var all []int
	for _, l := range w.snap.Links {
		if !l.Loopback && !slices.Contains(p.Permitted, l.Index) {
			all = append(all, l.Index)
		}
	}
	return all
}

// outside returns the addresses that belong to an uplink and to no tunnel. A tunnel without an address has the
// uplink's as its rightful source, so there are none in a family in which no tunnel has one. While there is no tunnel
// the next one is taken for a numbered one.
func (w *world) outside(p Plan) []netip.Addr {
	if len(p.Tunnels) == 0 {
		return w.addresses(p.Uplinks, nil)
	}
	numbered := make(map[netmon.Family]bool)
	for _, a := range w.addresses(p.Tunnels, nil) {
		numbered[netmon.FamilyOf(a)] = true
	}
	return slices.DeleteFunc(w.addresses(p.Uplinks, p.Tunnels), func(a netip.Addr) bool {
		return !numbered[netmon.FamilyOf(a)]
	})
}

// addresses returns the addresses that some of these links have and none of those, each once. IPv6 link-local ones say
// nothing without their link, and are left out.
func (w *world) addresses(these, those []Iface) []netip.Addr {
	var all, others []netip.Addr
	for _, a := range w.snap.Addrs {
		addr, link := a.Prefix.Addr(), w.iface(a.Link)
		if addr.Is6() && addr.IsLinkLocalUnicast() {
			continue
		}
		if slices.Contains(these, link) {
			all = append(all, addr)
		}
		if slices.Contains(those, link) {
			others = append(others, addr)
		}
	}
	all = slices.DeleteFunc(all, func(a netip.Addr) bool { return slices.Contains(others, a) })
	slices.SortFunc(all, netip.Addr.Compare)
	return slices.Compact(all)
}
