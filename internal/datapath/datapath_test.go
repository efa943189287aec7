package datapath_test

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sidestep/internal/datapath"
	"sidestep/internal/identity"
	"sidestep/internal/lab"
	"sidestep/internal/lab/actor"
	"sidestep/internal/lab/labtest"
	"sidestep/internal/mountinfo"
	"sidestep/policy"
)

func TestMain(m *testing.M) { os.Exit(labtest.Main(m)) }

var nowhere = netip.MustParseAddrPort("127.0.0.1:9")

const (
	mask    = 0x7000_0000
	outside = 0x1000_0000
)

// rig is a datapath that governs a network namespace of its own, and a stage of actors in it.
type rig struct {
	*datapath.Datapath
	t     testing.TB
	ctx   context.Context
	ns    *lab.Namespace
	stage *actor.Stage
	dir   string
	opts  datapath.Options
	ids   map[string]uint32
	apps  []datapath.App
}

func newRig(t testing.TB) *rig {
	t.Helper()
	return newRigWith(t, nil)
}

// newRigWith makes a rig some of whose maps are small.
func newRigWith(t testing.TB, sizes map[string]uint32) *rig {
	t.Helper()
	labtest.NeedRoot(t)
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	t.Cleanup(cancel)
	r := &rig{t: t, ctx: ctx, dir: t.TempDir(), ids: map[string]uint32{}}
	var err error
	if r.ns, err = lab.NewNamespace(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.ns.Close() })
	if r.stage, err = actor.Listen(r.dir); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.stage.Close() })
	cgroup, err := mountinfo.Cgroup2Root()
	if err != nil {
		t.Fatal(err)
	}
	r.opts = datapath.Options{Pins: filepath.Join("/sys/fs/bpf", "rig-"+filepath.Base(r.dir)+t.Name()), Cgroup: cgroup, Mask: mask}
	r.opts.SetSizes(sizes)
	r.open()
	t.Cleanup(func() { r.Remove() })
	return r
}

func (r *rig) open() {
	r.t.Helper()
	err := r.ns.Do(func() (err error) {
		r.Datapath, err = datapath.Open(r.opts)
		return err
	})
	if err != nil {
		r.t.Fatal(err)
	}
}

// install puts an actor at a path below the rig's directory.
func (r *rig) install(name string) string {
	r.t.Helper()
	path := filepath.Join(r.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		r.t.Fatal(err)
	}
	if err := actor.Install(path); err != nil {
		r.t.Fatal(err)
	}
	return path
}

func (r *rig) start(path string) *actor.Actor {
	r.t.Helper()
	a, err := r.stage.Start(r.ctx, path, actor.Options{Start: r.ns.Start})
	if err != nil {
		r.t.Fatal(err)
	}
	return a
}

// exclude makes the paths the whole policy.
func (r *rig) exclude(paths ...string) {
	r.t.Helper()
	r.apps = r.compile(paths)
	if err := r.Set(r.ctx, r.apps, keep); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) compile(paths []string) []datapath.App {
	r.t.Helper()
	h := identity.NewHasher(r.Seed())
	var apps []datapath.App
	ids := map[string]uint32{}
	for _, p := range paths {
		app, err := policy.ParsePath(p)
		if err != nil {
			r.t.Fatal(err)
		}
		target, err := identity.Resolve(app)
		if err != nil {
			r.t.Fatal(err)
		}
		id, ok := r.ids[p]
		if !ok {
			if id, err = r.NewApp(); err != nil {
				r.t.Fatal(err)
			}
		}
		ids[p] = id
		apps = append(apps, datapath.App{ID: id, Rules: datapath.RulesFor(h, target)})
	}
	r.ids = ids
	return apps
}

// mark returns the mark of a new socket of the actor.
func (r *rig) mark(a *actor.Actor) int {
	r.t.Helper()
	s, err := a.Socket(r.ctx, nowhere, unix.SOCK_DGRAM)
	if err != nil {
		r.t.Fatal(err)
	}
	defer a.CloseSocket(r.ctx, s)
	m, err := a.SocketOption(r.ctx, s, unix.SOL_SOCKET, unix.SO_MARK)
	if err != nil {
		r.t.Fatal(err)
	}
	return m
}

func (r *rig) wantMark(a *actor.Actor, want int, when string) {
	r.t.Helper()
	if got := r.mark(a); got != want {
		r.t.Errorf("%s: a new socket has mark %#x, want %#x", when, got, want)
	}
}

// TestMPTCPIsRefusedToExcludedPrograms is about sockets whose subflows the kernel makes itself: nothing marks those.
func TestMPTCPIsRefusedToExcludedPrograms(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	listed := r.install("listed")
	a := r.start(listed)
	socket := func() error {
		fd, err := a.Syscall(r.ctx, unix.SYS_SOCKET, unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_MPTCP)
		if err == nil {
			_, err = a.Syscall(r.ctx, unix.SYS_CLOSE, int(fd))
		}
		return err
	}
	switch err := socket(); {
	case errors.Is(err, unix.EPROTONOSUPPORT), errors.Is(err, unix.ENOPROTOOPT):
		labtest.Skip(t, "this kernel has no MPTCP, or it is switched off")
	case err != nil:
		t.Fatalf("before it is excluded: %v", err)
	}
	r.exclude(listed)
	if err := socket(); !errors.Is(err, unix.EPROTONOSUPPORT) {
		t.Errorf("once it is excluded: %v, want %v", err, unix.EPROTONOSUPPORT)
	}
	r.wantMark(a, outside, "any other socket")
	r.exclude()
	if err := socket(); err != nil {
		t.Errorf("once it is included again: %v", err)
	}
}

func TestSocketsOfAListedProgramAreMarked(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	listed, other := r.install("listed"), r.install("other")
	running := r.start(listed)
	r.wantMark(running, 0, "before it is excluded")
	r.exclude(listed)
	r.wantMark(running, outside, "once it is excluded")
	r.wantMark(r.start(listed), outside, "started after that")
	r.wantMark(r.start(other), 0, "another program")
	child, err := running.Fork(r.ctx)
	if err != nil {
		t.Fatal(err)
	}
	r.wantMark(child, outside, "a child")
	if err := child.Exec(r.ctx, other); err != nil {
		t.Fatal(err)
	}
	r.wantMark(child, outside, "a child that executes another program")
	r.exclude()
	r.wantMark(running, 0, "once it is included again")
	r.wantMark(child, 0, "its child, once it is included again")
}

// keep is for changes that nobody writes down.
func keep() error { return nil }
