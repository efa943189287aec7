package leak_test

import (
	"context"
	"sync"
	"sync/atomic"

	"sidestep/internal/lab/actor"
)

// A stream is one program that is started without a break.
type stream struct {
	*rig
	probe string
	want  side
	port  uint16
	// always: every start must be able to send. What can't is not counted otherwise.
	always bool
	n      atomic.Int64 // starts that have ended well
	over   atomic.Bool
}

// gust is how many starts a stream counts at a time.
const gust = 20

// run starts the probe until ctx ends. What is begun is counted to the end.
func (s *stream) run(ctx context.Context, by *actor.Actor) {
	defer s.over.Store(true)
	args := append([]string{s.probe}, actor.ProbeArgs(actor.ProbeUDP, internet4(s.port), 1)...)
	storm := actor.Storm{Count: gust, Width: 4, Image: &actor.Image{Path: s.probe, Args: args}}
	for ctx.Err() == nil {
		good, err := by.Storm(s.ctx, storm)
		if err != nil || s.always && good != gust {
			s.t.Errorf("%d of %d starts of %s could send: %v", good, gust, s.probe, err)
			return
		}
		s.n.Add(int64(good))
	}
}

// traffic starts probes without a break until stop is called, which fails unless all took their side.
func (r *rig) traffic(probes map[string]side, always bool) (stop func()) {
	r.t.Helper()
	ctx, cancel := context.WithCancel(r.ctx)
	var wg sync.WaitGroup
	var streams []*stream
	path := r.install("traffic")
	for probe, want := range probes {
		s := &stream{rig: r, probe: probe, want: want, port: r.port(), always: always}
		streams = append(streams, s)
		a := r.start(path)
		wg.Go(func() { s.run(ctx, a) })
	}
	return func() {
		r.t.Helper()
		for _, s := range streams {
			r.wait("100 starts of "+s.probe, func() bool { return s.n.Load() >= 100 || s.over.Load() })
		}
		cancel()
		wg.Wait()
		for _, s := range streams {
			r.wantSide("starts of "+s.probe+" meanwhile", s.port, s.want, int(s.n.Load()))
		}
	}
}
