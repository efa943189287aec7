package route

import (
	"cmp"
	"net/netip"
	"slices"

	"sidestep/internal/netmon"
)

// alwaysLocal returns what no router takes further than the networks of this place.
func alwaysLocal() []netip.Prefix {
	return parsePrefixes(
		"127.0.0.0/8",        // loopback (RFC 1122, section 3.2.1.3)
		"::1/128",            // loopback (RFC 4291, section 2.5.3)
		"169.254.0.0/16",     // link-local (RFC 3927)
		"fe80::/10",          // link-local (RFC 4291, section 2.5.6)
		"255.255.255.255/32", // everybody on the link (RFC 919)
		"224.0.0.0/24",       // multicast on the link (RFC 5771, section 4)
		"239.0.0.0/8",        // multicast that an administrator confines (RFC 2365)
		// Multicast that stays on the interface, on the link, on the site (RFC 7346), of well-known groups and, as
		// local peer discovery uses them, of transient ones (RFC 4291, section 2.7).
		"ff01::/16", "ff02::/16", "ff05::/16", "ff11::/16", "ff12::/16", "ff15::/16",
	)
}

// private returns the ranges that every site may use for itself.
func private() []netip.Prefix {
	return parsePrefixes(
		"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", // RFC 1918
		"100.64.0.0/10", // between a provider and its customers (RFC 6598)
		"fc00::/7",      // unique local (RFC 4193)
	)
}

func parsePrefixes(texts ...string) []netip.Prefix {
	all := make([]netip.Prefix, len(texts))
	for i, s := range texts {
		all[i] = netip.MustParsePrefix(s)
	}
	return outermost(all)
}

// local returns the destinations that count as local: those that always do, networks of private addresses that
// a route leads to, and what is on a link: by links that are permitted.
func (w *world) local(routes []netmon.Route, closed []int) []netip.Prefix {
	all, own := alwaysLocal(), private()
	for _, r := range routes {
		if slices.ContainsFunc(r.Nexthops, func(nh netmon.Nexthop) bool { return slices.Contains(closed, nh.OIF) }) {
			continue // the guard lets nobody go there
		}
		if r.Type == netmon.Unicast && len(r.Nexthops) > 0 && (within(r.Dst, own) || w.leadsToNeighbours(r)) {
			all = append(all, r.Dst)
		}
	}
	return outermost(all)
}

// hosts returns the single addresses that somebody at this machine gave a route to outside the tunnels, without those
// that are local.
func (w *world) hosts(local []netip.Prefix) []netip.Prefix {
	var all []netip.Prefix
	for _, r := range w.routes {
		if r.Table != netmon.TableMain || !r.Dst.IsSingleIP() || byItself(r.Protocol) || within(r.Dst, local) {
			continue
		}
		if c, ok := w.copyRoute(r); ok && c.Type == netmon.Unicast {
			all = append(all, r.Dst)
		}
	}
	return outermost(all)
}

// within reports whether one of the ranges, which are sorted and apart, holds all of the prefix.
func within(p netip.Prefix, ranges []netip.Prefix) bool {
	i, exact := slices.BinarySearchFunc(ranges, p.Addr(), func(r netip.Prefix, a netip.Addr) int {
		return r.Addr().Compare(a)
	})
	if !exact {
		i-- // the last that starts before
	}
	return i >= 0 && ranges[i].Bits() <= p.Bits() && ranges[i].Contains(p.Addr())
}

// outermost returns the prefixes masked, sorted, and without those that lie within others, so that all are apart.
func outermost(prefixes []netip.Prefix) []netip.Prefix {
	sorted := make([]netip.Prefix, len(prefixes))
	for i, p := range prefixes {
		sorted[i] = p.Masked()
	}
	slices.SortFunc(sorted, func(a, b netip.Prefix) int {
		return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
	})
	var all []netip.Prefix
	for _, p := range sorted { // prefixes are nested or apart
		if len(all) == 0 || !all[len(all)-1].Contains(p.Addr()) {
			all = append(all, p)
		}
	}
	return all
}
