package route

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"sidestep/internal/netmon"
)

// A localCase is a route and what it makes local, or spares the tunnel.
type localCase struct{ name, route, local, hosts string }

func localCases() []localCase {
	return []localCase{
		{"a default route is neither", "ipv4 default via 192.168.1.1 dev eth0", "", ""},
		{"what is on the link is local", "ipv4 192.168.1.0/24 dev eth0", "192.168.1.0/24", ""},
		{"so are public addresses on the link", "ipv6 2001:db8:1::/64 dev eth0", "2001:db8:1::/64", ""},
		{"a private network behind a router is local", "ipv4 172.16.8.0/22 via 192.168.1.2 dev eth0", "172.16.8.0/22", ""},
		{"all private addresses may be", "ipv6 fc00::/7 via fe80::2 dev eth0", "fc00::/7", ""},
		{"a provider's inner network is local", "ipv4 100.64.0.0/10 via 192.168.1.1 dev eth0", "100.64.0.0/10", ""},
		{"a public network behind a router is not", "ipv4 203.0.113.0/24 via 192.168.1.2 dev eth0", "", ""},
		{"one that holds a private one is not", "ipv4 172.0.0.0/8 via 192.168.1.2 dev eth0", "", ""},
		{"nor is one that begins with it", "ipv4 10.0.0.0/7 via 192.168.1.2 dev eth0", "", ""},
		{"a half is not", "ipv4 0.0.0.0/1 via 192.168.1.1 dev eth0", "", ""},
		{"a modem's half is not either", "ipv4 128.0.0.0/1 dev eth0", "", ""},
		{"nor is a modem's half of IPv6", "ipv6 8000::/1 dev eth0", "", ""},
		{"nor all of IPv6 without a router", "ipv6 2000::/3 dev he6", "", ""},
		{"a refusal leads nowhere", "ipv4 blackhole 10.0.0.0/8", "", ""},
		{"what is behind another tunnel is not on it", "ipv4 203.0.113.0/24 dev work0", "", ""},
		{"nor is what DHCP puts on the link, where this machine is not", "ipv4 203.0.113.0/24 dev eth0 proto 16", "", ""},
		{"nor what a router puts there", "ipv6 2001:db8:9::/64 dev eth0 proto 9", "", ""},
		{"nor more than neighbours share", "ipv4 20.0.0.0/15 dev eth0 proto 2", "", ""},
		{"nor that of IPv6", "ipv6 2a00:1:2::/47 dev eth0 proto 2", "", ""},
		{"nor is what is behind a modem", "ipv4 203.0.113.0/24 dev wwan0", "", ""},
		{"and a host behind a modem is spared", "ipv4 198.51.100.7 dev wwan0 proto 4", "", "198.51.100.7/32"},
		{"a private network behind another tunnel is local", "ipv4 10.8.0.0/16 dev work0", "10.8.0.0/16", ""},
		{"a VPN's server is spared", "ipv4 198.51.100.7 via 192.168.1.1 dev eth0 proto 3", "", "198.51.100.7/32"},
		{"so is NetworkManager's", "ipv6 2001:db8:2::7 via fe80::1 dev eth0 proto 4", "", "2001:db8:2::7/128"},
		{"a private host is local", "ipv4 10.1.2.3 via 192.168.1.1 dev eth0", "10.1.2.3/32", ""},
		{"a neighbour is local", "ipv4 198.51.100.7 dev eth0", "198.51.100.7/32", ""},
		{"hosts that DHCP names are not spared", "ipv4 198.51.100.7 via 192.168.1.1 dev eth0 proto 16", "", ""},
		{"nor those that a router names", "ipv6 2001:db8:2::7 via fe80::1 dev eth0 proto 9", "", ""},
		{"nor a provider's end of the line", "ipv4 203.0.113.1 dev ppp0 proto 2", "", ""},
		{"the tunnel's own network is not local", "ipv4 10.64.0.0/24 dev wg0", "", ""},
		{"what is local anyway is not said again", "ipv6 fe80::/64 dev eth0", "", ""},
	}
}

func TestWhatIsLocalAndWhichHostsAreSpared(t *testing.T) {
	const world = `
link lo
link eth0
link wwan0 pointopoint
link ppp0 ppp
link he6 sit
link work0 tun
link wg0 wireguard
`
	for _, tt := range localCases() {
		t.Run(tt.name, func(t *testing.T) {
			cfg := DefaultConfig()
			cfg.Tunnels, cfg.Uplink = []string{"wg0"}, "eth0"
			if strings.Contains(tt.route, "he6") {
				cfg.Uplink = "he6"
			}
			p := PlanFor(parseWorld(t, world+"route "+tt.route), cfg)
			local := slices.DeleteFunc(p.Local, func(l netip.Prefix) bool { return slices.Contains(alwaysLocal(), l) })
			if got := joinPrefixes(local); got != tt.local {
				t.Errorf("local %q, want %q", got, tt.local)
			}
			if got := joinPrefixes(p.Hosts); got != tt.hosts {
				t.Errorf("hosts %q, want %q", got, tt.hosts)
			}
		})
	}
}

func joinPrefixes(all []netip.Prefix) string {
	texts := make([]string, len(all))
	for i, p := range all {
		texts[i] = p.String()
	}
	return strings.Join(texts, " ")
}

func TestWhichAddressesAreOutsideAndInside(t *testing.T) {
	const uplink = "addr 192.168.1.20/24 dev eth0\naddr 2001:db8:1::20/64 dev eth0\naddr fe80::20/64 dev eth0\n"
	const outside = "192.168.1.20 2001:db8:1::20"
	tests := []struct{ name, addrs, outside, inside, neutral string }{
		{"both families are numbered", uplink + "addr 10.64.0.2/32 dev wg0\naddr fd00::2/128 dev wg0",
			outside, "10.64.0.2 fd00::2", ""},
		{"one is not", uplink + "addr 10.64.0.2/32 dev wg0", outside, "10.64.0.2", ""},
		{"none is", uplink, "", "", outside},
		{"a link-local address is not enough", uplink + "addr fe80::2/64 dev wg0", "", "", outside},
		{"an IPv4 one is", uplink + "addr 169.254.9.2/30 dev wg0", outside, "169.254.9.2", ""},
		{"an address on both tells no side", uplink + "addr 192.168.1.20/32 dev wg0\naddr 10.64.0.2/32 dev wg0",
			"2001:db8:1::20", "10.64.0.2", "192.168.1.20"},
		{"nor does one on a third link", uplink + "addr 10.64.0.2/32 dev wg0\naddr 192.168.1.20/32 dev br0\n" +
			"addr 10.64.0.2/32 dev br0\naddr 172.17.0.1/16 dev br0", "172.17.0.1 " + outside, "", "10.64.0.2"},
		{"an address may be there twice", "addr 192.168.1.20/24 dev eth0\naddr 192.168.1.20/32 dev eth0\n" +
			"addr 10.64.0.2/32 dev wg0", "192.168.1.20", "10.64.0.2", ""},
	}
	const world = "link eth0\nlink br0 bridge\nlink wg0 wireguard\n" +
		"route ipv4 default via 192.168.1.1 dev eth0 metric 9\nroute ipv6 default via fe80::1 dev eth0 metric 9\n" +
		"route ipv4 default dev wg0\nroute ipv6 default dev wg0 metric 1\n"
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := PlanFor(parseWorld(t, world+tt.addrs), DefaultConfig())
			if got := joinAddrs(p.Outside); got != tt.outside {
				t.Errorf("outside %q, want %q", got, tt.outside)
			}
			if got := joinAddrs(p.Inside); got != tt.inside {
				t.Errorf("inside %q, want %q", got, tt.inside)
			}
			if got := joinAddrs(p.Neutral); got != tt.neutral {
				t.Errorf("neutral %q, want %q", got, tt.neutral)
			}
		})
	}
}

func joinAddrs(all []netip.Addr) string {
	texts := make([]string, len(all))
	for i, a := range all {
		texts[i] = a.String()
	}
	return strings.Join(texts, " ")
}

func TestNoLocalPrefixOrHostIsSaidTwice(t *testing.T) {
	forPlans(t, func(t *rapid.T, _ netmon.Snapshot, _ Config, p Plan) {
		all := slices.Concat(p.Local, p.Hosts)
		for i, a := range all {
			if a != a.Masked() {
				t.Fatalf("%s is not masked", a)
			}
			for _, b := range all[:i] {
				if a.Overlaps(b) {
					t.Fatalf("both %s and %s", a, b)
				}
			}
		}
		if !slices.IsSortedFunc(p.Local, comparePrefixes) || !slices.IsSortedFunc(p.Hosts, comparePrefixes) {
			t.Fatalf("not sorted: %v %v", p.Local, p.Hosts)
		}
	})
}

func comparePrefixes(a, b netip.Prefix) int { return a.Addr().Compare(b.Addr()) }

// TestLocalIsNotTheInternet: public addresses behind a router, or behind a tunnel, are never local.
func TestLocalIsNotTheInternet(t *testing.T) {
	forPlans(t, func(t *rapid.T, _ netmon.Snapshot, _ Config, p Plan) {
		for _, s := range []string{"0.0.0.0/1", "8.8.8.8/32", "2000::/3", "2606:4700::/32"} {
			if within(netip.MustParsePrefix(s), p.Local) {
				t.Fatalf("%s is local:\n%s", s, p)
			}
		}
		for _, l := range p.Local {
			leads := func(r netmon.Route) bool {
				direct := !slices.ContainsFunc(r.Nexthops, func(nh netmon.Nexthop) bool { return nh.Gateway.IsValid() })
				return r.Dst == l && (direct || within(l, private()))
			}
			if !slices.Contains(alwaysLocal(), l) && !slices.ContainsFunc(p.Routes, leads) {
				t.Fatalf("%s is local for no reason:\n%s", l, p)
			}
		}
	})
}

func TestEveryLocalAddressBelongsToOneSide(t *testing.T) {
	forPlans(t, func(t *rapid.T, snap netmon.Snapshot, _ Config, p Plan) {
		for _, side := range []struct {
			addrs        []netip.Addr
			links, other []int
		}{{p.Outside, p.Permitted, p.Closed}, {p.Inside, p.Closed, p.Permitted}} {
			for _, addr := range side.addrs {
				if !onOneOf(snap, addr, side.links) || onOneOf(snap, addr, side.other) {
					t.Fatalf("%s is on the wrong side:\n%s", addr, p)
				}
			}
		}
	})
}

func onOneOf(snap netmon.Snapshot, addr netip.Addr, links []int) bool {
	return slices.ContainsFunc(snap.Addrs, func(a netmon.Addr) bool {
		return a.Prefix.Addr() == addr && slices.Contains(links, a.Link)
	})
}
