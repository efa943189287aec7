package leak_test

import (
	"context"
	"errors"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"

	"sidestep/internal/lab"
	"sidestep/internal/lab/actor"
)

// crowds are the starts that are counted.
var crowds = []struct {
	name  string
	kind  actor.ProbeKind
	to    func(uint16) netip.AddrPort
	n     int
	vfork bool
}{
	{"UDP over IPv4", actor.ProbeUDP, internet4, 2000, false},
	{"UDP over IPv6", actor.ProbeUDP, internet6, 2000, true},
	{"TCP over IPv4", actor.ProbeSYN, internet4, 300, false},
	{"TCP over IPv6", actor.ProbeSYN, internet6, 300, false},
}

func TestFirstPacketOfEveryStartIsOnItsSide(t *testing.T) {
	t.Parallel()
	r := newRig(t, lab.Options{MaxFlows: 1 << 18})
	r.run()
	testCrowds(r)
}

func TestFirstPacketOfEveryStartIsOnItsSideInForkStorms(t *testing.T) {
	t.Parallel()
	r := newRig(t, lab.Options{MaxFlows: 1 << 18})
	r.run()
	stop := r.storms(4)
	defer stop()
	testCrowds(r)
	n := r.status().Counters
	t.Logf("the kernel did not tell of %d events; %d labels were made good at a socket", n["events_missed"], n["healed_at_socket"])
}

// testCrowds starts an excluded and an included program very often. The sensor is proven first: a program that is
// about to be excluded is seen inside.
func testCrowds(r *rig) {
	starter := r.start(r.install("starter"))
	listed, other := r.probe("listed/probe"), r.probe("other/probe")
	for _, c := range crowds {
		port := r.port()
		r.crowd(starter, listed, c.kind, c.to(port), 100, c.vfork)
		r.wantSide(c.name+" before it is excluded", port, inside, 100)
	}
	r.exclude(listed)
	for _, c := range crowds {
		r.t.Run(c.name, func(t *testing.T) {
			r := r.sub(t)
			r.ok(r.world.Wires().Uplink.Reset())
			r.ok(r.world.Wires().Tunnel.Reset())
			n := times(c.n)
			port := r.port()
			r.crowd(starter, listed, c.kind, c.to(port), n, c.vfork)
			r.wantSide("starts of an excluded program", port, outside, n)
			port = r.port()
			r.crowd(starter, other, c.kind, c.to(port), n, c.vfork)
			r.wantSide("starts of an included program", port, inside, n)
		})
	}
}

// crowd starts a probe n times, each of which sends one packet.
func (r *rig) crowd(by *actor.Actor, probe string, kind actor.ProbeKind, to netip.AddrPort, n int, vfork bool) {
	r.t.Helper()
	args := append([]string{probe}, actor.ProbeArgs(kind, to, 1)...)
	good, err := by.Storm(r.ctx, actor.Storm{
		Count: n, Width: 8, Image: &actor.Image{Path: probe, Args: args}, Vfork: vfork,
	})
	r.ok(err)
	if good != n {
		r.t.Errorf("%d of %d probes could send", good, n)
	}
}

// storms keeps n actors forking until stop is called.
func (r *rig) storms(n int) (stop func()) {
	r.t.Helper()
	ctx, cancel := context.WithCancel(r.ctx)
	var wg sync.WaitGroup
	var gusts atomic.Int64
	path := r.install("storm")
	for range n {
		a := r.start(path)
		wg.Go(func() {
			for ctx.Err() == nil {
				if _, err := a.Storm(ctx, actor.Storm{Count: 100, Width: 4}); err != nil && !errors.Is(err, context.Canceled) {
					r.t.Errorf("storm: %v", err)
					return
				}
				gusts.Add(1)
			}
		})
	}
	return func() {
		cancel()
		wg.Wait()
		if gusts.Load() < 10 {
			r.t.Errorf("the storms were %d gusts of 100 processes, want more", gusts.Load())
		}
	}
}
