package route

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"sidestep/internal/netmon"
)

// genWorld draws networks that need not make sense: any link may be up or down, carry any route, be in any rule.
func genWorld() *rapid.Generator[netmon.Snapshot] {
	return rapid.Custom(func(t *rapid.T) netmon.Snapshot {
		var s netmon.Snapshot
		kinds := []string{"", "", "", "wireguard", "tun", "ppp", "ipip", "veth", "bridge"}
		for i := range rapid.IntRange(1, 6).Draw(t, "links") {
			s.Links = append(s.Links, netmon.Link{
				Index: i + 1, Name: fmt.Sprintf("if%d", i+1), Kind: rapid.SampledFrom(kinds).Draw(t, "kind"),
				Up: rapid.IntRange(0, 9).Draw(t, "up") > 0, RPFilter: rapid.IntRange(0, 2).Draw(t, "rp_filter"),
			})
		}
		s.RPFilterAll = rapid.IntRange(0, 2).Draw(t, "all")
		s.Rules = slices.Concat(standardRules(), rapid.SliceOfN(genRule(), 0, 4).Draw(t, "rules"))
		s.Routes = rapid.SliceOfN(genRoute(len(s.Links)), 0, 15).Draw(t, "routes")
		s.Addrs = rapid.SliceOfN(genAddr(len(s.Links)), 0, 8).Draw(t, "addresses")
		return s
	})
}

func genRule() *rapid.Generator[netmon.Rule] {
	return rapid.Custom(func(t *rapid.T) netmon.Rule {
		return netmon.Rule{
			Family:            rapid.SampledFrom([]netmon.Family{netmon.IPv4, netmon.IPv6}).Draw(t, "family"),
			Priority:          rapid.SampledFrom([]uint32{9, 89, 90, 91, 92, 220, 32764}).Draw(t, "priority"),
			Action:            rapid.SampledFrom([]netmon.RuleAction{1, 1, 1, 2, 3, 6, 7}).Draw(t, "action"),
			Table:             genTable().Draw(t, "table"),
			Mark:              rapid.SampledFrom([]uint32{0, 0xca6c, 0x6d6f6c65, 0x10000000}).Draw(t, "mark"),
			Mask:              rapid.SampledFrom([]uint32{0, 0xffffffff, 0x70000000, 0xffff0000}).Draw(t, "mask"),
			Invert:            rapid.Bool().Draw(t, "invert"),
			SuppressPrefixLen: rapid.SampledFrom([]int{-1, -1, 0, 8}).Draw(t, "suppress"),
			Protocol:          rapid.SampledFrom([]uint8{0, 2, DefaultProtocol}).Draw(t, "protocol"),
		}
	})
}

func genAddr(links int) *rapid.Generator[netmon.Addr] {
	return rapid.Custom(func(t *rapid.T) netmon.Addr {
		addr := rapid.SampledFrom([]string{
			"192.168.1.20/24", "10.64.0.2/32", "10.64.0.3/32", "169.254.1.1/30",
			"2001:db8:1::20/64", "fd00::2/128", "fe80::1/64",
		}).Draw(t, "address")
		return netmon.Addr{Link: rapid.IntRange(1, links).Draw(t, "link"), Prefix: netip.MustParsePrefix(addr)}
	})
}

func genTable() *rapid.Generator[uint32] {
	return rapid.SampledFrom([]uint32{netmon.TableMain, netmon.TableMain, netmon.TableMain, 52, 51820, DefaultTable})
}

func genRoute(links int) *rapid.Generator[netmon.Route] {
	return rapid.Custom(func(t *rapid.T) netmon.Route {
		dst := rapid.SampledFrom([]string{
			"0.0.0.0/0", "0.0.0.0/0", "0.0.0.0/0", "0.0.0.0/1", "128.0.0.0/1", "10.0.0.0/8", "192.168.1.0/24",
			"::/0", "::/0", "::/0", "::/1", "8000::/1", "2000::/3", "fe80::/64",
			"198.51.100.7/32", "192.168.1.7/32", "203.0.113.0/24", "fd00::/8", "2001:db8:2::7/128",
		}).Draw(t, "dst")
		r := netmon.Route{
			Table: genTable().Draw(t, "table"), Dst: netip.MustParsePrefix(dst),
			Type:     rapid.SampledFrom([]netmon.RouteType{1, 1, 1, 1, 1, 2, 3, 5, 6, 7, 8, 9}).Draw(t, "type"),
			Metric:   rapid.SampledFrom([]uint32{0, 100, 1024, ^uint32(0)}).Draw(t, "metric"),
			Protocol: rapid.SampledFrom([]uint8{2, 3, 16, DefaultProtocol}).Draw(t, "protocol"),
			Pref:     rapid.Int8Range(-1, 1).Draw(t, "pref"),
			Encap:    rapid.IntRange(0, 9).Draw(t, "encap") == 0,
		}
		for range rapid.SampledFrom([]int{0, 1, 1, 1, 1, 2, 3}).Draw(t, "nexthops") {
			nh := netmon.Nexthop{
				OIF: rapid.IntRange(1, links+1).Draw(t, "oif"), Weight: rapid.IntRange(1, 2).Draw(t, "weight"),
				Dead: rapid.IntRange(0, 9).Draw(t, "dead") == 0,
			}
			if rapid.Bool().Draw(t, "routed") {
				nh.Gateway = netip.AddrFrom4([4]byte{192, 168, 1, rapid.Byte().Draw(t, "gateway")})
			}
			r.Nexthops = append(r.Nexthops, nh)
		}
		return r
	})
}

func genConfig(links []netmon.Link) *rapid.Generator[Config] {
	return rapid.Custom(func(t *rapid.T) Config {
		cfg := DefaultConfig()
		name := rapid.Custom(func(t *rapid.T) string {
			return fmt.Sprintf("if%d", rapid.IntRange(1, len(links)+1).Draw(t, "link"))
		})
		if rapid.Bool().Draw(t, "name tunnels") {
			cfg.Tunnels = rapid.SliceOfNDistinct(name, 1, 2, rapid.ID[string]).Draw(t, "tunnels")
		}
		if rapid.Bool().Draw(t, "name uplink") {
			cfg.Uplink = name.Filter(func(s string) bool { return !slices.Contains(cfg.Tunnels, s) }).Draw(t, "uplink")
		}
		return cfg
	})
}

// forPlans checks a property of the plans for any world and any configuration.
func forPlans(t *testing.T, check func(t *rapid.T, snap netmon.Snapshot, cfg Config, p Plan)) {
	rapid.Check(t, func(t *rapid.T) {
		snap := genWorld().Draw(t, "world")
		cfg := genConfig(snap.Links).Draw(t, "config")
		check(t, snap, cfg, PlanFor(snap, cfg))
	})
}

func TestRefusalIsAlwaysPlannedRightBehindTheTable(t *testing.T) {
	forPlans(t, func(t *rapid.T, _ netmon.Snapshot, cfg Config, p Plan) {
		for _, fam := range []netmon.Family{netmon.IPv4, netmon.IPv6} {
			if got := rulesOf(p, fam); !slices.Equal(got, cfg.rules(fam, got[0].Priority)) {
				t.Fatalf("%s rules = %v", fam, got)
			}
		}
	})
}

func TestNoForeignRuleTakesMarkedPacketsBeforeOurs(t *testing.T) {
	forPlans(t, func(t *rapid.T, snap netmon.Snapshot, cfg Config, p Plan) {
		w := newWorld(snap, cfg)
		for _, r := range w.rules {
			last := rulesOf(p, r.Family)[1]
			if w.captures(r) && canPrecede(r) && r.Priority <= last.Priority {
				t.Fatalf("rule %q comes before our %q", r, last)
			}
		}
	})
}

func rulesOf(p Plan, fam netmon.Family) []netmon.Rule {
	return slices.DeleteFunc(slices.Clone(p.Rules), func(r netmon.Rule) bool { return r.Family != fam })
}

func TestNoPlannedRouteUsesATunnel(t *testing.T) {
	forPlans(t, func(t *rapid.T, snap netmon.Snapshot, cfg Config, p Plan) {
		tunnels := make(map[int]bool)
		for _, l := range p.Tunnels {
			tunnels[l.Index] = true
		}
		for _, r := range p.Routes {
			if r.Table != cfg.Table || r.Protocol != cfg.Protocol {
				t.Fatalf("route %q is not ours", r.Text(nil))
			}
			for _, nh := range r.Nexthops {
				if l, ok := snap.Link(nh.OIF); tunnels[nh.OIF] || !ok || !l.Up {
					t.Fatalf("route %q uses a tunnel or a link that is not up", r.Text(nil))
				}
			}
		}
	})
}

func TestNamedUplinkHasAllDefaults(t *testing.T) {
	forPlans(t, func(t *rapid.T, _ netmon.Snapshot, cfg Config, p Plan) {
		for _, l := range p.Uplinks {
			if cfg.Uplink != "" && l.Name != cfg.Uplink {
				t.Fatalf("uplink %s, named was %s", l.Name, cfg.Uplink)
			}
		}
	})
}

// TestEveryDefaultRouteHasAnOrigin: routers are not invented, and what is no default route of main is said to be a
// guess.
func TestEveryDefaultRouteHasAnOrigin(t *testing.T) {
	forPlans(t, func(t *rapid.T, snap netmon.Snapshot, cfg Config, p Plan) {
		guessed := slices.ContainsFunc(p.Warnings, func(s string) bool { return strings.Contains(s, "is taken for the") })
		for _, r := range p.Routes {
			if !carriesDefault(r) {
				continue
			}
			for _, nh := range r.Nexthops {
				known, elsewhere := origins(snap, cfg, r.Family(), nh)
				if !known && (!elsewhere || cfg.Uplink == "" && !guessed) {
					t.Fatalf("where does %q come from?\n%s", r.Text(nil), p)
				}
			}
		}
	})
}

// origins reports whether a default route of main goes the same way, and whether another one or a route to a host does.
func origins(snap netmon.Snapshot, cfg Config, fam netmon.Family, way netmon.Nexthop) (main, other bool) {
	for _, r := range snap.Routes {
		same := r.Family() == fam && !cfg.ownsRoute(r) && slices.ContainsFunc(r.Nexthops, func(nh netmon.Nexthop) bool {
			return nh.OIF == way.OIF && nh.Gateway == way.Gateway
		})
		inMain := r.Table == netmon.TableMain
		main = main || same && inMain && carriesDefault(r)
		other = other || same && (carriesDefault(r) || inMain && r.Dst.IsSingleIP())
	}
	return main, other
}

func TestPlanningAgainChangesNothing(t *testing.T) {
	forPlans(t, func(t *rapid.T, snap netmon.Snapshot, cfg Config, p Plan) {
		again := PlanFor(applied(snap, p), cfg)
		if d := cmp.Diff(p, again, samePlan()...); d != "" {
			t.Fatalf("(-first +again):\n%s", d)
		}
	})
}

func TestOwnTracesDoNotInfluenceThePlan(t *testing.T) {
	forPlans(t, func(t *rapid.T, snap netmon.Snapshot, cfg Config, p Plan) {
		traces := snap
		old := Plan{
			Rules:  cfg.rules(netmon.IPv6, cfg.Priority),
			Routes: rapid.SliceOf(genRoute(len(snap.Links))).Draw(t, "old routes"),
		}
		for i := range old.Routes {
			old.Routes[i].Table, old.Routes[i].Protocol = cfg.Table, cfg.Protocol
		}
		got := PlanFor(applied(traces, old), cfg)
		if d := cmp.Diff(p, got, samePlan()...); d != "" {
			t.Fatalf("(-without +with):\n%s", d)
		}
	})
}

// TestPlannedRoutesCanStandSideBySide: the kernel merges IPv6 routes through routers that have the same key, so
// two of them in a plan would never come to rest.
func TestPlannedRoutesCanStandSideBySide(t *testing.T) {
	forPlans(t, func(t *rapid.T, _ netmon.Snapshot, _ Config, p Plan) {
		for i, a := range p.Routes {
			for _, b := range p.Routes[:i] {
				merged := a.Family() == netmon.IPv6 && routed(a) && routed(b)
				if keyOf(a) == keyOf(b) && (merged || a.Equal(b)) {
					t.Fatalf("both %q and %q", a.Text(nil), b.Text(nil))
				}
			}
		}
	})
}
