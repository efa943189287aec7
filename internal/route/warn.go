package route

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"sidestep/internal/netmon"
)

// warnings says what the user may want to change, most urgent first.
func (w *world) warnings(p Plan) []string {
	return slices.Concat(w.uplinkWarnings(p), w.tunnelWarnings(p), w.policyWarnings(), w.networkWarnings(p),
		w.reachWarnings(p), w.ruleWarnings(), w.routeWarnings())
}

func (w *world) uplinkWarnings(p Plan) []string {
	var all []string
	name := w.cfg.Uplink
	if _, exists := w.snap.LinkByName(name); name != "" && !exists {
		all = append(all, fmt.Sprintf("uplink %s does not exist", name))
	}
	if p.Uplink4.Index == 0 && p.Uplink6.Index == 0 {
		all = append(all, "no default route outside a tunnel: excluded programs reach the local network at most")
	}
	for _, l := range p.Uplinks {
		if master := w.links[w.links[l.Index].Master]; master.Kind == "vrf" {
			all = append(all, fmt.Sprintf("uplink %s belongs to VRF %s: excluded programs get no replies by it unless "+
				"net.ipv4.tcp_l3mdev_accept and net.ipv4.udp_l3mdev_accept are set", l.Name, master.Name))
		}
	}
	return append(all, w.guesses...)
}

func (w *world) tunnelWarnings(p Plan) []string {
	var all []string
	for _, name := range w.cfg.Tunnels {
		switch l, exists := w.snap.LinkByName(name); {
		case !exists:
			all = append(all, fmt.Sprintf("tunnel %s does not exist", name))
		case !l.Up:
			all = append(all, fmt.Sprintf("tunnel %s is down", name))
		}
	}
	if len(w.cfg.Tunnels) == 0 && len(w.tunnels) > 1 {
		all = append(all, fmt.Sprintf("%d tunnels found: %s; if one is not a VPN's, name those that are",
			len(w.tunnels), names(w.tunnels)))
	}
	for _, l := range w.wrappers {
		all = append(all, fmt.Sprintf("%s carries one family over the other, and what it wraps would go into the tunnel: "+
			"excluded programs do not use it, and may lack that family; if it is a VPN's, name it as a tunnel", l.Name))
	}
	for _, l := range w.snap.Links {
		if w.avoided[l.Index] && !slices.Contains(w.wrappers, w.iface(l.Index)) && !slices.Contains(w.tunnels, w.iface(l.Index)) {
			all = append(all, fmt.Sprintf("%s looks like a tunnel but is not named as one: it is not used for "+
				"excluded programs unless it is named as the uplink", l.Name))
		}
	}
	for _, l := range w.doubtful {
		if len(w.tunnels) == 0 && (l == p.Uplink4 || l == p.Uplink6) {
			all = append(all, fmt.Sprintf("%s is taken for the uplink because no route leads to a VPN's server beside it; "+
				"if it is a VPN's, name it as the tunnel", l.Name))
		}
	}
	return all
}

// policyWarnings speaks of tunnels that are none for us, because they have no link of their own.
func (w *world) policyWarnings() []string {
	var all []string
	for _, fam := range []netmon.Family{netmon.IPv4, netmon.IPv6} {
		var dst []netip.Prefix
		for _, p := range w.snap.Policies {
			if netmon.FamilyOf(p.Dst.Addr()) == fam && p.Interface == 0 && p.Mark == 0 {
				dst = append(dst, p.Dst)
			}
		}
		if coverage(dst) > wholeSpace/2 {
			all = append(all, fmt.Sprintf("IPsec policies without an interface take most of %s: their packets leave by the "+
				"uplink's link and cannot be told apart there, so this is not treated as a tunnel; "+
				"give them an XFRM interface (strongSwan: if_id_in and if_id_out)", fam))
		}
	}
	return all
}

// reachWarnings names the links that our table leads to although marked packets may not use them.
func (w *world) reachWarnings(p Plan) []string {
	always := alwaysLocal()
	far := slices.DeleteFunc(slices.Clone(p.Routes), func(r netmon.Route) bool { return within(r.Dst, always) })
	var all []string
	for _, l := range w.mentioned(far) {
		if !slices.Contains(p.Permitted, l.Index) {
			all = append(all, fmt.Sprintf("%s is of a kind that VPNs use, so excluded programs do not use it for the networks "+
				"that it has routes to; to let them, name the tunnels without it", l.Name))
		}
	}
	return all
}

func names(links []Iface) string {
	all := make([]string, len(links))
	for i, l := range links {
		all[i] = l.Name
	}
	return strings.Join(all, ", ")
}

// ruleWarnings names the rules of others that share our numbers or come before us.
func (w *world) ruleWarnings() []string {
	var all []string
	for _, r := range w.rules {
		switch {
		case w.sharesMark(r):
			all = append(all, fmt.Sprintf("rule %q%s uses bits of a mark that are ours (%#x)",
				r, owner(r), w.cfg.Mask))
		case r.Action == netmon.Lookup && r.Table == w.cfg.Table:
			all = append(all, fmt.Sprintf("rule %q%s uses our table", r, owner(r)))
		case r.Action == netmon.Lookup && r.Table == netmon.TableLocal && r.Priority >= w.cfg.Priority:
			all = append(all, fmt.Sprintf("rule %q%s comes after ours (%d): excluded programs cannot reach "+
				"this machine's own addresses; choose a higher priority", r, owner(r), w.cfg.Priority))
		case w.captures(r) && !canPrecede(r):
			all = append(all, fmt.Sprintf("rule %q%s comes before any that we could add, and can take packets of "+
				"excluded programs", r, owner(r)))
		}
	}
	return all
}

// sharesMark reports whether the rule looks at our bits: at some of them, or at whole marks in which they are set.
func (w *world) sharesMark(r netmon.Rule) bool {
	if r.Mask == ^uint32(0) {
		return r.Mark&w.cfg.Mask != 0
	}
	return r.Mask&w.cfg.Mask != 0
}

// captures reports whether the rule would decide about a marked packet that a program here sends, before rules of
// ours with the configured priorities do.
func (w *world) captures(r netmon.Rule) bool {
	if r.Priority > w.cfg.Priority+1 || r.IIF != "" && r.IIF != "lo" || r.Action == netmon.Nop {
		return false
	}
	mark := w.cfg.Mark(ExitOutside)
	marked := mark&r.Mask == r.Mark&r.Mask
	onlyMark := !r.Src.IsValid() && !r.Dst.IsValid() && r.IIF == "" && r.OIF == "" && !r.Narrow && !r.L3MDev
	switch {
	case !r.Invert && !marked, r.Invert && marked && onlyMark:
		return false
	case r.Action == netmon.Lookup && !r.L3MDev:
		return r.Table != netmon.TableLocal && w.answers(r)
	}
	return true
}

// answers reports whether the rule's table holds a route that the rule would use.
func (w *world) answers(r netmon.Rule) bool {
	return slices.ContainsFunc(w.routes, func(o netmon.Route) bool {
		return o.Table == r.Table && o.Family() == r.Family && o.Type != netmon.Throw &&
			o.Dst.Bits() > r.SuppressPrefixLen
	})
}

// routeWarnings says who else writes to our table; one route of each will do.
func (w *world) routeWarnings() []string {
	var all []string
	seen := make(map[uint8]bool)
	for _, r := range w.routes {
		if r.Table == w.cfg.Table && !seen[r.Protocol] {
			seen[r.Protocol] = true
			text := r.Text(func(index int) string { return w.links[index].Name })
			all = append(all, fmt.Sprintf("route %q in our table is not ours", text))
		}
	}
	return all
}

// owner returns " (of NAME)" for a rule with numbers that a well-known program uses, and nothing for others.
func owner(r netmon.Rule) string {
	if name := knownMark(r.Mark, r.Mask); name != "" {
		return " (of " + name + ")"
	}
	if name := knownRule(r.Priority, r.Table); name != "" {
		return " (of " + name + ")"
	}
	return ""
}

// knownMark says whose mark it is, by linux-peers.md section 4.
func knownMark(mark, mask uint32) string {
	switch {
	case mask == 0:
		return ""
	case mark == 0x6d6f6c65:
		return "Mullvad"
	case mark == 0xdecafbad:
		return "Windscribe"
	case mark == 0xca6c:
		return "WireGuard"
	case mark == 0x0ea13b2c:
		return "Proton VPN"
	case mark == 0xe1f1:
		return "NordVPN"
	case mark >= 0x3211 && mark <= 0x3214:
		return "PIA or Amnezia"
	case mark >= 0x1bd00 && mark <= 0x1bdff:
		return "NetBird"
	case mask == 0xff0000:
		return "Tailscale"
	case mask == 0xffff0000:
		return "Calico"
	case mask == 0xf00:
		return "Cilium"
	}
	return ""
}

// knownRule says whose rule it is by its numbers.
func knownRule(priority, table uint32) string {
	switch {
	case table == 52:
		return "Tailscale"
	case table == 220:
		return "strongSwan"
	case table == 7120:
		return "NetBird"
	case table == 51820:
		return "WireGuard"
	case table == 2004 || table == 2005 || priority == 1 || priority == 9 || priority == 20:
		return "Cilium"
	case priority == 50 || priority == 70:
		return "Amnezia or PIA"
	case table == 2023:
		return "dae"
	}
	return ""
}
