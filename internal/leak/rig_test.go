package leak_test

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sidestep"
	"sidestep/api"
	"sidestep/internal/lab"
	"sidestep/internal/lab/actor"
	"sidestep/internal/lab/labtest"
)

// limit is what a test may take, times twenty with -long; most take a second.
const limit = 5 * time.Minute

// An engine is a sidestep.Engine, or a daemon behind its socket.
type engine interface {
	Exclude(ctx context.Context, paths []string) (api.Changes, error)
	Include(ctx context.Context, paths []string) (api.Changes, error)
	Apps(ctx context.Context) (api.Apps, error)
	Processes(ctx context.Context, all bool) (api.Processes, error)
	Status(ctx context.Context) (api.Status, error)
}

// A rig is a world with a stage of actors on its machine, and mostly an engine that governs it.
type rig struct {
	t      *testing.T
	ctx    context.Context
	world  *lab.World
	stage  *actor.Stage
	engine engine
	dir    string        // for programs; every sub has its own
	ports  *atomic.Int64 // the last that was used: every case has its own
	state  string
}

// newRig makes a world and a stage, and no engine.
func newRig(t *testing.T, opts lab.Options) *rig {
	t.Helper()
	labtest.NeedRoot(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Duration(times(1))*limit)
	t.Cleanup(cancel)
	dir := t.TempDir()
	r := &rig{t: t, ctx: ctx, dir: filepath.Join(dir, "p"), ports: new(atomic.Int64), state: filepath.Join(dir, "state")}
	r.ports.Store(20000)
	r.ok(os.Mkdir(r.dir, 0o755))
	var err error
	r.world, err = lab.New(ctx, opts)
	r.ok(err)
	t.Cleanup(func() { r.ok(r.world.Close()) })
	r.stage, err = actor.Listen(dir)
	r.ok(err)
	t.Cleanup(func() { r.ok(r.stage.Close()) })
	return r
}

// engaged is newRig in the usual world, with an engine in it.
func engaged(t *testing.T) *rig {
	t.Helper()
	r := newRig(t, lab.Options{})
	r.run()
	r.wait("the engine to be engaged", func() bool { return r.status().State == api.Engaged })
	return r
}

// run starts an engine in this process. It ends with the test, and takes everything back.
func (r *rig) run() {
	r.t.Helper()
	var e *sidestep.Engine
	err := r.world.Machine.Do(func() (err error) {
		e, err = sidestep.New(sidestep.Options{State: r.state})
		return err
	})
	r.ok(err)
	ctx, cancel := context.WithCancel(context.WithoutCancel(r.ctx))
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	r.t.Cleanup(sync.OnceFunc(func() {
		cancel()
		r.ok(<-done)
	}))
	select {
	case <-e.Ready():
	case <-r.ctx.Done():
		r.t.Fatalf("the engine is not ready: %v", context.Cause(r.ctx))
	}
	r.engine = e
}

// sub is the rig for a subtest: the same world, and a directory of its own.
func (r *rig) sub(t *testing.T) *rig {
	t.Helper()
	s := *r
	s.t = t
	s.dir = filepath.Join(r.dir, fmt.Sprint(s.port()))
	s.ok(os.Mkdir(s.dir, 0o755))
	return &s
}

func (r *rig) ok(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

// port returns a port that no packet has been sent to yet, and where nobody listens.
func (r *rig) port() uint16 { return uint16(r.ports.Add(1)) }

// at makes the path of a name in the rig's directory, and the directories on the way.
func (r *rig) at(name string) string {
	r.t.Helper()
	path := filepath.Join(r.dir, name)
	r.ok(os.MkdirAll(filepath.Dir(path), 0o755))
	return path
}

// install puts an actor at a name in the rig's directory.
func (r *rig) install(name string) string {
	r.t.Helper()
	path := r.at(name)
	r.ok(actor.Install(path))
	return path
}

// probe puts a probe at a name in the rig's directory.
func (r *rig) probe(name string) string {
	r.t.Helper()
	path := r.at(name)
	r.ok(actor.InstallProbe(path))
	return path
}

// start starts a program on the machine, as a child of nobody that matters.
func (r *rig) start(path string) *actor.Actor {
	r.t.Helper()
	a, err := r.stage.Start(r.ctx, path, actor.Options{Start: r.world.Machine.Start})
	r.ok(err)
	return a
}

// exec makes a child of a that executes im.
func (r *rig) exec(a *actor.Actor, im actor.Image) *actor.Actor {
	r.t.Helper()
	child, err := a.ForkExec(r.ctx, actor.ByFork, im)
	r.ok(err)
	return child
}

func (r *rig) exclude(paths ...string) {
	r.t.Helper()
	_, err := r.engine.Exclude(r.ctx, paths)
	r.ok(err)
}

func (r *rig) include(paths ...string) {
	r.t.Helper()
	_, err := r.engine.Include(r.ctx, paths)
	r.ok(err)
}

func (r *rig) status() api.Status {
	r.t.Helper()
	s, err := r.engine.Status(r.ctx)
	r.ok(err)
	return s
}

// app returns what the engine says of an app.
func (r *rig) app(path string) api.App {
	r.t.Helper()
	apps, err := r.engine.Apps(r.ctx)
	r.ok(err)
	for _, a := range apps.Apps {
		if a.Path == path {
			return a
		}
	}
	r.t.Fatalf("%s is not in the policy", path)
	return api.App{}
}

// wait looks again and again until something is so.
func (r *rig) wait(what string, so func() bool) {
	r.t.Helper()
	r.waitUpTo(time.Minute, what, so)
}

func (r *rig) waitUpTo(limit time.Duration, what string, so func() bool) {
	r.t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	ctx, cancel := context.WithTimeout(r.ctx, limit)
	defer cancel()
	for !so() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			r.t.Fatalf("waited in vain for %s", what)
		}
	}
}

// internet4 and internet6 are a port of the host on the internet.
func internet4(port uint16) netip.AddrPort {
	return netip.AddrPortFrom(netip.MustParseAddr(lab.Internet4), port)
}

func internet6(port uint16) netip.AddrPort {
	return netip.AddrPortFrom(netip.MustParseAddr(lab.Internet6), port)
}
