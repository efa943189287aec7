package route

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"sidestep/internal/netmon"
)

// TestTheKernelAgreesWithThePlans builds each world in testdata, sets the plan for it, and asks the kernel for the ways
// of packets: marked ones leave by the uplink, and others by the tunnel.
func TestTheKernelAgreesWithThePlans(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	check(t, err)
	for _, file := range files {
		ar, err := txtar.ParseFile(file)
		check(t, err)
		world := section(ar, "world")
		if strings.Contains(world, "no rules\n") || strings.Contains(world, "[l3mdev-table]") {
			continue // not to be built with such links and with the rules that a new namespace has
		}
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			t.Parallel()
			testWorld(t, world, parseConfig(t, section(ar, "config")))
		})
	}
}

func testWorld(t *testing.T, world string, cfg Config) {
	paper := parseWorld(t, world)
	b := newBench(t)
	b.build(paper, world)
	snap := b.snapshot()
	for i, l := range snap.Links {
		drawn, _ := paper.LinkByName(l.Name)
		snap.Links[i].Kind = drawn.Kind // all are tun devices
	}
	want := PlanFor(paper, cfg)
	p := PlanFor(snap, cfg)
	check(t, newActuator(t, cfg, Saved{}, nil).Set(t.Context(), p))
	b.wantTable(cfg, p)
	b.wantWayBy(destination4, outside, want.Uplink4, want.Uplinks)
	b.wantWayBy(destination6, outside, want.Uplink6, want.Uplinks)
	if len(want.Tunnels) > 0 && len(cfg.Tunnels) == 0 {
		by4, _ := b.way(destination4, 0)
		by6, _ := b.way(destination6, 0)
		if !slices.ContainsFunc(want.Tunnels, func(l Iface) bool { return l.Name == by4 || l.Name == by6 }) {
			t.Errorf("unmarked packets leave by %q and %q, want a tunnel", by4, by6)
		}
	}
}

// build makes the namespace what the world says, with tun devices for links. Routes without a router go first.
func (b *bench) build(snap netmon.Snapshot, world string) {
	b.t.Helper()
	const none = "1" // no link-local addresses: what has none in the world has none here
	check(b.t, os.WriteFile("/proc/sys/net/ipv6/conf/default/addr_gen_mode", []byte(none), 0))
	for _, l := range snap.Links {
		if l.Name == "lo" {
			continue
		}
		b.addTun(l.Name)
		if l.Up {
			b.up(l.Name)
		}
	}
	for _, a := range snap.Addrs {
		l, _ := snap.Link(a.Link)
		addr, err := netlink.ParseAddr(a.Prefix.String())
		check(b.t, err)
		addr.Flags = unix.IFA_F_NODAD
		check(b.t, b.handle.AddrAdd(b.link(l.Name), addr))
	}
	var direct, routed []string
	for _, line := range strings.Split(world, "\n") {
		switch {
		case strings.Contains(line, " via "):
			routed = append(routed, line)
		case strings.HasPrefix(line, "route"), strings.HasPrefix(line, "rule"):
			direct = append(direct, line)
		}
	}
	b.setup(strings.Join(append(direct, routed...), "\n"))
}

// wantWayBy checks that a packet leaves by the best uplink, or one of the others if several share the load, or not at
// all if there is none.
func (b *bench) wantWayBy(dst string, mark uint32, best Iface, all []Iface) {
	b.t.Helper()
	got, err := b.way(dst, mark)
	if best.Name == "" && got == "" {
		return
	}
	if best.Name == "" || !slices.ContainsFunc(all, func(l Iface) bool { return l.Name == got }) {
		b.t.Errorf("%s with mark %#x leaves by %q (%v), want %q", dst, mark, got, err, best.Name)
	}
}
