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

// outsideAddresses returns the addresses of this machine that belong to an uplink and to no tunnel.
func (w *world) outsideAddresses(p Plan) []netip.Addr {
	on := make(map[netip.Addr]bool) // true: on an uplink only
	for _, a := range w.snap.Addrs {
		uplink := slices.Contains(p.Uplinks, w.iface(a.Link))
		if before, seen := on[a.Prefix.Addr()]; seen {
			uplink = uplink && before
		}
		on[a.Prefix.Addr()] = uplink
	}
	var all []netip.Addr
	for a, uplink := range on {
		if uplink {
			all = append(all, a)
		}
	}
	slices.SortFunc(all, netip.Addr.Compare)
	return all
}
