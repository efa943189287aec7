package doctor

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"sidestep/internal/netmon"
)

// A peer is other software that has to do with tunnels, and how it shows.
type peer struct {
	name string
	// comms are names of its processes, as the kernel cuts them: 15 bytes.
	comms []string
	// links and tables are patterns (package path) for its interfaces and nftables tables.
	links, tables []string
	// marks are those its rules look for, lookups the routing tables they name.
	marks, lookups []uint32
	// splits: it marks sockets or packets by itself, so that two of a kind work on the same ones.
	splits bool
	// fence: it drops what leaves outside its tunnel, excluded programs included.
	fence bool
	// note is what else one should know.
	note string
}

// peers returns the software we know, with the numbers of linux-peers.md section 4.
func peers() []peer {
	return append(clients(), others()...)
}

// clients are VPN clients.
func clients() []peer {
	return []peer{
		{name: "Mullvad", comms: []string{"mullvad-daemon"}, links: []string{"wg?-mullvad", "wg-mullvad"},
			tables: []string{"mullvad"}, marks: []uint32{0x6d6f6c65}, lookups: []uint32{0x6d6f6c65}, splits: true, fence: true},
		{name: "Proton VPN", comms: []string{"proton.vpn.daem", "protonvpn-app"}, links: []string{"proton*", "pvpn*"},
			tables: []string{"proton_vpn*"}, marks: []uint32{0x0ea13b2c}, lookups: []uint32{0x0ea13b2c}, splits: true, fence: true},
		{name: "NordVPN", comms: []string{"nordvpnd"}, links: []string{"nordlynx", "nordtun"},
			tables: []string{"nordvpn*"}, marks: []uint32{0xe1f1}, lookups: []uint32{205}, splits: true, fence: true},
		{name: "IVPN", comms: []string{"ivpn-service"}, links: []string{"wgivpn"}, lookups: []uint32{17}, splits: true, fence: true},
		{name: "Private Internet Access", comms: []string{"pia-daemon"}, links: []string{"wgpia*", "tun06"},
			marks: []uint32{0x3211, 0x3212, 0x3213, 0x3214}, splits: true, fence: true},
		{name: "Amnezia VPN", comms: []string{"AmneziaVPN-serv"}, links: []string{"amn*"}, lookups: []uint32{10011}, splits: true, fence: true},
		{name: "Mozilla VPN", comms: []string{"mozillavpn"}, links: []string{"moz0"}, splits: true},
		{name: "Windscribe", comms: []string{"windscribe", "WindscribeEngin"}, links: []string{"utun420"},
			marks: []uint32{0xdecafbad}, lookups: []uint32{69, 70}, splits: true, fence: true},
		{name: "ExpressVPN", comms: []string{"expressvpnd", "expressvpn-daem"}, splits: true, fence: true},
		{name: "Surfshark", comms: []string{"surfsharkd2", "surfsharkd"}, links: []string{"surfshark*"}, fence: true},
		{name: "Cloudflare WARP", comms: []string{"warp-svc"}, links: []string{"CloudflareWARP"},
			tables: []string{"cloudflare-warp"}, fence: true},
		{name: "AdGuard VPN", comms: []string{"adguardvpn-cli"}},
		{name: "Tailscale", comms: []string{"tailscaled"}, links: []string{"tailscale*"}, lookups: []uint32{52}},
		{name: "NetBird", comms: []string{"netbird"}, links: []string{"wt?"}, tables: []string{"netbird"}, lookups: []uint32{7120}},
		{name: "ZeroTier", comms: []string{"zerotier-one"}, links: []string{"zt*"}},
		{name: "Nebula", comms: []string{"nebula"}, links: []string{"nebula*"}},
		{name: "OpenVPN", comms: []string{"openvpn"}},
		{name: "OpenConnect", comms: []string{"openconnect"}},
		{name: "strongSwan", comms: []string{"charon", "charon-systemd", "charon-nm"}, lookups: []uint32{220}},
		{name: "wg-quick", tables: []string{"wg-quick-*"}, lookups: []uint32{51820}},
	}
}

// others are proxies, firewalls and managers that touch marks, rules or sockets.
func others() []peer {
	return []peer{
		{name: "dae", comms: []string{"dae"}, links: []string{"dae0"}, marks: []uint32{0x8000000}, lookups: []uint32{2023}, splits: true},
		{name: "cgproxy", comms: []string{"cgproxyd"}, marks: []uint32{0x9973, 39271}, lookups: []uint32{10007}, splits: true},
		{name: "Portmaster", comms: []string{"portmaster-core", "portmaster"}, splits: true},
		{name: "OpenSnitch", comms: []string{"opensnitchd"}, tables: []string{"opensnitch"}},
		{name: "vopono", comms: []string{"vopono"}},
		{name: "sing-box", comms: []string{"sing-box"}, tables: []string{"sing-box"}, lookups: []uint32{2022}},
		{name: "Mihomo or Clash", comms: []string{"mihomo", "clash", "clash-meta", "verge-mihomo"}, links: []string{"Meta", "Mihomo"}},
		{name: "Xray or V2Ray", comms: []string{"xray", "v2ray"}},
		{name: "Cilium", comms: []string{"cilium-agent"}, links: []string{"cilium_*"}, lookups: []uint32{2004, 2005},
			note: "uses the high bits of marks: choose another mask if rules or counters disagree"},
		{name: "Calico", comms: []string{"calico-node"}, links: []string{"cali*"},
			note: "uses bits 16-31 of marks: choose another mask, or restrict its own"},
		{name: "systemd-networkd", comms: []string{"systemd-network"},
			note: "deletes rules of others, the VPN's too, as it starts and as links come; sidestep adds its own again, ManageForeignRoutingPolicyRules=no keeps all"},
	}
}

// evidence is what peers are recognised by.
type evidence struct {
	procs  map[string][]int // pids by comm
	snap   netmon.Snapshot
	tables []string // of nftables
}

// lines says which peers are there and how they show.
func (e evidence) lines() []Line {
	var lines []Line
	for _, p := range peers() {
		if signs := e.signs(p); len(signs) > 0 {
			lines = append(lines, p.line(signs))
		}
	}
	if len(lines) == 0 {
		lines = []Line{{Name: "VPN software", Detail: "none that we know"}}
	}
	for i := range lines {
		lines[i].Area = areaPeers
	}
	return lines
}

func (p peer) line(signs []string) Line {
	l := Line{Name: p.name, Detail: strings.Join(signs, ", "), Hint: p.note}
	switch {
	case p.fence:
		l.Grade = Warn
		l.Hint = "its kill switch may drop what excluded programs send; allow local or split traffic in it, or switch it off"
	case p.splits:
		l.Grade = Warn
		l.Hint = "it decides about programs too: let only one of the two do it"
	}
	return l
}

// signs lists what shows that the peer is there.
func (e evidence) signs(p peer) []string {
	var signs []string
	for _, comm := range p.comms {
		if pids := e.procs[comm]; len(pids) > 0 {
			signs = append(signs, fmt.Sprintf("process %s (%d)", comm, pids[0]))
		}
	}
	for _, l := range e.snap.Links {
		if matches(p.links, l.Name) {
			signs = append(signs, "interface "+l.Name)
		}
	}
	for _, t := range e.tables {
		if matches(p.tables, t) {
			signs = append(signs, "nftables table "+t)
		}
	}
	return append(signs, e.rules(p)...)
}

// rules lists the peer's rules, those of both families once.
func (e evidence) rules(p peer) []string {
	seen := map[string]bool{}
	for _, r := range e.snap.Rules {
		if r.Mask != 0 && slices.Contains(p.marks, r.Mark) || r.Action == netmon.Lookup && slices.Contains(p.lookups, r.Table) {
			seen[fmt.Sprintf("rule %q", r)] = true
		}
	}
	return slices.Sorted(maps.Keys(seen))
}

// matches reports whether one of the patterns matches the name.
func matches(patterns []string, name string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool {
		ok, _ := path.Match(p, name) // the patterns are well formed: a test sees to it
		return ok
	})
}
