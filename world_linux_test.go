package sidestep_test

import (
	"errors"
	"io/fs"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"sidestep"
	"sidestep/api"
)

// worldText is everything that an engine may change: rules, routes of all tables, rp_filter, and pins.
func (r *rig) worldText() []string {
	r.t.Helper()
	var lines []string
	r.ok(r.ns.Do(func() error {
		rules, err := netlink.RuleList(netlink.FAMILY_ALL)
		if err != nil {
			return err
		}
		for _, rule := range rules {
			lines = append(lines, "rule "+rule.String())
		}
		routes, err := netlink.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
		if err != nil {
			return err
		}
		for _, route := range routes {
			if route.Table == unix.RT_TABLE_LOCAL {
				continue // the kernel's own, which it completes when it likes
			}
			lines = append(lines, "route "+route.String())
		}
		for _, link := range []string{"all", "lo", "eth0"} {
			b, err := os.ReadFile("/proc/sys/net/ipv4/conf/" + link + "/rp_filter")
			if errors.Is(err, fs.ErrNotExist) {
				continue // there is no such link
			}
			if err != nil {
				return err
			}
			lines = append(lines, "rp_filter "+link+" "+strings.TrimSpace(string(b)))
		}
		return nil
	}))
	slices.Sort(lines)
	return lines
}

func pins(t *testing.T) []string {
	t.Helper()
	entries, err := os.ReadDir("/sys/fs/bpf")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// TestTheWorldIsLeftAsItWasFound is not parallel: it looks at all pins.
func TestTheWorldIsLeftAsItWasFound(t *testing.T) {
	world := newWorld(t)
	r := newRig(t, world.Machine)
	a := r.install("a")
	before, pinned := r.worldText(), pins(t)
	e := r.run(sidestep.Options{})
	_, err := e.Exclude(r.ctx, []string{a})
	r.ok(err)
	runs := r.start(a)
	r.wantMark(runs, outside, "with the engine")
	if status, err := e.Status(r.ctx); err != nil || status.State != api.Engaged {
		t.Errorf("status is %+v (%v)", status, err)
	}
	if cmp.Equal(before, r.worldText()) || slices.Equal(pinned, pins(t)) {
		t.Error("the engine changed nothing")
	}
	r.ok(e.stop())
	r.wantMark(runs, 0, "without the engine")
	if diff := cmp.Diff(before, r.worldText()); diff != "" {
		t.Errorf("the world is not as it was found (-before +after):\n%s", diff)
	}
	if diff := cmp.Diff(pinned, pins(t)); diff != "" {
		t.Errorf("pins differ (-before +after):\n%s", diff)
	}
	if removed, err := sidestep.Clean(r.state); err != nil || len(removed) > 0 {
		t.Errorf("cleaning then removed %q (%v)", removed, err)
	}
}
