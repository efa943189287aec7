package sidestep_test

import (
	"bufio"
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sidestep"
	"sidestep/internal/lab"
	"sidestep/internal/lab/actor"
	"sidestep/internal/lab/labtest"
)

// engineEnv makes the test binary an engine on this state directory, that waits to be killed.
const engineEnv = "SIDESTEP_TEST_ENGINE"

const outside = 0x1000_0000

var nowhere = netip.MustParseAddrPort("127.0.0.1:9")

func TestMain(m *testing.M) {
	if state := os.Getenv(engineEnv); state != "" {
		runUntilKilled(state)
	}
	os.Exit(labtest.Main(m))
}

func runUntilKilled(state string) {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM)
	defer stop()
	e, err := sidestep.New(sidestep.Options{State: state})
	if err == nil {
		go func() {
			<-e.Ready()
			fmt.Println("ready")
		}()
		err = e.Run(ctx)
	}
	fmt.Println(err)
	os.Exit(0)
}

// newWorld builds a world that ends with the test.
func newWorld(t *testing.T) *lab.World {
	t.Helper()
	labtest.NeedRoot(t)
	world, err := lab.New(t.Context(), lab.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { world.Close() })
	return world
}

// rig is a network namespace with a stage of actors, where engines can run.
type rig struct {
	t     *testing.T
	ctx   context.Context
	ns    *lab.Namespace
	stage *actor.Stage
	dir   string
	state string
}

// newRig makes a rig in an empty namespace, or in ns.
func newRig(t *testing.T, ns *lab.Namespace) *rig {
	t.Helper()
	labtest.NeedRoot(t)
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	t.Cleanup(cancel)
	r := &rig{t: t, ctx: ctx, ns: ns, dir: t.TempDir()}
	r.state = filepath.Join(r.dir, "state")
	var err error
	if r.ns == nil {
		r.ns, err = lab.NewNamespace()
		r.ok(err)
		t.Cleanup(func() { r.ns.Close() })
	}
	r.stage, err = actor.Listen(r.dir)
	r.ok(err)
	t.Cleanup(func() { r.stage.Close() })
	return r
}

func (r *rig) ok(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

// try makes an engine in the rig's namespace.
func (r *rig) try(o sidestep.Options) (e *sidestep.Engine, err error) {
	if o.State == "" {
		o.State = r.state
	}
	err = r.ns.Do(func() (err error) {
		e, err = sidestep.New(o)
		return err
	})
	return e, err
}

// running is an engine that runs.
type running struct {
	*sidestep.Engine
	stop func() error // takes everything back, once
}

func (r *rig) run(o sidestep.Options) running {
	r.t.Helper()
	e, err := r.try(o)
	r.ok(err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	stopped := false
	stop := func() error {
		if stopped {
			return nil
		}
		stopped = true
		cancel()
		return <-done
	}
	r.t.Cleanup(func() {
		if err := stop(); err != nil {
			r.t.Errorf("the engine: %v", err)
		}
	})
	select {
	case <-e.Ready():
	case err := <-done:
		stopped = true
		cancel()
		r.t.Fatalf("the engine ended: %v", err)
	}
	return running{e, stop}
}

// spawn runs an engine in a process of its own.
func (r *rig) spawn() *exec.Cmd {
	r.t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), engineEnv+"="+r.state)
	out, err := cmd.StdoutPipe()
	r.ok(err)
	r.ok(r.ns.Start(cmd))
	line, err := bufio.NewReader(out).ReadString('\n')
	if line != "ready\n" {
		r.t.Fatalf("the engine says %q (%v)", line, err)
	}
	return cmd
}

func (r *rig) install(name string) string {
	r.t.Helper()
	path := filepath.Join(r.dir, name)
	r.ok(os.MkdirAll(filepath.Dir(path), 0o755))
	r.ok(actor.Install(path))
	return path
}

func (r *rig) start(path string) *actor.Actor {
	r.t.Helper()
	a, err := r.stage.Start(r.ctx, path, actor.Options{Start: r.ns.Start})
	r.ok(err)
	return a
}

func (r *rig) wantMark(a *actor.Actor, want int, when string) {
	r.t.Helper()
	s, err := a.Socket(r.ctx, nowhere, unix.SOCK_DGRAM)
	r.ok(err)
	got, err := a.SocketOption(r.ctx, s, unix.SOL_SOCKET, unix.SO_MARK)
	r.ok(err)
	r.ok(a.CloseSocket(r.ctx, s))
	if got != want {
		r.t.Errorf("%s: a new socket has mark %#x, want %#x", when, got, want)
	}
}
