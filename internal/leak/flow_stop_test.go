package leak_test

import (
	"context"
	"errors"
	"testing"

	"golang.org/x/sys/unix"

	"sidestep"
	"sidestep/internal/lab"
	"sidestep/internal/lab/actor"
	"sidestep/policy"
)

// engage starts an engine with options that run does not give. It takes everything back when stop is called, at the end
// of the test at the latest.
func (r *rig) engage(opts sidestep.Options) (e *sidestep.Engine, stop func()) {
	r.t.Helper()
	opts.State = r.state
	err := r.world.Machine.Do(func() (err error) {
		e, err = sidestep.New(opts)
		return err
	})
	if opts.Strict {
		r.needStrict(err)
	}
	r.ok(err)
	ctx, cancel := context.WithCancel(context.WithoutCancel(r.ctx))
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	ended := false
	stop = func() {
		if !ended {
			ended = true
			cancel()
			r.ok(<-done)
		}
	}
	r.t.Cleanup(stop)
	select {
	case <-e.Ready():
	case <-r.ctx.Done():
		r.t.Fatalf("the engine is not ready: %v", context.Cause(r.ctx))
	}
	r.engine = e
	return e, stop
}

// endings are the ways in which everything is taken back.
var endings = []struct {
	name  string
	begin func(r *rig) (end func())
}{
	{"an engine that is stopped", func(r *rig) func() {
		_, stop := r.engage(sidestep.Options{})
		return stop
	}},
	{"a daemon that is asked to end", func(r *rig) func() { return r.daemon().stop }},
	{"clean after a daemon that was killed", func(r *rig) func() {
		d := r.daemon()
		return func() {
			d.kill()
			r.clean()
		}
	}},
}

// forEndings runs a test once for each way in which everything is taken back. The app is excluded when it begins.
func forEndings(t *testing.T, test func(r *rig, listed string, end func())) {
	t.Helper()
	t.Parallel()
	for _, e := range endings {
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, lab.Options{})
			end := e.begin(r)
			listed := r.install("listed")
			r.ends(r.start(listed), inside, "before it is excluded")
			r.exclude(listed)
			test(r, listed, end)
		})
	}
}

func TestEverythingOutsideIsCutWhenAllIsTakenBack(t *testing.T) {
	forEndings(t, func(r *rig, listed string, end func()) {
		app, other := r.start(listed), r.start(r.install("other"))
		host, lan := r.elsewhere(r.world.Internet), r.elsewhere(r.world.Router)
		remote := r.dial(app, host, internet...)
		idle := r.dial(app, host, internet...)
		local := append(r.dial(app, lan, addrs(lab.LAN4, lab.LAN6)...), r.dial(app, other, addrs("127.0.0.1", "::1")...)...)
		others := r.dial(other, host, internet...)
		for _, f := range remote {
			f.lives("before")
			f.wantOn(outside, "before")
		}
		end()
		for _, f := range append(remote, idle...) {
			if f.kind == actor.TCP {
				f.wantCut("once all is taken back")
			} else {
				f.wantSilent("once all is taken back")
			}
		}
		for _, f := range append(local, others...) {
			f.lives("once all is taken back")
		}
		for _, f := range r.dial(app, host, internet...) {
			f.lives("new, once all is taken back")
			f.wantOn(inside, "new, once all is taken back")
		}
		r.wantNoMixture()
	})
}

// TestSocketsThatWereMadeOutsideAreOverWhenAllIsTakenBack is about sockets that the engine blocks as long as it lives.
// Nobody does afterwards, so they are shut down.
func TestSocketsThatWereMadeOutsideAreOverWhenAllIsTakenBack(t *testing.T) {
	forEndings(t, func(r *rig, listed string, end func()) {
		app, host := r.start(listed), r.elsewhere(r.world.Internet)
		var flows []*flow
		for _, was := range []string{"of an app that is excluded", "of an app that was included"} {
			for i, s := range r.sockets(app, unix.SOCK_DGRAM) {
				f := r.unconnected(app, s, host, internet[i], sources[outside][i])
				f.name += ", " + was
				f.lives("before")
				f.wantOn(outside, "before")
				flows = append(flows, f)
			}
			if len(flows) == len(internet) {
				r.include(listed)
				for _, f := range flows {
					f.wantBlocked("once its app is included", outside)
				}
				r.exclude(listed)
			}
		}
		end()
		for _, f := range flows {
			if err := f.wantSilent("once all is taken back"); !errors.Is(err, unix.EPIPE) {
				r.t.Errorf("%s: the program sends with error %v, want EPIPE", f.name, err)
			}
			r.wantNothing(inside, f.port)
		}
		r.wantNoMixture()
	})
}

// TestEveryChangeOfThePolicyCuts is about the ways to change the policy that are not exclude and include.
func TestEveryChangeOfThePolicyCuts(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(r *rig, e *sidestep.Engine, paths ...string){
		"Replace": func(r *rig, e *sidestep.Engine, paths ...string) {
			_, err := e.Replace(r.ctx, paths)
			r.ok(err)
		},
		"Reload": func(r *rig, e *sidestep.Engine, paths ...string) {
			p, err := policy.Parse(paths)
			r.ok(err)
			r.ok(e.Reload(r.ctx, sidestep.Options{State: r.state, Exclude: p}))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, lab.Options{})
			e, _ := r.engage(sidestep.Options{})
			r.swap(func(paths ...string) { change(r, e, paths...) })
			r.wantNoMixture()
		})
	}
}

// swap lets two apps change places in the policy, twice, beside one that stays in it.
func (r *rig) swap(change func(paths ...string)) {
	r.t.Helper()
	one, two, stays := r.install("one"), r.install("two"), r.install("stays")
	apps := map[string]*actor.Actor{one: r.start(one), two: r.start(two), stays: r.start(stays)}
	host := r.elsewhere(r.world.Internet)
	for _, p := range []struct{ goes, comes string }{{one, two}, {two, one}} {
		change(stays, p.goes)
		flows := map[string][]*flow{}
		for path, a := range apps {
			flows[path] = r.dial(a, host, internet...)
			for _, f := range flows[path] {
				f.lives("before")
				f.wantOn(side(path != p.comes), "before")
			}
		}
		change(p.comes, stays)
		for _, f := range append(flows[p.goes], flows[p.comes]...) {
			f.wantCut("of an app that has changed sides")
		}
		for _, f := range flows[stays] {
			f.lives("of an app that has not changed sides")
			f.wantOn(outside, "of an app that has not changed sides")
		}
	}
}
