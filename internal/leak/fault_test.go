package leak_test

import (
	"fmt"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"sidestep/api"
	"sidestep/internal/lab"
	"sidestep/internal/lab/actor"
	"sidestep/internal/lab/fault"
)

// TestAChangeThatFailsAnywhereIsDoneOrNotDone has every call of the kernel fail that a change makes, one after the other; and,
// so that it can't be taken back either, all from one on, which takes the daemon a second to heal: a few of these suffice.
func TestAChangeThatFailsAnywhereIsDoneOrNotDone(t *testing.T) {
	t.Parallel()
	r := newRig(t, lab.Options{MaxFlows: 1 << 18})
	r.patient()
	before := r.footprint()
	f := r.fragile(0, fault.Once)
	t.Cleanup(f.kill)
	r.ok(f.engaged())
	stays, moves := r.install("stays"), r.install("moves")
	r.exclude(stays)
	kept, moved := r.start(stays), r.start(moves)
	for _, c := range r.changes(stays, moves) {
		total := 1
		for n := 1; n <= total && !t.Failed(); n++ {
			total = max(total, r.changeAt(f, c, n, fault.Once, kept, moved))
		}
		r.steps(total, 4, func(n int) { r.changeAt(f, c, n, fault.Onwards, kept, moved) })
	}
	f.kill()
	r.clean()
	r.wantNothingLeft(before, "cleaned at last")
}

// A change of the policy, and what it is to be made from.
type change struct {
	name        string
	prepare, do func() error
	policy      []string
	moves       string
}

// changeAt makes a change whose n-th call fails, and fails unless it is done or not done, as it says. It returns how many
// calls there were.
func (r *rig) changeAt(f *fragile, c change, n int, kind fault.Kind, kept, moved *actor.Actor) int {
	r.t.Helper()
	r.ok(c.prepare())
	want := r.policy()
	f.calls.Arm(n, kind)
	err := c.do()
	count, fired := f.calls.Disarm()
	what := fmt.Sprintf("%s, call %d (%s), %v: %v", c.name, n, fired, kind, err)
	r.wait("the daemon to heal after "+what, func() bool { return r.status().State == api.Engaged })
	if err == nil {
		want = c.policy
	}
	if got := r.policy(); !slices.Equal(got, want) {
		r.t.Errorf("%s: the policy is %q, want %q", what, got, want)
	}
	if fired == "" && err != nil {
		r.t.Errorf("%s: nothing was made to fail", what)
	}
	r.goes(kept, outside, "an app that stays, "+what)
	r.goes(moved, side(slices.Contains(want, c.moves)), "an app that moves, "+what)
	return count
}

func (r *rig) changes(stays, moves string) []change {
	both, one := []string{moves, stays}, []string{stays}
	slices.Sort(both)
	engine := r.engine.(*api.Client)
	replace := func(paths []string) func() error {
		return func() error { _, err := engine.Replace(r.ctx, paths); return err }
	}
	return []change{
		{"exclude", replace(one), func() error { return r.tryExclude(moves) }, both, moves},
		{"include", replace(both), func() error { return r.tryInclude(moves) }, one, moves},
		{"replace", replace(one), replace(both), both, moves},
	}
}

// TestAStartThatFailsAnywhereLeavesNothing is about the first start on a machine.
func TestAStartThatFailsAnywhereLeavesNothing(t *testing.T) {
	t.Parallel()
	r := newRig(t, lab.Options{})
	r.patient()
	r.strict()
	before := r.footprint()
	r.steps(r.callsOfAStart(), 6, func(n int) {
		f := r.fragile(n, fault.Once)
		engaged := f.engages()
		_, fired := f.calls.Disarm()
		what := fmt.Sprintf("call %d (%s) failed; the daemon says: %s", n, fired, f.log)
		if engaged {
			r.ok(f.cmd.Process.Signal(unix.SIGTERM))
			if err := f.end(); err != nil {
				t.Errorf("%s: stopped, it ends with %v", what, err)
			}
		}
		r.wantNothingLeft(before, what)
		if lines := r.clean(); len(lines) > 0 {
			t.Errorf("%s: clean removes %q", what, lines)
		}
	})
}

func (r *rig) callsOfAStart() int {
	r.t.Helper()
	f := r.fragile(0, fault.Once)
	r.ok(f.engaged())
	n, _ := f.calls.Disarm()
	r.ok(f.cmd.Process.Signal(unix.SIGTERM))
	r.ok(f.end())
	return n
}

// TestADaemonKilledAnywhereInItsStartIsCleanedUpOrFollowed kills it at one call after the other.
func TestADaemonKilledAnywhereInItsStartIsCleanedUpOrFollowed(t *testing.T) {
	t.Parallel()
	r := newRig(t, lab.Options{})
	r.patient()
	r.strict()
	before := r.footprint()
	listed := r.install("listed")
	a := r.start(listed)
	follows := false
	r.steps(r.callsOfAStart(), 6, func(n int) {
		f := r.fragile(n, fault.Kill)
		if f.engages() {
			f.kill()
		}
		_, fired := f.calls.Disarm()
		what := fmt.Sprintf("killed at call %d (%s)", n, fired)
		r.goes(a, inside, what)
		if follows = !follows; follows {
			next := r.fragile(0, fault.Once)
			r.ok(next.engaged())
			r.exclude(listed)
			r.goes(a, outside, what+", with the next daemon")
			r.include(listed)
			r.ok(next.cmd.Process.Signal(unix.SIGTERM))
			r.ok(next.end())
		}
		r.clean()
		r.wantNothingLeft(before, what)
	})
}

// TestExcludedProgramsStayOutsideWhateverHappensToTheNextDaemon has starts fail, and kills daemons, that take over.
func TestExcludedProgramsStayOutsideWhateverHappensToTheNextDaemon(t *testing.T) {
	t.Parallel()
	r := newRig(t, lab.Options{})
	r.patient()
	r.strict()
	before := r.footprint()
	first := r.fragile(0, fault.Once)
	r.ok(first.engaged())
	listed, other := r.install("listed"), r.install("other")
	r.exclude(listed)
	kin := r.kin(listed, other)
	first.kill()
	next := r.fragile(1<<30, fault.Once)
	r.ok(next.engaged())
	next.kill()
	total, _ := next.calls.Disarm()
	for _, kind := range []fault.Kind{fault.Once, fault.Kill} {
		r.steps(total, 6, func(n int) {
			f := r.fragile(n, kind)
			engaged := f.engages()
			f.kill()
			_, fired := f.calls.Disarm()
			what := fmt.Sprintf("%v: call %d (%s), engaged: %t", kind, n, fired, engaged)
			for name, a := range kin {
				r.goes(a, outside, name+", "+what)
			}
			r.ends(r.start(listed), outside, "started, "+what)
		})
	}
	r.clean()
	r.wantNothingLeft(before, "cleaned at last")
}

// TestAnUpgradeThatIsCutOffAnywhereLeavesNoGap has the start of a version with another layout of the kernel's maps fail, and
// kills it, while it takes over; and lets another one follow.
func TestAnUpgradeThatIsCutOffAnywhereLeavesNoGap(t *testing.T) {
	t.Parallel()
	r := newRig(t, lab.Options{})
	r.patient()
	before := r.footprint()
	listed, other := r.install("listed"), r.install("other")
	for _, kind := range []fault.Kind{fault.Once, fault.Kill} {
		total := r.upgradeAt(listed, other, 1<<30, kind)
		r.steps(total, 4, func(n int) { r.upgradeAt(listed, other, n, kind) })
	}
	r.wantNothingLeft(before, "at the end")
}

// upgradeAt has the n-th call of an upgrade fail. It returns how many there were.
func (r *rig) upgradeAt(listed, other string, n int, kind fault.Kind) int {
	r.t.Helper()
	elder := r.daemonOf(buildElder)
	if !slices.Contains(r.policy(), listed) {
		r.exclude(listed)
	}
	kin := r.kin(listed, other)
	elder.kill()
	f := r.fragile(n, kind)
	engaged := f.engages()
	count, fired := f.calls.Disarm()
	f.kill()
	what := fmt.Sprintf("%v: call %d (%s), engaged: %t", kind, n, fired, engaged)
	for name, a := range kin {
		r.goes(a, outside, name+", "+what)
	}
	r.ends(r.start(listed), outside, "started, "+what)
	next := r.daemon()
	for name, a := range kin {
		r.goes(a, outside, name+" with the next daemon, "+what)
	}
	r.include(listed)
	for name, a := range kin {
		r.ends(a, inside, name+" included, "+what)
	}
	next.stop()
	return count
}

// TestADaemonKilledAnywhereInAChangeIsFollowed kills it at one call after the other: the next one enforces the old policy or the
// new one, whole.
func TestADaemonKilledAnywhereInAChangeIsFollowed(t *testing.T) {
	t.Parallel()
	r := newRig(t, lab.Options{})
	r.patient()
	before := r.footprint()
	stays, moves := r.install("stays"), r.install("moves")
	f := r.fragile(0, fault.Once)
	r.ok(f.engaged())
	r.exclude(stays)
	kept, moved := r.start(stays), r.start(moves)
	for i := range r.changes(stays, moves) {
		total := r.changeAt(f, r.changes(stays, moves)[i], 1<<30, fault.Once, kept, moved)
		r.steps(total, 3, func(n int) {
			c := r.changes(stays, moves)[i]
			r.ok(c.prepare())
			old := r.policy()
			f.calls.Arm(n, fault.Kill)
			_ = c.do()
			f.kill()
			_, fired := f.calls.Disarm()
			what := fmt.Sprintf("%s, killed at call %d (%s)", c.name, n, fired)
			r.goes(kept, outside, "an app that stays, "+what)
			r.onOneSide(moved, "an app that moves, "+what)
			f = r.fragile(0, fault.Once)
			r.ok(f.engaged())
			now := r.policy()
			if !slices.Equal(now, old) && !slices.Equal(now, c.policy) {
				t.Errorf("%s: the policy is %q, neither the old one nor the new one", what, now)
			}
			r.goes(kept, outside, "an app that stays, with the next daemon, "+what)
			r.goes(moved, side(slices.Contains(now, moves)), "an app that moves, with the next daemon, "+what)
		})
	}
	f.kill()
	r.clean()
	r.wantNothingLeft(before, "cleaned at last")
}

// TestAStopThatFailsAnywhereIsDoneOrCleanDoesIt has one call after the other fail while everything is taken back, and kills
// the daemon there.
func TestAStopThatFailsAnywhereIsDoneOrCleanDoesIt(t *testing.T) {
	t.Parallel()
	r := newRig(t, lab.Options{})
	r.patient()
	r.strict()
	before := r.footprint()
	listed := r.install("listed")
	for _, kind := range []fault.Kind{fault.Once, fault.Kill} {
		total := r.stopAt(listed, before, 1<<30, kind)
		r.steps(total, 4, func(n int) { r.stopAt(listed, before, n, kind) })
	}
}

// stopAt stops a daemon, and has the n-th call fail meanwhile. It returns how many there were.
func (r *rig) stopAt(listed string, before []string, n int, kind fault.Kind) int {
	r.t.Helper()
	f := r.fragile(0, fault.Once)
	r.ok(f.engaged())
	if !slices.Contains(r.policy(), listed) {
		r.exclude(listed)
	}
	a := r.start(listed)
	r.goes(a, outside, "before the stop")
	f.calls.Arm(n, kind)
	r.ok(f.cmd.Process.Signal(unix.SIGTERM))
	err := f.end()
	count, fired := f.calls.Disarm()
	what := fmt.Sprintf("%v, at call %d (%s) of a stop: %v: %s", kind, n, fired, err, f.log)
	if kind == fault.Once {
		r.onOneSide(a, what)
	}
	lines := r.clean()
	if err == nil && len(lines) > 0 {
		r.t.Errorf("%s: it ended well, and clean removes %q", what, lines)
	}
	r.ends(a, inside, "cleaned, "+what)
	r.wantNothingLeft(before, what)
	return count
}

// onOneSide fails unless all that the actor sends is on one side, whichever.
func (r *rig) onOneSide(a *actor.Actor, what string) {
	r.t.Helper()
	port := r.port()
	r.ok(a.Send(r.ctx, internet4(port), each))
	r.settle()
	m := lab.Match{Direction: lab.Sent, DstPort: port}
	in, err := r.wire(inside).Count(m)
	r.ok(err)
	out, err := r.wire(outside).Count(m)
	r.ok(err)
	if in+out != each || in != 0 && out != 0 {
		r.t.Errorf("%s: %d packets inside and %d outside, want %d on one side", what, in, out, each)
	}
}
