package route

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"sidestep/internal/netmon"
)

const (
	outside      uint32 = 0x1000_0000
	destination4        = "198.51.100.1"
	destination6        = "2001:db8:ffff::1"
)

// varied is a network with something of everything: two uplinks, wg-quick's rules, halves, multipath, refusals.
func varied(t *testing.T) *bench {
	b := newBench(t, "eth0", "eth1", "tun0")
	b.addr("eth0", "192.168.1.2/24")
	b.addr("eth0", "2001:db8:1::2/64")
	b.addr("eth1", "192.168.2.2/24")
	b.addr("eth1", "2001:db8:2::2/64")
	b.addr("tun0", "10.8.0.2/24")
	b.setup(`
route ipv4 default via 192.168.1.1 dev eth0 proto 16 metric 100 src 192.168.1.2
route ipv4 default via 192.168.2.1 dev eth1 proto 16 metric 600
route ipv4 0.0.0.0/1 via 10.8.0.1 dev tun0
route ipv4 128.0.0.0/1 via 10.8.0.1 dev tun0
route ipv4 10.20.0.0/16 nexthop via 192.168.1.7 dev eth0 weight 3 nexthop via 192.168.2.7 dev eth1 weight 1
route ipv4 10.21.0.0/16 nexthop via 192.168.1.7 dev eth0 nexthop via 10.8.0.1 dev tun0
route ipv4 10.22.0.0/16 via 172.31.0.1 dev eth0 onlink
route ipv4 10.23.0.0/16 via fe80::7 dev eth0
route ipv4 10.24.0.0/16 via 192.168.1.9 dev eth0 tos 0x10
route ipv4 10.25.0.0/16 via 192.168.1.9 dev eth0 mtu 1300
route ipv4 local 10.26.0.0/16 dev lo scope 254
route ipv4 blackhole 10.66.0.0/16
route ipv4 prohibit 10.67.0.0/16
route ipv4 throw 10.68.0.0/16
route ipv4 unreachable default metric 4294967295
route ipv6 default via 2001:db8:1::1 dev eth0 metric 100
route ipv6 default via fe80::1 dev eth1 metric 600
route ipv6 default dev tun0 metric 50
route ipv6 2001:db8:20::/48 metric 1024 nexthop via fe80::7 dev eth0 nexthop via fe80::8 dev eth1
route ipv6 2001:db8:21::/48 via fe80::7 dev eth0 src 2001:db8:1::2 mtu 1300
route ipv6 2001:db8:22::/48 via fe80::7 dev eth0 pref 1
route ipv6 blackhole 2001:db8:66::/48
route ipv4 default dev tun0 table 51820 scope 253
rule ipv4 32765: not from all fwmark 0xca6c lookup 51820
`)
	return b
}

func TestSetAgainChangesNothing(t *testing.T) {
	b := varied(t)
	cfg := DefaultConfig()
	a := newActuator(t, cfg, Saved{}, nil)
	p := PlanFor(b.snapshot(), cfg)
	check(t, a.Set(t.Context(), p))
	b.wantTable(cfg, p)
	b.listen()
	check(t, a.Set(t.Context(), p))
	if n := b.heard(); n != 0 {
		t.Errorf("setting the same plan again changed something: %d messages", n)
	}
	after := PlanFor(b.snapshot(), cfg)
	if d := cmp.Diff(p, after, samePlan()...); d != "" {
		t.Errorf("the plan changed (-before +after Set):\n%s", d)
	}
	// The sensor hears: a deletion is one message, and putting the route back is another.
	check(t, a.conn.deleteRoute(p.Routes[1]))
	check(t, a.Set(t.Context(), p))
	if n := b.heard(); n != 2 {
		t.Errorf("heard %d messages of a deletion and its repair, want 2", n)
	}
}

// wantTable checks that our table and our rules are what the plan says.
func (b *bench) wantTable(cfg Config, p Plan) {
	b.t.Helper()
	snap := b.snapshot()
	var got, want []string
	for _, r := range snap.Routes {
		if cfg.ownsRoute(r) {
			got = append(got, canonical(r).Text(nil))
		}
	}
	for _, r := range p.Routes {
		want = append(want, canonical(r).Text(nil))
	}
	for _, r := range snap.Rules {
		if cfg.ownsRule(r) {
			got = append(got, r.String())
		}
	}
	for _, r := range p.Rules {
		want = append(want, r.String())
	}
	slices.Sort(got)
	slices.Sort(want)
	if d := cmp.Diff(want, got); d != "" {
		b.t.Errorf("rules and routes differ from the plan (-plan +kernel):\n%s", d)
	}
}

func TestMarkedPacketsLeaveByTheUplink(t *testing.T) {
	b := varied(t)
	cfg := DefaultConfig()
	a := newActuator(t, cfg, Saved{}, nil)
	b.wantWay(destination4, outside, "tun0")
	b.wantWay(destination6, outside, "tun0")
	check(t, a.Set(t.Context(), PlanFor(b.snapshot(), cfg)))
	b.wantWay(destination4, 0, "tun0")
	b.wantWay(destination6, 0, "tun0")
	b.wantWay(destination4, outside, "eth0")
	b.wantWay(destination6, outside, "eth0")
	b.wantWay(destination4, outside|0xca6c, "eth0")
	b.wantWay(destination4, 0x6d6f6c65, "tun0") // Mullvad's mark reads as another exit
	b.wantWay("10.21.0.1", outside, "eth0")
	b.wantWay("10.68.0.1", outside, "")
	b.wantWay("192.168.2.9", outside, "eth1")
	b.wantWay("192.168.1.2", outside, "lo")
}

func TestRefusalHoldsWhateverOthersRemove(t *testing.T) {
	tests := []struct {
		name string
		do   func(*bench, *Actuator)
	}{
		{"the uplink goes down", func(b *bench, _ *Actuator) { b.down("eth0"); b.down("eth1") }},
		{"the table is emptied", func(b *bench, a *Actuator) {
			_, err := a.cleanRoutes(context.Background(), netmon.IPv4, nil)
			check(b.t, err)
			_, err = a.cleanRoutes(context.Background(), netmon.IPv6, nil)
			check(b.t, err)
		}},
		{"lo and the uplink go down", func(b *bench, _ *Actuator) { b.down("eth0"); b.down("eth1"); b.down("lo") }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := varied(t)
			cfg := DefaultConfig()
			a := newActuator(t, cfg, Saved{}, nil)
			check(t, a.Set(t.Context(), PlanFor(b.snapshot(), cfg)))
			tt.do(b, a)
			b.wantWay(destination4, outside, "")
			b.wantWay(destination6, outside, "")
			p := PlanFor(b.snapshot(), cfg)
			check(t, a.Set(t.Context(), p))
			b.wantTable(cfg, p)
		})
	}
}

// TestChangeHasNoGap flips between plans while another thread asks all the time where a marked packet goes.
// It never goes into the tunnel, and in IPv4 it is never refused either.
func TestChangeHasNoGap(t *testing.T) {
	flips := []struct {
		name, first, second string // default routes of main
	}{
		{"same metric", "100", "100"},
		{"other metric", "100", "600"},
	}
	for _, tt := range flips {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench(t, "eth0", "eth1", "tun0")
			b.addr("eth0", "192.168.1.2/24")
			b.addr("eth1", "192.168.2.2/24")
			b.setup(strings.NewReplacer("FIRST", tt.first, "SECOND", tt.second).Replace(`
route ipv4 default dev tun0
route ipv4 default via 192.168.1.1 dev eth0 metric FIRST
route ipv4 default via 192.168.2.1 dev eth1 metric SECOND
route ipv6 default dev tun0 metric 1
route ipv6 default via fe80::1 dev eth0 metric FIRST
route ipv6 default via fe80::1 dev eth1 metric SECOND
`))
			testNoGap(t, b)
		})
	}
}

func testNoGap(t *testing.T, b *bench) {
	cfg := DefaultConfig()
	a := newActuator(t, cfg, Saved{}, nil)
	snap := b.snapshot()
	var plans []Plan
	for _, name := range []string{"eth0", "eth1"} {
		cfg.Uplink = name
		plans = append(plans, PlanFor(snap, cfg))
	}
	check(t, a.Set(t.Context(), plans[0]))
	handle, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	check(t, err)
	defer handle.Close()
	w := watch{bench: bench{t: t, handle: handle}, done: make(chan error, 1)}
	go func() { w.done <- w.run() }()
	const atLeast = 500
	for i := 1; i < 2000 || w.eth0.Load() < atLeast || w.eth1.Load() < atLeast; i++ {
		if len(w.done) > 0 {
			break
		}
		check(t, a.Set(t.Context(), plans[i%2]))
	}
	w.stop.Store(true)
	check(t, <-w.done)
}

// A watch asks where marked packets go, and counts the answers.
type watch struct {
	bench
	stop       atomic.Bool
	eth0, eth1 atomic.Int64
	done       chan error
}

// run returns an error if a packet goes where it must not, and nil when it is stopped.
func (w *watch) run() error {
	for !w.stop.Load() {
		for _, dst := range []string{destination4, destination6} {
			way, err := w.way(dst, outside)
			switch {
			case way == "eth0":
				w.eth0.Add(1)
			case way == "eth1":
				w.eth1.Add(1)
			case dst == destination6 && (errors.Is(err, unix.ENETUNREACH) || errors.Is(err, unix.EHOSTUNREACH)):
				// Refused: see Config.rules.
			default:
				return fmt.Errorf("%s left by %q: %w", dst, way, err)
			}
		}
	}
	return nil
}

func TestOthersInOurTableStay(t *testing.T) {
	b := varied(t)
	b.setup(`
route ipv4 10.99.0.0/16 via 192.168.1.9 dev eth0 table 28416 proto 4
route ipv4 default via 192.168.1.9 dev eth0 table 28416 proto 4 metric 100
rule ipv4 90: from all fwmark 0x1 lookup 1000
`)
	before := b.snapshot()
	cfg := DefaultConfig()
	a := newActuator(t, cfg, Saved{}, nil)
	p := PlanFor(before, cfg)
	check(t, a.Set(t.Context(), p))
	b.wantTable(cfg, p)
	_, err := a.Clean(t.Context())
	check(t, err)
	b.wantSame(before)
}

func TestSetWithACancelledContextIsSafe(t *testing.T) {
	b := varied(t)
	cfg := DefaultConfig()
	a := newActuator(t, cfg, Saved{}, nil)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	p := PlanFor(b.snapshot(), cfg)
	if err := a.Set(ctx, p); !errors.Is(err, context.Canceled) {
		t.Errorf("Set = %v, want %v", err, context.Canceled)
	}
	check(t, a.Set(t.Context(), p))
	b.wantTable(cfg, p)
}

// TestLongTable sets ten thousand routes, and finds that there is nothing to do.
func TestLongTable(t *testing.T) {
	b := newBench(t, "eth0")
	b.addr("eth0", "192.168.1.2/24")
	snap := b.snapshot()
	eth0, _ := snap.LinkByName("eth0")
	for i := range 10_000 {
		snap.Routes = append(snap.Routes, netmon.Route{
			Table: netmon.TableMain, Type: netmon.Unicast, Protocol: 4,
			Dst:      netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 0}), 24),
			Nexthops: []netmon.Nexthop{{OIF: eth0.Index, Gateway: netip.MustParseAddr("192.168.1.1"), Weight: 1}},
		})
	}
	cfg := DefaultConfig()
	a := newActuator(t, cfg, Saved{}, nil)
	p := PlanFor(snap, cfg)
	check(t, a.Set(t.Context(), p))
	b.wantTable(cfg, p)
	b.listen()
	check(t, a.Set(t.Context(), p))
	if n := b.heard(); n != 0 {
		t.Errorf("setting the same plan again changed something: %d messages", n)
	}
	removed, err := a.Clean(t.Context())
	if check(t, err); len(removed) != len(p.Routes)+len(p.Rules) {
		t.Errorf("removed %d of %d", len(removed), len(p.Routes)+len(p.Rules))
	}
}
