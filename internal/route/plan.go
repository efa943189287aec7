package route

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"sidestep/internal/netmon"
)

// A Plan is a complete wish: what there should be for marked packets, and nothing else of ours.
type Plan struct {
	// Tunnels are those that exist and are up.
	Tunnels []Iface
	// Uplink4 and Uplink6 hold the best default route outside the tunnels; the zero Iface without one.
	Uplink4, Uplink6 Iface
	// Uplinks are all links with a default route in our table, the best and those that stand in for it.
	Uplinks []Iface
	// Permitted are the indexes of the links that marked packets may leave by and come by, Closed those of the others:
	// tunnels, and what may become one.
	Permitted, Closed []int
	// Outside are this machine's addresses on permitted links, Inside those on closed ones, Neutral those that tell no side.
	// Loopback and IPv6 link-local addresses are in none of them.
	Outside, Inside, Neutral []netip.Addr
	// Local are the destinations that count as local: those that always do (loopback, link-local, broadcast, local
	// multicast), those that need no router outside the tunnels, and private networks that our table has a route to.
	Local []netip.Prefix
	// Hosts are the single addresses that our table has a route to because somebody at this machine wished so, as VPN
	// clients do with their server; none that is in Local.
	Hosts []netip.Prefix

	Rules    []netmon.Rule
	Routes   []netmon.Route
	Sysctls  []Sysctl
	Warnings []string

	// Links names the links that Routes mention.
	Links []Iface
}

// An Iface is a network interface as a plan needs it.
type Iface struct {
	Index int
	Name  string
}

// A Sysctl is a file below /proc/sys and what should be in it.
type Sysctl struct{ Path, Value string }

// PlanFor returns the plan for a network and a configuration.
//
// It is pure. What [Actuator.Set] made of an earlier plan does not influence it, so that planning again after
// Set gives the same plan.
func PlanFor(snap netmon.Snapshot, cfg Config) Plan {
	w := newWorld(snap, cfg)
	p := Plan{Tunnels: w.tunnels}
	for _, fam := range []netmon.Family{netmon.IPv4, netmon.IPv6} {
		routes := w.table(fam)
		p.Routes = append(p.Routes, routes...)
		p.Rules = append(p.Rules, cfg.rules(fam, w.priority(fam))...)
	}
	p.Uplink4, p.Uplink6 = w.uplink(p.Routes, netmon.IPv4), w.uplink(p.Routes, netmon.IPv6)
	p.Uplinks = w.uplinks(p.Routes)
	p.Permitted = w.permitted(p)
	p.Closed = w.closed(p)
	p.Outside, p.Inside, p.Neutral = w.sides(p)
	p.Local = w.local(p.Routes, p.Closed)
	p.Hosts = w.hosts(p.Local)
	p.Links = w.mentioned(p.Routes)
	p.Sysctls = w.sysctls(p.Routes)
	p.Warnings = w.warnings(p)
	return p
}

// priority returns that of our first rule: the configured one, unless others would then come first.
func (w *world) priority(fam netmon.Family) uint32 {
	priority := w.cfg.Priority
	for _, r := range w.rules {
		if r.Family == fam && w.captures(r) && canPrecede(r) {
			priority = min(priority, r.Priority-2)
		}
	}
	return priority
}

// canPrecede reports whether there is room for our two rules before r and after "local".
func canPrecede(r netmon.Rule) bool { return r.Priority >= 3 }

// rules returns our rules of one family, the first of them with this priority.
func (c Config) rules(fam netmon.Family, priority uint32) []netmon.Rule {
	rule := netmon.Rule{
		Family: fam, Priority: priority, Action: netmon.Lookup, Table: c.Table,
		Mark: c.Mark(ExitOutside), Mask: c.Mask, SuppressPrefixLen: -1, Protocol: c.Protocol,
	}
	// A rule refuses, and not a last route of the table. An IPv6 lookup that meets a route just as it is deleted or
	// replaced answers "nothing here", whatever else the table holds, and the search goes on with the next rule:
	// without a second rule of ours, TestChangeHasNoGap sees the tunnel after some ten thousand changes. And others
	// can empty the table: `ip route flush`, systemd-networkd as it starts, lo going down. Besides, a route that is
	// unreachable says "no route to host", as if that host alone were missing; a rule says "network is unreachable".
	refuse := rule
	refuse.Priority, refuse.Action, refuse.Table = priority+1, netmon.RuleUnreachable, 0
	return []netmon.Rule{rule, refuse}
}

// uplink returns the link of the best default route.
func (w *world) uplink(routes []netmon.Route, fam netmon.Family) Iface {
	if best, ok := bestDefault(routes, fam); ok {
		return w.iface(best.Nexthops[0].OIF)
	}
	return Iface{}
}

func bestDefault(routes []netmon.Route, fam netmon.Family) (best netmon.Route, ok bool) {
	for _, r := range routes {
		if r.Family() == fam && carriesDefault(r) && (!ok || r.Metric < best.Metric) {
			best, ok = r, true
		}
	}
	return best, ok
}

func (w *world) uplinks(routes []netmon.Route) []Iface {
	return w.mentioned(slices.DeleteFunc(slices.Clone(routes), func(r netmon.Route) bool { return !carriesDefault(r) }))
}

// mentioned returns the links that the routes go out by.
func (w *world) mentioned(routes []netmon.Route) []Iface {
	var all []Iface
	for _, index := range outLinks(routes...) {
		all = append(all, w.iface(index))
	}
	return all
}

// outLinks returns the indexes of the links that the routes go out by, in order and each once.
func outLinks(routes ...netmon.Route) []int {
	seen := make(map[int]bool)
	for _, r := range routes {
		for _, nh := range r.Nexthops {
			seen[nh.OIF] = true
		}
	}
	all := make([]int, 0, len(seen))
	for index := range seen {
		all = append(all, index)
	}
	slices.Sort(all)
	return all
}

// sysctls returns rp_filter for the links of the IPv4 uplink.
//
// A strict reverse path filter asks the table that unmarked packets use where the sender is. The answer is
// the tunnel, so it drops every reply that comes back by the uplink; a loose one is content. The value in
// force is the larger of the link's and "all". A link that is loose already is wished so again, for it may be
// us who made it so.
func (w *world) sysctls(routes []netmon.Route) []Sysctl {
	const strict, loose = 1, 2
	best, _ := bestDefault(routes, netmon.IPv4)
	var all []Sysctl
	for _, index := range outLinks(best) {
		l := w.links[index]
		if l.RPFilter == loose || max(l.RPFilter, w.snap.RPFilterAll) == strict {
			all = append(all, Sysctl{Path: "net/ipv4/conf/" + l.Name + "/rp_filter", Value: fmt.Sprint(loose)})
		}
	}
	return all
}

// String writes the plan the way `ip rule` and `ip route` do, a fact on each line. What always counts as local is left
// out.
func (p Plan) String() string {
	var b strings.Builder
	for _, t := range p.Tunnels {
		fmt.Fprintf(&b, "tunnel %s\n", t.Name)
	}
	if p.Uplink4.Name != "" {
		fmt.Fprintf(&b, "uplink ipv4 %s\n", p.Uplink4.Name)
	}
	if p.Uplink6.Name != "" {
		fmt.Fprintf(&b, "uplink ipv6 %s\n", p.Uplink6.Name)
	}
	for _, a := range p.Outside {
		fmt.Fprintf(&b, "outside %s\n", a)
	}
	for _, a := range p.Inside {
		fmt.Fprintf(&b, "inside %s\n", a)
	}
	always := alwaysLocal()
	for _, l := range p.Local {
		if !slices.Contains(always, l) {
			fmt.Fprintf(&b, "local %s\n", l)
		}
	}
	for _, h := range p.Hosts {
		fmt.Fprintf(&b, "host %s\n", h.Addr())
	}
	for _, r := range p.Rules {
		fmt.Fprintf(&b, "rule %s\n", r)
	}
	for _, r := range p.Routes {
		fmt.Fprintf(&b, "route %s\n", r.Text(namer(p.Links)))
	}
	for _, s := range p.Sysctls {
		fmt.Fprintf(&b, "sysctl %s = %s\n", s.Path, s.Value)
	}
	for _, w := range p.Warnings {
		fmt.Fprintf(&b, "warning %s\n", w)
	}
	return b.String()
}

// namer returns the name of a link by its index.
func namer(links []Iface) func(int) string {
	return func(index int) string {
		for _, l := range links {
			if l.Index == index {
				return l.Name
			}
		}
		return fmt.Sprintf("if%d", index)
	}
}
