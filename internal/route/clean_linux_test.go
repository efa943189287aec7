package route

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"sidestep/internal/netmon"
)

func TestCleanRestoresEverything(t *testing.T) {
	b := varied(t)
	b.sysctl("eth0/rp_filter", "1")
	b.sysctl("all/rp_filter", "1")
	before := b.snapshot()
	cfg := DefaultConfig()
	a := newActuator(t, cfg, Saved{}, nil)
	p := PlanFor(before, cfg)
	check(t, a.Set(t.Context(), p))
	if got := b.rpFilter("eth0"); got != 2 {
		t.Errorf("rp_filter of the uplink = %d, want 2", got)
	}
	if got := b.rpFilter("eth1"); got != before.Links[slices.IndexFunc(before.Links, isNamed("eth1"))].RPFilter {
		t.Errorf("rp_filter of another link became %d", got)
	}
	removed, err := a.Clean(t.Context())
	check(t, err)
	if want := len(p.Rules) + len(p.Routes) + len(p.Sysctls); len(removed) != want {
		t.Errorf("removed %d things, want %d:\n%s", len(removed), want, strings.Join(removed, "\n"))
	}
	b.wantSame(before)
	if again, err := a.Clean(t.Context()); err != nil || len(again) != 0 {
		t.Errorf("cleaning again removed %q, %v", again, err)
	}
	for _, line := range []string{
		"rule ipv4 90: from all fwmark 0x10000000/0x70000000 lookup 28416 proto 83",
		"route ipv4 default via 192.168.2.1 dev eth1 table 28416 proto 83 metric 600",
		"sysctl net/ipv4/conf/eth0/rp_filter = 1",
	} {
		if !slices.Contains(removed, line) {
			t.Errorf("not reported: %s\n%s", line, strings.Join(removed, "\n"))
		}
	}
}

func isNamed(name string) func(netmon.Link) bool {
	return func(l netmon.Link) bool { return l.Name == name }
}

func TestCleanAfterACrash(t *testing.T) {
	b := varied(t)
	b.sysctl("eth0/rp_filter", "1")
	before := b.snapshot()
	cfg := DefaultConfig()
	var file Saved
	crashed := newActuator(t, cfg, Saved{}, func(s Saved) error {
		if got := b.rpFilter("eth0"); got != 1 {
			t.Errorf("rp_filter was changed to %d before it was saved", got)
		}
		file = s
		return nil
	})
	check(t, crashed.Set(t.Context(), PlanFor(before, cfg)))
	a := newActuator(t, cfg, file, func(s Saved) error { file = s; return nil })
	removed, err := a.Clean(t.Context())
	check(t, err)
	if len(removed) == 0 || len(file.Sysctls) != 0 {
		t.Errorf("removed %q, still saved %v", removed, file)
	}
	b.wantSame(before)
}

func TestSysctls(t *testing.T) {
	b := varied(t)
	b.sysctl("eth0/rp_filter", "1")
	b.sysctl("eth1/rp_filter", "1")
	cfg := DefaultConfig()
	a := newActuator(t, cfg, Saved{}, nil)
	cfg.Uplink = "eth0"
	check(t, a.Set(t.Context(), PlanFor(b.snapshot(), cfg)))
	cfg.Uplink = "eth1"
	check(t, a.Set(t.Context(), PlanFor(b.snapshot(), cfg)))
	if e0, e1 := b.rpFilter("eth0"), b.rpFilter("eth1"); e0 != 1 || e1 != 2 {
		t.Errorf("rp_filter after the uplink moved = %d, %d, want 1, 2", e0, e1)
	}
	b.sysctl("eth1/rp_filter", "0")
	removed, err := a.Clean(t.Context())
	check(t, err)
	reported := slices.ContainsFunc(removed, func(s string) bool { return strings.HasPrefix(s, "sysctl") })
	if got := b.rpFilter("eth1"); got != 0 || reported {
		t.Errorf("rp_filter that somebody else set since became %d: %q", got, removed)
	}
}

func TestUnsavedSysctlIsNotTouched(t *testing.T) {
	b := varied(t)
	b.sysctl("eth0/rp_filter", "1")
	cfg := DefaultConfig()
	full := errors.New("disk full")
	a := newActuator(t, cfg, Saved{}, func(Saved) error { return full })
	if err := a.Set(t.Context(), PlanFor(b.snapshot(), cfg)); !errors.Is(err, full) {
		t.Errorf("Set = %v, want %v", err, full)
	}
	if got := b.rpFilter("eth0"); got != 1 {
		t.Errorf("rp_filter = %d, want 1", got)
	}
	b.wantWay("198.51.100.1", outside, "eth0")
}
