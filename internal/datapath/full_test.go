//go:build !deaf

package datapath_test

import (
	"errors"
	"testing"

	"golang.org/x/sys/unix"

	"sidestep/internal/lab/actor"
	"sidestep/policy"
)

// wantRefused fails unless the actor can't make a socket.
func (r *rig) wantRefused(a *actor.Actor, when string) {
	r.t.Helper()
	s, err := a.Socket(r.ctx, nowhere, unix.SOCK_DGRAM)
	if err == nil {
		r.t.Errorf("%s: socket %d, want EPERM", when, s)
	} else if !errors.Is(err, unix.EPERM) {
		r.t.Errorf("%s: %v, want EPERM", when, err)
	}
}

func (r *rig) verdict(a *actor.Actor) policy.Verdict {
	r.t.Helper()
	all, err := r.Processes()
	if err != nil {
		r.t.Fatal(err)
	}
	for _, p := range all {
		if p.PID == a.PID() {
			return p.Verdict
		}
	}
	r.t.Fatalf("process %d is not listed", a.PID())
	return 0
}

func (r *rig) fork(a *actor.Actor) *actor.Actor {
	r.t.Helper()
	child, err := a.Fork(r.ctx)
	if err != nil {
		r.t.Fatal(err)
	}
	return child
}

func (r *rig) ok(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

func TestProcessesWithoutRoomForTheirLabelAreRefused(t *testing.T) {
	t.Parallel()
	const room = 3
	r := newRigWith(t, map[string]uint32{"labels": room})
	listed, other := r.install("listed"), r.install("other")
	r.exclude(listed)
	bystander := r.start(other)
	var labelled []*actor.Actor
	for range room {
		labelled = append(labelled, r.start(listed))
	}
	late := r.start(listed)
	child := r.fork(late)
	r.ok(child.Exec(r.ctx, other))
	for _, a := range []*actor.Actor{late, child} {
		r.wantRefused(a, "without room for its label")
		if v := r.verdict(a); v != policy.Undecided {
			t.Errorf("without room for its label a process is %s", v)
		}
	}
	for _, a := range labelled {
		r.wantMark(a, outside, "labelled in time")
	}
	for _, a := range []*actor.Actor{bystander, r.start(other), r.fork(bystander)} {
		r.wantMark(a, 0, "an unlisted program")
	}
	n, err := r.Counters()
	r.ok(err)
	if n["labels_full"] < 2 || n["refused_undecided"] != 2 {
		t.Errorf("labels_full is %d and refused_undecided %d, want at least 2, and 2", n["labels_full"], n["refused_undecided"])
	}
	r.room(listed, labelled, late, child)
}

// room makes room for labels, and takes it away again.
func (r *rig) room(listed string, labelled []*actor.Actor, late, child *actor.Actor) {
	r.t.Helper()
	r.ok(labelled[0].Exit(r.ctx, 0))
	r.wantMark(child, outside, "with room again, a process that was refused")
	r.ok(labelled[1].Exit(r.ctx, 0))
	r.ok(child.Exit(r.ctx, 0))
	r.wantMark(r.start(listed), outside, "with room again, a new process")
	r.wantMark(late, outside, "with room again, the first that was refused")
	last := r.start(listed)
	r.wantRefused(last, "without room once more")
	r.exclude()
	r.wantMark(last, 0, "once its app is included")
}
