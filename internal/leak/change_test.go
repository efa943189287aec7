package leak_test

import (
	"fmt"
	"path/filepath"
	"slices"
	"testing"

	"sidestep/internal/lab/actor"
)

func TestExcludeAndIncludeMoveRunningProcessesBeforeTheyReturn(t *testing.T) {
	t.Parallel()
	r := engaged(t)
	listed, other := r.install("listed"), r.install("other")
	kin := r.kin(listed, other)
	stranger := r.start(other)
	for round := range 3 {
		for name, a := range kin {
			r.goes(a, inside, fmt.Sprintf("%s before it is excluded (%d)", name, round))
		}
		r.exclude(listed)
		for name, a := range kin {
			r.goes(a, outside, fmt.Sprintf("%s once it is excluded (%d)", name, round))
		}
		r.goes(stranger, inside, "an unlisted program")
		r.include(listed)
	}
}

// kin starts the listed program with all sorts of descendants.
func (r *rig) kin(listed, other string) map[string]*actor.Actor {
	r.t.Helper()
	fork := func(a *actor.Actor, by actor.Birth) *actor.Actor {
		child, err := a.ForkBy(r.ctx, by)
		r.ok(err)
		return child
	}
	first := r.start(listed)
	kin := map[string]*actor.Actor{
		"the process":                           first,
		"a child":                               fork(first, actor.ByFork),
		"a child that shares its memory":        fork(first, actor.ByCloneVM),
		"a child that runs an unlisted program": r.exec(first, actor.Image{Path: other}),
		"an orphan that runs the program":       fork(first, actor.ByDoubleFork),
	}
	child := kin["a child that runs an unlisted program"]
	kin["a grandchild"] = fork(child, actor.ByFork)
	kin["a grandchild that runs an unlisted program"] = r.exec(child, actor.Image{Path: other})
	headless := r.start(listed)
	r.ok(headless.EndLeader(r.ctx))
	kin["a process without its leader"] = headless
	kin["its child"] = r.exec(headless, actor.Image{Path: other})
	return kin
}

func TestExcludeAndIncludeMoveProcessesThatAreBeingBorn(t *testing.T) {
	t.Parallel()
	r := engaged(t)
	listed, probe, other := r.install("listed"), r.probe("probe"), r.probe("other")
	stop := r.storms(2)
	defer stop()
	a, starter := r.start(listed), r.start(r.install("starter"))
	for _, want := range slices.Repeat([]side{inside, outside}, 10) {
		if want == outside {
			r.exclude(listed, probe)
		}
		r.starts(a, other, want, 50)
		r.starts(starter, probe, want, 50)
		if want == outside {
			r.include(listed, probe)
		}
	}
}

// starts has the actor start n probes at once and fails unless all took the side.
func (r *rig) starts(by *actor.Actor, probe string, want side, n int) {
	r.t.Helper()
	port := r.port()
	r.crowd(by, probe, actor.ProbeUDP, internet4(port), n, false)
	r.wantSide(fmt.Sprintf("%d starts", n), port, want, n)
}

func TestProcessThatTwoAppsCoverStaysOutsideUntilBothAreGone(t *testing.T) {
	t.Parallel()
	r := engaged(t)
	app := r.install("games/app")
	file, dir := app, filepath.Dir(app)+"/"
	other := r.install("other")
	running := r.start(app)
	child := r.exec(running, actor.Image{Path: other})
	check := func(want side, when string) {
		t.Helper()
		r.goes(running, want, "running, "+when)
		r.goes(child, want, "its child, "+when)
		r.ends(r.start(app), want, "started "+when)
	}
	check(inside, "with no rule")
	for _, order := range [][2]string{{file, dir}, {dir, file}} {
		r.exclude(order[0])
		check(outside, "with "+order[0])
		r.exclude(order[1])
		check(outside, "with both")
		r.include(order[0])
		check(outside, "with "+order[1])
		r.include(order[1])
		check(inside, "with none")
	}
}

func TestChildOfTwoExcludedAncestorsStaysOutsideUntilBothAreGone(t *testing.T) {
	t.Parallel()
	r := engaged(t)
	one, two, other := r.install("one"), r.install("two"), r.install("other")
	first := r.start(one)
	second := r.exec(first, actor.Image{Path: two})
	third := r.exec(second, actor.Image{Path: other})
	check := func(a, b, c side, when string) {
		t.Helper()
		r.goes(first, a, "the first "+when)
		r.goes(second, b, "the second "+when)
		r.goes(third, c, "the third "+when)
		r.ends(r.exec(third, actor.Image{Path: other}), c, "a fourth "+when)
	}
	check(inside, inside, inside, "with no rule")
	r.exclude(one, two)
	check(outside, outside, outside, "with both rules")
	r.include(two)
	check(outside, outside, outside, "with the rule on the first")
	r.exclude(two)
	r.include(one)
	check(inside, outside, outside, "with the rule on the second")
	r.include(two)
	check(inside, inside, inside, "with no rule again")
}

func TestOrphanIsIncludedWithItsApp(t *testing.T) {
	t.Parallel()
	r := engaged(t)
	listed, other := r.install("listed"), r.install("other")
	first := r.start(listed)
	child := r.exec(first, actor.Image{Path: other})
	r.goes(child, inside, "before it is excluded")
	r.exclude(listed)
	grandchild := r.exec(child, actor.Image{Path: other})
	r.ok(first.Kill(r.ctx))
	r.goes(child, outside, "an orphan")
	r.goes(grandchild, outside, "an orphan's child")
	r.include(listed)
	r.goes(child, inside, "an orphan once its app is included")
	r.goes(grandchild, inside, "an orphan's child once its app is included")
	r.exclude(listed)
	r.goes(child, inside, "an orphan that nothing ties to the app any more")
}
