package sidestep_test

import (
	"context"
	"errors"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"sidestep"
	"sidestep/api"
	"sidestep/internal/lab"
	"sidestep/internal/lab/actor"
	"sidestep/policy"
)

// await reads events until one is as wanted.
func (r *rig) await(events <-chan api.Event, what string, want func(api.Event) bool) api.Event {
	r.t.Helper()
	var seen []api.Event
	for {
		select {
		case ev, open := <-events:
			if !open {
				r.t.Fatalf("the stream ended before %s; seen: %+v", what, seen)
			}
			if want(ev) {
				return ev
			}
			seen = append(seen, ev)
		case <-r.ctx.Done():
			r.t.Fatalf("no event %s; seen: %+v", what, seen)
		}
	}
}

func classified(a *actor.Actor, app string, cause policy.Cause) func(api.Event) bool {
	return func(ev api.Event) bool {
		return ev.Kind == api.EventClassified && ev.PID == a.PID() && ev.App == app && ev.Cause != nil && *ev.Cause == cause
	}
}

func TestEventsTellOfCutConnectionsAndStoppedPackets(t *testing.T) {
	t.Parallel()
	world := newWorld(t)
	r := newRig(t, world.Machine)
	path := r.install("a")
	e := r.run(sidestep.Options{})
	ctx, cancel := context.WithCancel(r.ctx)
	defer cancel()
	events := e.Events(ctx)
	a := r.start(path)
	to := netip.AddrPortFrom(netip.MustParseAddr(lab.Internet4), 7000)
	conn, err := a.Open(r.ctx, actor.TCP, to)
	r.ok(err)
	local, err := a.LocalAddr(r.ctx, conn)
	r.ok(err)
	_, err = e.Exclude(r.ctx, []string{path})
	r.ok(err)
	r.await(events, "cut", func(ev api.Event) bool {
		return ev.Kind == api.EventCut && ev.App == path && ev.PID == a.PID() && ev.Flow != nil &&
			*ev.Flow == api.Flow{Protocol: "tcp", Local: local, Remote: to}
	})
	s, err := a.Socket(r.ctx, to, unix.SOCK_DGRAM)
	r.ok(err)
	r.ok(a.SetSocketOption(r.ctx, s, unix.SOL_SOCKET, unix.SO_BINDTODEVICE, []byte(lab.TunnelName)))
	if err := a.SendOn(r.ctx, s, to); !errors.Is(err, unix.EPERM) {
		t.Errorf("sending by the tunnel: %v, want EPERM", err)
	}
	r.await(events, "stopped", func(ev api.Event) bool {
		return ev.Kind == api.EventStopped && ev.App == path && ev.PID == a.PID() && ev.Text == "guard_dropped_sent" &&
			ev.Flow != nil && ev.Flow.Protocol == "udp" && ev.Flow.Remote == to
	})
}

func TestEventsTellWhatHappens(t *testing.T) {
	t.Parallel()
	world := newWorld(t)
	r := newRig(t, world.Machine)
	a := r.install("a")
	e := r.run(sidestep.Options{})
	ctx, cancel := context.WithCancel(r.ctx)
	defer cancel()
	events := e.Events(ctx)
	first := r.start(a)
	_, err := e.Exclude(r.ctx, []string{a})
	r.ok(err)
	r.await(events, "excluded", func(ev api.Event) bool { return ev.Kind == api.EventExcluded && ev.App == a })
	r.await(events, "classified, running", classified(first, a, policy.Listed))
	second := r.start(a)
	r.await(events, "classified, started", classified(second, a, policy.Listed))
	child, err := second.Fork(r.ctx)
	r.ok(err)
	r.await(events, "classified, born", classified(child, a, policy.Listed))
	r.ok(child.Exit(r.ctx, 0))
	r.await(events, "gone", func(ev api.Event) bool { return ev.Kind == api.EventGone && ev.PID == child.PID() && ev.App == a })
	r.ok(world.TunnelDown())
	r.await(events, "network", func(ev api.Event) bool { return ev.Kind == api.EventNetwork })
	r.await(events, "state", func(ev api.Event) bool { return ev.Kind == api.EventState && ev.Text == string(api.Ready) })
	_, err = e.Include(r.ctx, []string{a})
	r.ok(err)
	r.await(events, "included", func(ev api.Event) bool { return ev.Kind == api.EventIncluded && ev.App == a })
	cancel()
	for range events { // ends
	}
	later := e.Events(r.ctx)
	r.ok(e.stop())
	for range later { // ends with the engine
	}
	for range e.Events(r.ctx) { // has ended
	}
}

func TestASubscriberThatSleepsIsToldWhatItLost(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	a := r.install("a")
	e := r.run(sidestep.Options{})
	_, err := e.Exclude(r.ctx, []string{a})
	r.ok(err)
	ctx, cancel := context.WithCancel(r.ctx)
	defer cancel()
	sleeper, witness := e.Events(ctx), e.Events(ctx)
	parent := r.start(a)
	const births = 1500
	stormed := make(chan error, 1)
	go func() {
		_, err := parent.Storm(r.ctx, actor.Storm{Count: births})
		stormed <- err
	}()
	gone := uint64(0)
	r.await(witness, "of the last end", func(ev api.Event) bool {
		if ev.Kind == api.EventGone {
			gone++
		}
		return gone+ev.Lost >= births
	})
	r.ok(<-stormed)
	r.await(sleeper, "of the first", func(ev api.Event) bool { return ev.Kind == api.EventClassified })
	_, err = e.Include(r.ctx, []string{a})
	r.ok(err)
	if ev := r.await(sleeper, "lost", func(ev api.Event) bool { return ev.Kind == api.EventLost }); ev.Lost == 0 {
		t.Errorf("the event says %+v", ev)
	}
}
