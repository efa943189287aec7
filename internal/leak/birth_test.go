package leak_test

import (
	"fmt"
	"testing"

	"sidestep/internal/lab/actor"
)

// A family is what the tests of births start from: an actor whose side is known, and two programs.
type family struct {
	*rig
	listed, other string
	want          side // of every process that the family bears
}

// forFamilies runs a test with an included ancestor, to see that the sensor works and that nobody else is moved, and
// with an excluded one.
func forFamilies(t *testing.T, test func(f family, ancestor *actor.Actor)) {
	t.Helper()
	t.Parallel()
	r := engaged(t)
	listed, other := r.install("listed"), r.install("other")
	a := r.start(listed)
	r.goes(a, inside, "before it is excluded")
	r.exclude(listed)
	for _, want := range []side{inside, outside} {
		t.Run(want.String(), func(t *testing.T) {
			f := family{r.sub(t), listed, other, want}
			path := map[side]string{inside: other, outside: listed}[want]
			a := f.start(path)
			f.goes(a, want, "the ancestor")
			test(f, a)
		})
	}
}

func TestChildIsOnTheSideOfItsParentHoweverItIsBorn(t *testing.T) {
	forFamilies(t, func(f family, parent *actor.Actor) {
		for _, by := range actor.Births() {
			child, err := parent.ForkBy(f.ctx, by)
			f.ok(err)
			f.goes(child, f.want, "a child by "+by.String())
			// After vfork the parent is deaf until its child has executed something.
			f.ok(child.Exec(f.ctx, f.other))
			f.goes(child, f.want, "a child by "+by.String()+" that executes an unlisted program")
			f.goes(parent, f.want, "its parent")
			f.ok(child.Kill(f.ctx))
		}
	})
}

func TestSpawnedProgramIsOnTheSideOfItsParentHoweverItIsBorn(t *testing.T) {
	forFamilies(t, func(f family, parent *actor.Actor) {
		for _, by := range actor.Births() {
			for _, path := range []string{f.other, f.listed} {
				want := f.want || path == f.listed
				child, err := parent.ForkExec(f.ctx, by, actor.Image{Path: path})
				f.ok(err)
				f.ends(child, side(want), fmt.Sprintf("%s spawned by %v", path, by))
			}
		}
	})
}

func TestFirstPacketOfEveryChildIsOnItsSide(t *testing.T) {
	forFamilies(t, func(f family, parent *actor.Actor) {
		n := times(500)
		for _, vfork := range []bool{false, true} {
			port := f.port()
			good, err := parent.Storm(f.ctx, actor.Storm{Count: n, Width: 8, To: internet4(port), Vfork: vfork})
			f.ok(err)
			if good != n {
				f.t.Errorf("%d of %d children could send", good, n)
			}
			f.wantSide(fmt.Sprintf("children (vfork: %v)", vfork), port, f.want, n)
		}
	})
}

func TestFiftyGenerationsAreOnTheSideOfTheFirst(t *testing.T) {
	forFamilies(t, func(f family, ancestor *actor.Actor) {
		child, spawned := ancestor, ancestor
		var err error
		for n := 1; n <= 50; n++ {
			child, err = child.Fork(f.ctx)
			f.ok(err)
			spawned = f.exec(spawned, actor.Image{Path: f.other})
			if n%10 == 0 {
				f.goes(child, f.want, fmt.Sprintf("generation %d", n))
				f.goes(spawned, f.want, fmt.Sprintf("generation %d, all by exec of an unlisted program", n))
			}
		}
	})
}

func TestOrphanKeepsItsSide(t *testing.T) {
	forFamilies(t, func(f family, ancestor *actor.Actor) {
		parent := f.exec(ancestor, actor.Image{Path: f.other})
		child, err := parent.Fork(f.ctx)
		f.ok(err)
		deaf := f.exec(parent, actor.Image{Path: f.other})
		f.ok(parent.Kill(f.ctx))
		f.ok(ancestor.Kill(f.ctx))
		f.goes(child, f.want, "an orphan")
		f.goes(deaf, f.want, "an orphan that never had a socket before")
		grandchild := f.exec(child, actor.Image{Path: f.other})
		f.goes(grandchild, f.want, "a child of an orphan")
	})
}

func TestNewThreadIsOnTheSideOfItsProcess(t *testing.T) {
	forFamilies(t, func(f family, a *actor.Actor) {
		f.goes(a.OnThread(), f.want, "a new thread")
		silent := f.exec(a, actor.Image{Path: f.other})
		f.goes(silent.OnThread(), f.want, "a new thread of a process that never had a socket before")
		child, err := a.OnThread().Fork(f.ctx)
		f.ok(err)
		f.goes(child, f.want, "a child of a thread")
	})
}

func TestExecFromThreadDecidesAsAnyExec(t *testing.T) {
	forFamilies(t, func(f family, a *actor.Actor) {
		child, err := a.Fork(f.ctx)
		f.ok(err)
		f.ok(child.OnThread().Exec(f.ctx, f.other))
		f.goes(child, f.want, "exec of an unlisted program from a thread")
		f.ok(child.OnThread().Exec(f.ctx, f.listed))
		f.goes(child, outside, "exec of the listed program from a thread")
		f.goes(a, f.want, "its parent")
	})
}

func TestProcessWhoseLeaderHasEndedKeepsItsSide(t *testing.T) {
	forFamilies(t, func(f family, a *actor.Actor) {
		silent := f.exec(a, actor.Image{Path: f.other})
		for _, p := range []*actor.Actor{silent, a} {
			f.ok(p.EndLeader(f.ctx))
			f.goes(p, f.want, "a process without its leader")
			f.goes(p.OnThread(), f.want, "a thread of a process without its leader")
			child, err := p.Fork(f.ctx)
			f.ok(err)
			f.goes(child, f.want, "a child of a process without its leader")
			f.ok(p.Exec(f.ctx, f.other))
			f.goes(p, f.want, "exec in a process without its leader")
		}
		f.ok(a.EndLeader(f.ctx))
		f.ok(a.Exec(f.ctx, f.listed))
		f.goes(a, outside, "exec of the listed program in a process without its leader")
	})
}

func TestExecDoesNotEndAnInheritedSide(t *testing.T) {
	forFamilies(t, func(f family, a *actor.Actor) {
		for range 5 {
			f.ok(a.Exec(f.ctx, f.other))
			f.goes(a, f.want, "after exec of an unlisted program")
		}
		f.ok(a.Exec(f.ctx, f.listed))
		f.goes(a, outside, "after exec of the listed program")
	})
}
