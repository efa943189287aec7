package route

import (
	"net/netip"
	"slices"
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

// closed returns the links that marked packets may not use: whatever is not permitted, but loopback, and but the ports of
// bridges and bonds, where no route leads.
func (w *world) closed(p Plan) []int {
	var all []int
	for _, l := range w.snap.Links {
		port := l.Master != 0 && w.links[l.Master].Kind != "vrf"
		if !l.Loopback && !port && !slices.Contains(p.Permitted, l.Index) {
			all = append(all, l.Index)
		}
	}
	return all
}

// sides sorts this machine's addresses: those on links that marked packets may use, those on the others, and what is on
// both. A tunnel without an address has the uplink's as its rightful source; with such a one no address tells a side.
func (w *world) sides(p Plan) (outside, inside, neutral []netip.Addr) {
	on := make(map[netip.Addr][2]bool) // a permitted link, a closed one
	numbered := len(p.Tunnels) == 0
	for _, a := range w.snap.Addrs {
		addr := a.Prefix.Addr()
		if w.links[a.Link].Loopback || addr.Is6() && addr.IsLinkLocalUnicast() { // which says nothing without its link
			continue
		}
		seen := on[addr]
		seen[map[bool]int{true: 0, false: 1}[slices.Contains(p.Permitted, a.Link)]] = true
		on[addr] = seen
		numbered = numbered || slices.Contains(p.Tunnels, w.iface(a.Link))
	}
	for addr, seen := range on {
		switch {
		case seen[0] && seen[1] || !numbered:
			neutral = append(neutral, addr)
		case seen[0]:
			outside = append(outside, addr)
		default:
			inside = append(inside, addr)
		}
	}
	for _, all := range [][]netip.Addr{outside, inside, neutral} {
		slices.SortFunc(all, netip.Addr.Compare)
	}
	return outside, inside, neutral
}
