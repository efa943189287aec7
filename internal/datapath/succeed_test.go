//go:build !deaf

package datapath_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"sidestep/internal/datapath"
	"sidestep/internal/lab/actor"
)

// elder are the sizes that maps have in another version.
var elder = map[string]uint32{"labels": 1 << 10, "rules": 1 << 10, "apps": 1 << 10}

// oldHand is a process that no walk could tell from others: excluded by a program that it no longer runs, and an orphan.
func (r *rig) oldHand(listed, other string) *actor.Actor {
	r.t.Helper()
	parent := r.start(listed)
	a := r.fork(parent)
	r.ok(a.Exec(r.ctx, other))
	r.ok(parent.Exit(r.ctx, 0))
	return a
}

func TestTakingOverAnotherLayoutLeavesNoGap(t *testing.T) {
	t.Parallel()
	r := newRigWith(t, elder)
	listed, other, dropped := r.install("listed"), r.install("other"), r.install("dropped")
	r.exclude(listed, dropped)
	running, launched, leaver := r.start(listed), r.start(other), r.start(dropped)
	orphan, bystander := r.oldHand(listed, other), r.start(other)
	found, err := r.Launch(launched.PID())
	if r.ok(err); !found {
		t.Fatal("the process to launch was not found")
	}
	excluded := map[string]*actor.Actor{"running": running, "launched": launched, "an orphan": orphan}
	check := func(when string) {
		t.Helper()
		for name, a := range excluded {
			r.wantMark(a, outside, name+" "+when)
		}
		r.wantMark(bystander, 0, "another program "+when)
	}
	check("before")
	ctx, stop := context.WithCancel(r.ctx)
	defer stop()
	watched := make(chan error, 1)
	go func() {
		n, err := watchMarks(ctx, r.start(listed))
		if n == 0 && err == nil {
			err = context.Cause(ctx)
		}
		watched <- err
	}()
	for _, sizes := range []map[string]uint32{nil, elder, nil} {
		r.ok(r.Close())
		r.opts.SetSizes(sizes)
		r.open()
		if !r.Adopted() {
			t.Fatal("nothing was taken over")
		}
		check("with both layouts attached")
		r.exclude(listed)
		check("with the new layout")
		r.wantMark(leaver, 0, "no longer in the policy")
		if _, err := os.Stat(r.opts.Pins + "-new"); !os.IsNotExist(err) {
			t.Errorf("the other layout is still pinned: %v", err)
		}
	}
	stop()
	r.ok(<-watched)
	r.exclude()
	r.wantMark(running, 0, "included, running")
	r.wantMark(orphan, 0, "included, an orphan")
	r.wantMark(launched, outside, "launched, with no app in the policy")
	r.ok(r.Withdraw(r.ctx))
	r.wantMark(launched, 0, "launched, after everything is withdrawn")
}

// TestTakingOverThatIsCutOffChangesNothing is about a daemon that ends between Open and Set.
func TestTakingOverThatIsCutOffChangesNothing(t *testing.T) {
	t.Parallel()
	r := newRigWith(t, elder)
	listed, other := r.install("listed"), r.install("other")
	r.exclude(listed)
	running, orphan := r.start(listed), r.oldHand(listed, other)
	for range 2 {
		r.ok(r.Close())
		r.opts.SetSizes(nil)
		r.open()
		r.ok(r.Close())
		r.wantMark(running, outside, "after a start that was cut off")
		r.wantMark(orphan, outside, "an orphan, after a start that was cut off")
		r.wantMark(r.start(listed), outside, "started after that")
		r.opts.SetSizes(elder)
		r.open()
		r.exclude(listed)
		r.wantMark(running, outside, "with the old layout again")
	}
	r.exclude()
	r.wantMark(running, 0, "included by the old layout")
}

// TestPinsThatAnOlderVersionDidNotHaveAreMade adopts thrice: each new link to netfilter needs a place beside the old one.
func TestPinsThatAnOlderVersionDidNotHaveAreMade(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	pins := func() []string {
		t.Helper()
		all, err := filepath.Glob(filepath.Join(r.opts.Pins, "*", "*"))
		r.ok(err)
		return all
	}
	want := pins()
	for range 3 {
		r.ok(r.Close())
		r.ok(os.Remove(filepath.Join(r.opts.Pins, "maps", "cut")))
		later, err := filepath.Glob(filepath.Join(r.opts.Pins, "links", "answers*"))
		r.ok(err)
		for _, l := range later[:len(later)/2] {
			r.ok(os.Remove(l))
		}
		r.open()
		if d := cmp.Diff(want, pins()); d != "" || !r.Adopted() {
			t.Errorf("adopted %t, and the pins (-want +got):\n%s", r.Adopted(), d)
		}
	}
}

func TestPinsWithoutSettingsAreRefused(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.ok(r.Close())
	settings := filepath.Join(r.opts.Pins, "maps", "settings")
	r.ok(os.Remove(settings))
	err := r.ns.Do(func() error {
		_, err := datapath.Open(r.opts)
		return err
	})
	wantIs(t, err, datapath.ErrDamaged, "with links in force and no settings")
	links := filepath.Join(r.opts.Pins, "links")
	r.ok(os.RemoveAll(links))
	r.open()
	if r.Adopted() {
		t.Error("what a removal left behind was adopted")
	}
}

func wantIs(t *testing.T, err, want error, what string) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: %v, want %v", what, err, want)
	}
}
