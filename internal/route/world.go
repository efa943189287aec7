package route

import (
	"net/netip"
	"slices"

	"sidestep/internal/netmon"
)

// A world is a snapshot without what is ours in it, and what was found out about it.
type world struct {
	snap   netmon.Snapshot
	cfg    Config
	links  map[int]netmon.Link
	routes []netmon.Route
	rules  []netmon.Rule
	// tunnels are those that were named or found. avoided holds them and those found although others were
	// named: no route of ours uses one of these.
	tunnels []Iface
	avoided map[int]bool
	// heard are the ways that are there because the network said so.
	heard map[way]bool
	// wrappers carry a family over the other one, and are avoided, too.
	wrappers []Iface
	// doubtful are the ppp links taken for uplinks; guesses says what else was assumed to find an uplink.
	doubtful []Iface
	guesses  []string
}

func newWorld(snap netmon.Snapshot, cfg Config) *world {
	w := &world{snap: snap, cfg: cfg, links: make(map[int]netmon.Link), avoided: make(map[int]bool)}
	for _, l := range snap.Links {
		w.links[l.Index] = l
	}
	for _, r := range snap.Routes {
		if !cfg.ownsRoute(r) {
			w.routes = append(w.routes, r)
		}
	}
	for _, r := range snap.Rules {
		if !cfg.ownsRule(r) {
			w.rules = append(w.rules, r)
		}
	}
	w.hear()
	w.findTunnels()
	return w
}

func (w *world) iface(index int) Iface { return Iface{Index: index, Name: w.links[index].Name} }

// findTunnels fills in tunnels, avoided, wrappers and doubtful.
func (w *world) findTunnels() {
	for _, l := range w.snap.Links {
		named := slices.Contains(w.cfg.Tunnels, l.Name)
		found := !named && l.Name != w.cfg.Uplink && w.looksLikeTunnel(l)
		if !l.Up || !named && !found {
			continue
		}
		w.avoided[l.Index] = true
		if !named && w.wraps(l) {
			w.wrappers = append(w.wrappers, w.iface(l.Index))
			continue
		}
		if named || len(w.cfg.Tunnels) == 0 {
			w.tunnels = append(w.tunnels, w.iface(l.Index))
		}
	}
}

// looksLikeTunnel reports whether a link is of a kind that VPNs use and most of the internet is behind it.
func (w *world) looksLikeTunnel(l netmon.Link) bool {
	if !l.Up || !tunnelKind(l.Kind) || !w.carriesMost(l.Index, netmon.IPv4) && !w.carriesMost(l.Index, netmon.IPv6) {
		return false
	}
	if l.Kind == "ppp" && w.isDialUp(l.Index) {
		w.doubtful = append(w.doubtful, w.iface(l.Index))
		return false
	}
	return true
}

// tunnelKind reports whether VPNs use links of this kind. Links without a kind are hardware: modems too
// are point-to-point links, so flags say nothing.
func tunnelKind(kind string) bool {
	switch kind {
	case "wireguard", "amneziawg", "tun", "ovpn", "ovpn-dco", "ppp", "ipip", "ip6tnl", "sit", "gre", "gretap",
		"ip6gre", "ip6gretap", "vti", "vti6", "xfrm":
		return true
	}
	return false
}

// wraps reports whether a link carries one family over the other because the uplink has only that: 6in4, or the CLAT of
// 464XLAT with an address of its own range (RFC 7335). What it wraps leaves by the system's routes, so through the tunnel.
func (w *world) wraps(l netmon.Link) bool {
	clat := netip.MustParsePrefix("192.0.0.0/29")
	return l.Kind == "sit" || l.Kind == "tun" && slices.ContainsFunc(w.snap.Addrs, func(a netmon.Addr) bool {
		return a.Link == l.Index && clat.Contains(a.Prefix.Addr())
	})
}

// isDialUp reports whether a ppp link with a default route in main is a way to the internet (PPPoE, a modem), not
// something on top of one. What is on top has to send its own packets to its server beside itself, so there is a
// route to that; and its default route is better than those of ordinary links, or nothing would go through it.
func (w *world) isDialUp(index int) bool {
	sent := slices.ContainsFunc(slices.Concat(w.servers(netmon.IPv4), w.servers(netmon.IPv6)), func(r netmon.Route) bool {
		return r.Nexthops[0].OIF != index
	})
	for _, fam := range []netmon.Family{netmon.IPv4, netmon.IPv6} {
		own, holds := w.bestMetric(fam, func(oif int) bool { return oif == index })
		other, rival := w.bestMetric(fam, w.ordinary)
		if holds && (!sent || rival && other < own) {
			return true
		}
	}
	return false
}

// bestMetric returns that of the best default route in main by one of these links.
func (w *world) bestMetric(fam netmon.Family, these func(oif int) bool) (metric uint32, ok bool) {
	best, ok := bestDefault(slices.DeleteFunc(slices.Clone(w.routes), func(r netmon.Route) bool {
		return r.Table != netmon.TableMain || !slices.ContainsFunc(outLinks(r), these)
	}), fam)
	return best.Metric, ok
}

// carriesMost reports whether the routes of the tables that rules lead to send more than half of the
// addresses there are to the link: by a default route, by halves (OpenVPN's 0/1 and 128/1), or by the many
// pieces that WireGuard makes of "everything but private addresses".
func (w *world) carriesMost(index int, fam netmon.Family) bool {
	var dst []netip.Prefix
	for _, r := range w.routes {
		uses := r.Family() == fam && r.Type == netmon.Unicast &&
			slices.ContainsFunc(r.Nexthops, func(nh netmon.Nexthop) bool { return nh.OIF == index })
		if uses && w.reachable(r.Table, fam) {
			dst = append(dst, r.Dst)
		}
	}
	return coverage(dst) > wholeSpace/2
}

// reachable reports whether a rule leads to the table.
func (w *world) reachable(table uint32, fam netmon.Family) bool {
	return slices.ContainsFunc(w.rules, func(r netmon.Rule) bool {
		return r.Family == fam && r.Action == netmon.Lookup && r.Table == table
	})
}

// wholeSpace is the [coverage] of a default route.
const wholeSpace = uint64(1) << 32

// coverage returns how much of the space of addresses the prefixes hold together, in 1/wholeSpace. Of IPv6
// only 2000::/3 counts, where all global addresses are.
func coverage(dst []netip.Prefix) uint64 {
	var sum uint64
	for _, p := range outermost(dst) {
		sum += size(p)
	}
	return sum
}

func size(p netip.Prefix) uint64 {
	if p.Addr().Is4() {
		return wholeSpace >> p.Bits()
	}
	global := netip.PrefixFrom(netip.AddrFrom16([16]byte{0x20}), 3)
	switch {
	case !p.Overlaps(global):
		return 0
	case p.Bits() <= global.Bits():
		return wholeSpace
	}
	return wholeSpace >> (p.Bits() - global.Bits())
}

// wide reports whether half of all addresses are in the prefix, or more.
func wide(p netip.Prefix) bool { return size(p) >= wholeSpace/2 }

// carriesDefault reports whether the route sends everything somewhere.
func carriesDefault(r netmon.Route) bool {
	return r.Type == netmon.Unicast && r.Dst.Bits() == 0 && len(r.Nexthops) > 0
}
