package route

import (
	"strings"
	"testing"
)

// A traceCase is what a world without a default route in main outside the tunnel has left, and the uplink that is
// made of it.
type traceCase struct{ name, lines, want string }

func traceCases() []traceCase {
	const server = "route ipv4 198.51.100.7 via 192.168.1.1 dev eth0\n"
	return []traceCase{
		{"nothing", "", ""},
		{"a route to a server", server, "eth0"},
		{"two to the same router", server + "route ipv4 203.0.113.9 via 192.168.1.1 dev eth0", "eth0"},
		{"two to different routers", server + "route ipv4 203.0.113.9 via 192.168.1.2 dev eth0", ""},
		{"one to a private server", "route ipv4 10.1.2.3 via 192.168.1.1 dev eth0", "eth0"},
		{"one without a router", "route ipv4 198.51.100.7 dev eth0", ""},
		{"one over several routers", "route ipv4 198.51.100.7 nexthop via 192.168.1.1 dev eth0 " +
			"nexthop via 192.168.1.2 dev eth0", ""},
		{"one that DHCP made", "route ipv4 198.51.100.7 via 192.168.1.1 dev eth0 proto 16", ""},
		{"one that wraps", "route ipv4 198.51.100.7 via 192.168.1.1 dev eth0 encap", ""},
		{"one that is dead", "route ipv4 198.51.100.7 via 192.168.1.1 dev eth0 dead", ""},
		{"a refusal", "route ipv4 blackhole 198.51.100.7 via 192.168.1.1 dev eth0", ""},
		{"one in another table", "route ipv4 198.51.100.7 via 192.168.1.1 dev eth0 table 7", ""},
		{"one of the other family", "route ipv6 2001:db8:7::7 via fe80::1 dev eth0", ""},
		{"one to a network", "route ipv4 198.51.100.0/24 via 192.168.1.1 dev eth0", ""},
		{"one through the tunnel", "route ipv4 198.51.100.7 via 10.64.0.1 dev wg0", ""},
		{"one through another tunnel", "route ipv4 198.51.100.7 via 10.8.0.1 dev work0", ""},
		{"one by a link that is down", "route ipv4 198.51.100.7 via 192.168.1.1 dev eth1", ""},
		{"one by a link that leads nowhere", "route ipv4 198.51.100.7 via 192.168.1.1 dev kill0", ""},
		{"a default route in a table that a rule leads to", server + "route ipv4 default via 192.168.2.1 dev wlan0 table 7\n" +
			"rule ipv4 7: from all fwmark 0x7 lookup 7", "wlan0"},
		{"a default route in a table that no rule leads to", "route ipv4 default via 192.168.2.1 dev wlan0 table 7", ""},
		{"several default routes by one link", "route ipv4 default via 192.168.2.1 dev wlan0 table 7\n" +
			"route ipv4 default via 192.168.2.1 dev wlan0 table 8\nrule ipv4 7: from all fwmark 0x7 lookup 7\n" +
			"rule ipv4 8: from all fwmark 0x8 lookup 8", "wlan0"},
	}
}

func TestWhatIsLeftTellsTheUplink(t *testing.T) {
	const world = `
link lo
link eth0
link eth1 down
link wlan0
link kill0 dummy
link work0 tun
link wg0 wireguard
route ipv4 default dev wg0
`
	for _, tt := range traceCases() {
		t.Run(tt.name, func(t *testing.T) {
			p := PlanFor(parseWorld(t, world+tt.lines), DefaultConfig())
			if p.Uplink4.Name != tt.want {
				t.Errorf("uplink %q, want %q:\n%s", p.Uplink4.Name, tt.want, p)
			}
			if said := strings.Contains(strings.Join(p.Warnings, "\n"), "is taken for the"); said != (tt.want != "") {
				t.Errorf("a guess and no word of it, or the other way round:\n%s", p)
			}
		})
	}
}

func TestNothingIsInferredWithoutATunnelInTheWay(t *testing.T) {
	for name, lines := range map[string]string{
		"no default route": "route ipv4 192.168.1.0/24 dev eth0",
		"halves by the uplink": "route ipv4 0.0.0.0/1 via 192.168.1.2 dev eth0\n" +
			"route ipv4 128.0.0.0/1 via 192.168.1.2 dev eth0",
	} {
		t.Run(name, func(t *testing.T) {
			snap := parseWorld(t, "link eth0\nroute ipv4 198.51.100.7 via 192.168.1.1 dev eth0\n"+lines)
			if p := PlanFor(snap, DefaultConfig()); p.Uplink4.Name != "" {
				t.Errorf("uplink %q, want none:\n%s", p.Uplink4.Name, p)
			}
		})
	}
}

// TestAServerBesideItTellsAVPNFromAModem: only with a route to its server does a ppp link count as a VPN's.
func TestAServerBesideItTellsAVPNFromAModem(t *testing.T) {
	const world = "link eth0\nlink eth1\nlink ppp0 ppp\nroute ipv4 default dev ppp0 metric 50\n"
	const by = "route ipv4 198.51.100.7 via 192.168.1.1 dev "
	tests := []struct{ name, lines, named, tunnel, uplink string }{
		{"no server", "", "", "", "ppp0"},
		{"a server by a router", by + "eth0", "", "ppp0", "eth0"},
		{"a server by a modem", "route ipv4 198.51.100.7 dev eth0", "", "ppp0", ""},
		{"a server of the other family", "route ipv6 2001:db8:7::7 via fe80::1 dev eth0", "", "ppp0", ""},
		{"a neighbour", "route ipv4 192.168.1.1 dev eth0", "", "", "ppp0"},
		{"an address of this machine", "route ipv4 local 198.51.100.7 dev eth0", "", "", "ppp0"},
		{"a server by another ppp link", "link ppp1 ppp\nroute ipv4 198.51.100.7 dev ppp1", "", "ppp0", "ppp1"},
		{"a server by the link itself", "route ipv4 198.51.100.7 dev ppp0", "", "", "ppp0"},
		{"a server by a link that is a tunnel by name", by + "eth1", "eth1", "eth1", "ppp0"},
		{"a server, but a better default route", by + "eth0\nroute ipv4 default via 192.168.1.1 dev eth0", "", "", "eth0"},
		{"a server, and a worse default route", by + "eth0\nroute ipv4 default via 192.168.1.1 dev eth0 metric 99", "",
			"ppp0", "eth0"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cfg := DefaultConfig()
			if tt.named != "" {
				cfg.Tunnels = []string{tt.named}
			}
			p := PlanFor(parseWorld(t, world+tt.lines), cfg)
			if got := names(p.Tunnels); got != tt.tunnel || p.Uplink4.Name != tt.uplink {
				t.Errorf("tunnel %q, uplink %q; want %q, %q:\n%s", got, p.Uplink4.Name, tt.tunnel, tt.uplink, p)
			}
			said := strings.Contains(strings.Join(p.Warnings, "\n"), "ppp0 is taken for the uplink")
			if want := tt.tunnel == "" && tt.uplink == "ppp0"; said != want {
				t.Errorf("said that ppp0 is taken for the uplink: %v, want %v:\n%s", said, want, p)
			}
		})
	}
}
