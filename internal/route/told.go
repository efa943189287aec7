package route

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"sidestep/internal/netmon"
)

// Routes that tell of where they come from (include/uapi/linux/rtnetlink.h).
const (
	protoRedirect = 1
	protoKernel   = 2
	protoRouter   = 9
	protoDHCP     = 16
)

// byItself reports whether a route of this protocol is there without anybody's wish: the kernel made it, or a
// router or DHCP server told of it. Whoever runs a network must not decide which hosts are spared the tunnel.
func byItself(protocol uint8) bool { return protocol == protoKernel || told(protocol) }

// told reports whether a route of this protocol is there because somebody on the network said so.
func told(protocol uint8) bool {
	return protocol == protoRedirect || protocol == protoRouter || protocol == protoDHCP
}

// leadsToNeighbours reports whether what the route leads to is on the link. Point-to-point links, tunnels among them,
// have no hosts on them, only what is behind them. Where somebody on the network says what is on the link, this machine
// has to be there, too: else any network could be called the neighbourhood.
func (w *world) leadsToNeighbours(r netmon.Route) bool {
	return w.onLink(r) && !vast(r.Dst) && (!w.hearsay(r) || w.numberedIn(r))
}

// hearsay reports whether there is a route to the same place by the same link that the network has told of, and no other.
// It is asked of copies, which have our protocol.
func (w *world) hearsay(r netmon.Route) bool {
	return slices.ContainsFunc(r.Nexthops, func(nh netmon.Nexthop) bool { return w.heard[way{r.Dst, nh.OIF}] })
}

// A way is a destination, and a link that a route to it goes by.
type way struct {
	dst  netip.Prefix
	link int
}

// hear finds the ways that only routes lead to of which the network has told.
func (w *world) hear() {
	w.heard = make(map[way]bool)
	for _, r := range w.routes {
		for _, nh := range r.Nexthops {
			at := way{r.Dst, nh.OIF}
			before, known := w.heard[at]
			w.heard[at] = told(r.Protocol) && (before || !known)
		}
	}
}

// vast reports whether a network is larger than any that neighbours share, so that it is the internet even if no router is
// named: a former class B of IPv4, a site of IPv6 (RFC 6177).
func vast(p netip.Prefix) bool {
	const largest4, largest6 = 16, 48
	return p.Bits() < map[bool]int{true: largest4, false: largest6}[p.Addr().Is4()]
}

// onLink reports whether the route needs no router, and that is no wonder.
func (w *world) onLink(r netmon.Route) bool {
	return !slices.ContainsFunc(r.Nexthops, func(nh netmon.Nexthop) bool {
		l := w.links[nh.OIF]
		return nh.Gateway.IsValid() || l.PointToPoint || tunnelKind(l.Kind)
	})
}

// numberedIn reports whether this machine has an address in the network, or the network is part of one that it is in, on
// each link that the route leads to.
func (w *world) numberedIn(r netmon.Route) bool {
	return !slices.ContainsFunc(r.Nexthops, func(nh netmon.Nexthop) bool {
		return !slices.ContainsFunc(w.snap.Addrs, func(a netmon.Addr) bool {
			return a.Link == nh.OIF && (r.Dst.Contains(a.Prefix.Addr()) || !vast(a.Prefix) && r.Dst.Overlaps(a.Prefix))
		})
	})
}

// networkWarnings names what whoever runs a network, or poses as that, has taken out of the tunnel: with a route that is
// more specific than the VPN's (known as TunnelVision), or with an immense neighbourhood (known as TunnelCrack).
func (w *world) networkWarnings(p Plan) []string {
	if len(p.Tunnels) == 0 {
		return nil
	}
	sent, claimed := make(map[Iface][]netmon.Route), make(map[Iface][]netmon.Route)
	routers := w.routers()
	for _, r := range w.routes {
		if r.Table != netmon.TableMain || r.Type != netmon.Unicast || r.Dst.Bits() == 0 || !w.outside(r, p) ||
			within(r.Dst, private()) || within(r.Dst, alwaysLocal()) {
			continue
		}
		link := w.iface(r.Nexthops[0].OIF)
		switch {
		case told(r.Protocol) && !(w.onLink(r) && (w.numberedIn(r) || r.Dst.IsSingleIP() && routers[r.Dst.Addr()])):
			sent[link] = append(sent[link], r)
		case byItself(r.Protocol) && w.onLink(r) && vast(r.Dst):
			claimed[link] = append(claimed[link], r)
		}
	}
	const wayOut = "included programs may go there outside; strict = true stops them"
	return slices.Concat(
		eachLink(sent, "the network at %s sends %s past the tunnel, by DHCP or as a router: "+wayOut),
		eachLink(claimed, "the network at %s says that %s is on the link, too much to be local: "+wayOut))
}

// routers returns the addresses that routes go through. A DHCP client may add a route to one of these alone.
func (w *world) routers() map[netip.Addr]bool {
	all := make(map[netip.Addr]bool)
	for _, r := range w.routes {
		for _, nh := range r.Nexthops {
			all[nh.Gateway] = true
		}
	}
	return all
}

// outside reports whether the route leads to links that are no tunnels, and lead somewhere.
func (w *world) outside(r netmon.Route, p Plan) bool {
	return len(r.Nexthops) > 0 && !slices.ContainsFunc(r.Nexthops, func(nh netmon.Nexthop) bool {
		return !slices.Contains(p.Permitted, nh.OIF) || leadsNowhere(w.links[nh.OIF])
	})
}

// eachLink writes a text for each link, with its name and the first of its routes.
func eachLink(of map[Iface][]netmon.Route, format string) []string {
	var all []string
	for link, routes := range of {
		what := routes[0].Dst.String()
		if n := len(routes) - 1; n > 0 {
			what += fmt.Sprintf(" and %d more", n)
		}
		all = append(all, fmt.Sprintf(format, link.Name, what))
	}
	slices.SortFunc(all, cmp.Compare[string])
	return all
}
