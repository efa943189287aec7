package sidestep_test

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"sidestep"
	"sidestep/api"
	"sidestep/internal/route"
)

// pinDir is where the rig's engine has its pins, as options_linux.go names it.
func (r *rig) pinDir() string {
	sum := sha256.Sum256([]byte(r.state))
	return filepath.Join("/sys/fs/bpf", "sidestep-"+hex.EncodeToString(sum[:6]))
}

// pinned lists a pin directory, with the modes of its directories.
func (r *rig) pinned() (all []string) {
	r.t.Helper()
	err := filepath.WalkDir(r.pinDir(), func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := strings.TrimPrefix(path, r.pinDir())
		if d.IsDir() {
			info, err := d.Info()
			r.ok(err)
			name += " " + info.Mode().String()
		}
		all = append(all, name)
		return nil
	})
	r.ok(err)
	return all
}

func (r *rig) warned(e running, text string) bool {
	r.t.Helper()
	s, err := e.Status(r.ctx)
	r.ok(err)
	return strings.Contains(strings.Join(s.Warnings, "\n"), text)
}

func TestPinsThatAreRemovedUnderARunningEngineComeBack(t *testing.T) {
	t.Parallel()
	world := newWorld(t)
	r := newRig(t, world.Machine)
	a := r.install("a")
	e := r.run(sidestep.Options{})
	_, err := e.Exclude(r.ctx, []string{a})
	r.ok(err)
	runs, before := r.start(a), r.pinned()
	if r.warned(e, "pins") || before[0] != " drwx------" {
		t.Errorf("before: warned of pins, or they are %q", before)
	}
	r.ok(os.RemoveAll(r.pinDir()))
	r.wantMark(runs, outside, "with the pins gone")
	if !r.warned(e, "removed pins") {
		t.Error("nobody is told that the pins were gone")
	}
	if diff := cmp.Diff(before, r.pinned()); diff != "" {
		t.Errorf("the pins are not what they were (-before +after):\n%s", diff)
	}

	r.ok(os.RemoveAll(r.pinDir()))
	obstacle, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 4, MaxEntries: 1})
	r.ok(err)
	defer obstacle.Close()
	r.ok(obstacle.Pin(r.pinDir()))
	if s, err := e.Status(r.ctx); err != nil || s.State != api.Degraded || !r.warned(e, "would end with this daemon") {
		t.Errorf("with something in the way: %+v (%v)", s, err)
	}
	r.wantMark(r.start(a), outside, "started without pins")
	r.ok(os.Remove(r.pinDir()))
	if s, err := e.Status(r.ctx); err != nil || s.State != api.Engaged {
		t.Errorf("with nothing in the way: %+v (%v)", s, err)
	}
	if diff := cmp.Diff(before, r.pinned()); diff != "" {
		t.Errorf("the pins are not what they were (-before +after):\n%s", diff)
	}
	r.ok(e.stop())
	r.wantMark(runs, 0, "once the engine has stopped")
}

// TestRulesThatAreRemovedAtOnceComeBack is about somebody who removes rules before the engine has seen its own.
func TestRulesThatAreRemovedAtOnceComeBack(t *testing.T) {
	t.Parallel()
	world := newWorld(t)
	r := newRig(t, world.Machine)
	e := r.run(sidestep.Options{})
	r.ok(world.Machine.Do(func() error {
		for removed := 0; removed < 20; { // four rules, again and again
			n, err := removeRules()
			if err != nil {
				return err
			}
			removed += n
		}
		return nil
	}))
	for there := 0; there < 4; {
		r.ok(r.ctx.Err())
		r.ok(world.Machine.Do(func() (err error) {
			there, err = countRules()
			return err
		}))
	}
	if s, err := e.Status(r.ctx); err != nil || s.State != api.Engaged {
		t.Errorf("with the rules back: %+v (%v)", s, err)
	}
}

// ourRules lists the engine's rules in the calling thread's namespace.
func ourRules() ([]netlink.Rule, error) {
	all, err := netlink.RuleList(netlink.FAMILY_ALL)
	return slices.DeleteFunc(all, func(rule netlink.Rule) bool { return rule.Protocol != route.DefaultProtocol }), err
}

func countRules() (int, error) {
	rules, err := ourRules()
	return len(rules), err
}

func removeRules() (removed int, err error) {
	rules, err := ourRules()
	for _, rule := range rules {
		err = errors.Join(err, netlink.RuleDel(&rule))
		removed++
	}
	return removed, err
}

func TestAppsOfARestartedEngineAreToldApart(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	a, b := r.install("a"), r.install("b")
	runsA, runsB := r.start(a), r.start(b)
	e := r.run(sidestep.Options{})
	_, err := e.Exclude(r.ctx, []string{a})
	r.ok(err)
	r.ok(e.stop())
	e = r.run(sidestep.Options{}) // as after a reboot: the policy is older than the datapath
	_, err = e.Exclude(r.ctx, []string{b})
	r.ok(err)
	r.wantMark(runsB, outside, "excluded last")
	_, err = e.Include(r.ctx, []string{a})
	r.ok(err)
	r.wantMark(runsA, 0, "included")
	r.wantMark(runsB, outside, "excluded last, once another is included")
}

func TestHalfWrittenStateIsSweptAndDamagedStateDoesNotStopCleaning(t *testing.T) {
	t.Parallel()
	world := newWorld(t)
	r := newRig(t, world.Machine)
	before := r.worldText()
	cmd := r.spawn()
	r.ok(cmd.Process.Kill())
	_ = cmd.Wait()
	half := filepath.Join(r.state, "policy.json.4711")
	r.ok(os.WriteFile(half, []byte(`{"version":1,`), 0o600))
	network := filepath.Join(r.state, "network.json")
	good, err := os.ReadFile(network)
	r.ok(err)
	r.ok(os.WriteFile(network, good[:len(good)/2], 0o600))
	_, err = r.try(sidestep.Options{})
	var e *api.Error
	if !errors.As(err, &e) || !strings.Contains(e.Message, network+" is damaged") || e.Hint == "" {
		t.Errorf("with a damaged state file: %v, want an error that names it and the way out", err)
	}
	if _, err := os.Stat(half); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the half-written file is still there: %v", err)
	}
	var removed []string
	r.ok(r.ns.Do(func() error {
		removed, err = sidestep.Clean(r.state)
		return err
	}))
	if !strings.Contains(strings.Join(removed, "\n"), "is damaged") || len(removed) < 10 {
		t.Errorf("cleaning removed %q, want it to say that a file is damaged", removed)
	}
	if diff := cmp.Diff(before, r.worldText()); diff != "" {
		t.Errorf("the world is not as it was found (-before +after):\n%s", diff)
	}
	r.ok(r.run(sidestep.Options{}).stop())
}

func TestAStartOnAFullDiskSaysSoAndLeavesNothing(t *testing.T) {
	t.Parallel()
	world := newWorld(t)
	r := newRig(t, world.Machine)
	before := r.worldText()
	r.ok(os.Mkdir(r.state, 0o700))
	r.ok(unix.Mount("small", r.state, "tmpfs", 0, "size=4k"))
	t.Cleanup(func() { r.ok(unix.Unmount(r.state, 0)) })
	r.ok(os.WriteFile(filepath.Join(r.state, "ballast"), make([]byte, 4096), 0o600))
	e, err := r.try(sidestep.Options{})
	if err == nil {
		err = e.Run(r.ctx)
	}
	if !errors.Is(err, unix.ENOSPC) || !strings.Contains(err.Error(), "write state") {
		t.Errorf("the error is %v, want one of no space", err)
	}
	if diff := cmp.Diff(before, r.worldText()); diff != "" {
		t.Errorf("the world is not as it was found (-before +after):\n%s", diff)
	}
	if _, err := os.Stat(r.pinDir()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the pins are there: %v", err)
	}
}
