package route

import (
	"fmt"
	"slices"

	"sidestep/internal/netmon"
)

// substitute returns a default route for a family that has none in main outside the tunnels, and what its gateway is
// reached by: those of another table, or else one made of what a VPN left behind that took the place of the old one.
func (w *world) substitute(fam netmon.Family) []netmon.Route {
	if routes := w.elsewhere(fam); len(routes) > 0 {
		return routes
	}
	return w.inferred(fam)
}

// elsewhere returns the routes of the uplink that keeps its default route in another table: the named one, or the
// only one that rules lead to.
func (w *world) elsewhere(fam netmon.Family) []netmon.Route {
	var found, copies []netmon.Route
	for _, r := range w.routes {
		if r.Family() != fam || r.Table == netmon.TableMain || r.Table == w.cfg.Table || !carriesDefault(r) {
			continue
		}
		if c, ok := w.copyRoute(r); ok && (w.cfg.Uplink != "" || w.reachable(r.Table, fam)) {
			found, copies = append(found, r), append(copies, c)
		}
	}
	links := outLinks(copies...)
	switch {
	case len(found) == 0:
		return nil
	case len(found) > 1 && len(links) > 1:
		w.guess("%s have default routes for %s, none of them in main: name the one to use as the uplink",
			names(w.mentioned(copies)), fam)
		return nil
	case w.cfg.Uplink == "":
		w.guess("%s is taken for the %s uplink because of the default route in table %d; main has none outside the "+
			"tunnels", names(w.mentioned(copies)), fam, found[0].Table)
	}
	return slices.DeleteFunc(w.copies(fam, found[0].Table), func(r netmon.Route) bool {
		return r.Type != netmon.Unicast || slices.ContainsFunc(outLinks(r), func(index int) bool {
			return !slices.Contains(links, index)
		})
	})
}

// inferred returns a default route by the router that leads to the VPN's server, if a tunnel has taken the place of
// what was there: a client that replaces the default route tells by that route alone what it replaced.
func (w *world) inferred(fam netmon.Family) []netmon.Route {
	if !slices.ContainsFunc(w.snap.Links, func(l netmon.Link) bool {
		return w.avoided[l.Index] && w.carriesMost(l.Index, fam)
	}) {
		return nil
	}
	servers := slices.DeleteFunc(w.servers(fam), func(r netmon.Route) bool {
		l := w.links[r.Nexthops[0].OIF]
		return !routed(r) && !l.PointToPoint && l.Kind != "ppp" || w.avoided[l.Index] ||
			w.cfg.Uplink != "" && l.Name != w.cfg.Uplink
	})
	for _, r := range servers {
		if r.Nexthops[0] != servers[0].Nexthops[0] {
			w.guess("no %s default route is left outside the tunnels, and routes to %s and %s lead to different routers: "+
				"add one with a large metric", fam, servers[0].Dst.Addr(), r.Dst.Addr())
			return nil
		}
	}
	if len(servers) == 0 {
		return nil
	}
	server := servers[0].Dst.Addr()
	r, nh := servers[0], servers[0].Nexthops[0]
	r.Dst = fam.Default()
	by := ""
	if nh.Gateway.IsValid() {
		by = fmt.Sprintf(" by %s", nh.Gateway)
	}
	w.guess("%s%s is taken for the %s uplink because the route to %s goes there; no default route is left "+
		"outside the tunnels", w.links[nh.OIF].Name, by, fam, server)
	c, _ := w.copyRoute(r)
	return []netmon.Route{c}
}

// servers returns the routes to single hosts that somebody at this machine sent out beside the tunnels, by links that
// can be the way to the internet, dial-up ones included; not those to neighbours with a private address.
func (w *world) servers(fam netmon.Family) []netmon.Route {
	own := private()
	return slices.DeleteFunc(slices.Clone(w.routes), func(r netmon.Route) bool {
		return r.Family() != fam || r.Table != netmon.TableMain || r.Type != netmon.Unicast || !r.Dst.IsSingleIP() ||
			byItself(r.Protocol) || r.Encap || len(r.Nexthops) != 1 || r.Nexthops[0].Dead ||
			!w.ordinary(r.Nexthops[0].OIF) && !w.dialUp(r.Nexthops[0].OIF) || !routed(r) && within(r.Dst, own)
	})
}

// ordinary reports whether a link can be the way to the internet and is of no kind that VPNs use.
func (w *world) ordinary(index int) bool {
	l, exists := w.links[index]
	return exists && l.Up && !tunnelKind(l.Kind) && !leadsNowhere(l) && !slices.Contains(w.cfg.Tunnels, l.Name)
}

// dialUp reports whether a link is ppp, which may be a modem or a VPN.
func (w *world) dialUp(index int) bool {
	l, exists := w.links[index]
	return exists && l.Up && l.Kind == "ppp" && !slices.Contains(w.cfg.Tunnels, l.Name)
}

// leadsNowhere reports whether what a link is given is gone. A default route by such a link is a kill switch.
func leadsNowhere(l netmon.Link) bool { return l.Loopback || l.Kind == "dummy" }

// guess notes what the user may have to correct.
func (w *world) guess(format string, args ...any) {
	w.guesses = append(w.guesses, fmt.Sprintf(format, args...))
}
