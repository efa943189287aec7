//go:build deaf

package datapath_test

import (
	"fmt"
	"os"
	"testing"

	"sidestep/internal/lab/actor"
)

// The tests of a datapath whose tracepoints lose events; TestDeaf runs them. What they check is what the socket hook
// promises to make good by itself.

// wantHealed fails if nothing had to be made good: then the test has shown nothing.
func (r *rig) wantHealed() {
	r.t.Helper()
	n, err := r.Counters()
	if err != nil {
		r.t.Fatal(err)
	}
	if n["healed_at_socket"] == 0 {
		r.t.Errorf("the socket hook had nothing to make good: %v", n)
	}
	if os.Getenv("SIDESTEP_DEAF_PERCENT") == "100" && n["labelled_at_exec"]+n["labelled_at_fork"] > 0 {
		r.t.Errorf("a tracepoint was heard: %v", n)
	}
}

// chain makes each process the child of the one before, and has it execute image, if one is given.
func (r *rig) chain(first *actor.Actor, n int, image string) []*actor.Actor {
	r.t.Helper()
	all := []*actor.Actor{first}
	for range n {
		last := all[len(all)-1]
		var child *actor.Actor
		var err error
		if image == "" {
			child, err = last.Fork(r.ctx)
		} else {
			child, err = last.ForkExec(r.ctx, actor.ByFork, actor.Image{Path: image})
		}
		if err != nil {
			r.t.Fatal(err)
		}
		all = append(all, child)
	}
	return all
}

func TestLossyChainsKeepTheirSide(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	listed, other := r.install("listed"), r.install("other")
	r.exclude(listed)
	for _, first := range []struct {
		path string
		mark int
	}{{listed, outside}, {other, 0}} {
		for _, image := range []string{"", other} {
			chain := r.chain(r.start(first.path), 50, image)
			for i := range chain { // the last first: no label is on its way up
				i = len(chain) - 1 - i
				r.wantMark(chain[i], first.mark, fmt.Sprintf("%d below %s, executing %q", i, first.path, image))
			}
		}
	}
	r.wantHealed()
}

func TestLossyExecKeepsWhatASocketHasShown(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	listed, other := r.install("listed"), r.install("other")
	r.exclude(listed)
	a := r.start(other)
	r.wantMark(a, 0, "an unlisted program")
	for _, step := range []struct {
		path string
		mark int
	}{{other, 0}, {listed, outside}, {other, outside}, {other, outside}} {
		if err := a.Exec(r.ctx, step.path); err != nil {
			t.Fatal(err)
		}
		r.wantMark(a, step.mark, "having executed "+step.path)
	}
	r.exclude()
	r.wantMark(a, 0, "once it is included again")
}

func TestLossyHistories(t *testing.T) {
	t.Parallel()
	seed := seedOf(t)
	r := newRig(t)
	newCrowd(r, seed, newBounds(os.Getpid())).run(steps())
	r.wantHealed()
}
