//go:build !deaf

package datapath_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"sidestep/internal/datapath"
	"sidestep/internal/identity"
	"sidestep/internal/lab"
	"sidestep/internal/lab/actor"
	"sidestep/policy"
)

// markOf is rig.mark for goroutines that must not end the test.
func markOf(ctx context.Context, a *actor.Actor) (int, error) {
	s, err := a.Socket(ctx, nowhere, unix.SOCK_STREAM)
	if err != nil {
		return 0, err
	}
	m, err := a.SocketOption(ctx, s, unix.SOL_SOCKET, unix.SO_MARK)
	return m, errors.Join(err, a.CloseSocket(ctx, s))
}

// watchMarks has parent make children and sockets until ctx ends, and fails at the first that has no mark. It returns
// how many it saw.
func watchMarks(ctx context.Context, parent *actor.Actor) (int, error) {
	for n := 0; ; n++ {
		if ctx.Err() != nil {
			return n, nil
		}
		free := context.WithoutCancel(ctx)
		child, err := parent.Fork(free)
		if err != nil {
			return n, err
		}
		for _, a := range []*actor.Actor{parent, child} {
			if m, err := markOf(free, a); err != nil || m != outside {
				return n, fmt.Errorf("a socket has mark %#x: %w", m, err)
			}
		}
		if err := child.Exit(free, 0); err != nil {
			return n, err
		}
	}
}

func TestAdoptingLeavesNoGap(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	listed, other, third := r.install("listed"), r.install("other"), r.install("third")
	r.exclude(listed, third)
	running, bystander := r.start(listed), r.start(other)
	ctx, stop := context.WithCancel(r.ctx)
	defer stop()
	type result struct {
		n   int
		err error
	}
	watched := make(chan result, 1)
	go func() {
		n, err := watchMarks(ctx, running)
		watched <- result{n, err}
	}()
	seed := r.Seed()
	for range 4 {
		last, err := r.NewApp()
		r.ok(err)
		r.ok(r.Close())
		r.wantMark(bystander, 0, "with nobody driving the datapath")
		r.wantMark(r.start(third), outside, "started with nobody driving the datapath")
		r.open()
		if !r.Adopted() || r.Seed() != seed {
			t.Fatalf("adopted %t, seed %x, want true and %x", r.Adopted(), r.Seed(), seed)
		}
		if next, err := r.NewApp(); err != nil || next <= last {
			t.Fatalf("app numbers go from %d to %d (%v)", last, next, err)
		}
		r.exclude(listed, third) // by the same numbers
	}
	stop()
	if w := <-watched; w.err != nil || w.n == 0 {
		t.Errorf("after %d births: %v", w.n, w.err)
	}
	r.exclude(third)
	r.wantMark(running, 0, "once it is included")
}

func TestRemoveLeavesNothing(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	listed := r.install("listed")
	r.exclude(listed)
	running := r.start(listed)
	r.wantMark(running, outside, "while excluded")
	programs := r.ProgramIDs()
	r.exclude()
	r.ok(r.Remove())
	r.wantMark(running, 0, "after Remove")
	if _, err := os.Stat(r.opts.Pins); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the pins are still there: %v", err)
	}
	for _, id := range programs {
		for { // the kernel frees them when nobody can be running them any more
			p, err := ebpf.NewProgramFromID(id)
			if errors.Is(err, fs.ErrNotExist) {
				break
			}
			r.ok(err)
			r.ok(p.Close())
			r.ok(r.ctx.Err())
		}
	}
	if removed, err := datapath.Clean(r.opts.Pins); err != nil || len(removed) > 0 {
		t.Errorf("cleaning then removed %q (%v)", removed, err)
	}
	r.open()
	if r.Adopted() {
		t.Error("something was adopted after Remove")
	}
}

// pinAnything puts something of BPF at a path.
func pinAnything(t *testing.T, path string) {
	t.Helper()
	m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 4, MaxEntries: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := m.Pin(path); err != nil {
		t.Fatal(err)
	}
}

func TestACrashWhilePinningIsCleanedUp(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.ok(r.Remove())
	aside := r.opts.Pins + "-new"
	pinAnything(t, filepath.Join(aside, "maps", "settings"))
	r.open()
	if r.Adopted() {
		t.Error("half-made pins were adopted")
	}
	if _, err := os.Stat(aside); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the half-made pins are still there: %v", err)
	}
	r.ok(r.Close())
	half := filepath.Join(r.opts.Pins, "links", "exec-new")
	pinAnything(t, half)
	r.open()
	if !r.Adopted() {
		t.Error("the pins were not adopted")
	}
	if _, err := os.Stat(half); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the half-made link is still there: %v", err)
	}
	r.ok(r.Close())
	pinAnything(t, filepath.Join(aside, "links", "exec"))
	pinAnything(t, half)
	if removed, err := datapath.Clean(r.opts.Pins); err != nil || len(removed) == 0 {
		t.Errorf("cleaning removed %q (%v)", removed, err)
	}
	for _, dir := range []string{r.opts.Pins, aside} {
		if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is still there: %v", dir, err)
		}
	}
}

func TestOpenRefusesWhatIsNotItsOwn(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	listed := r.install("listed")
	r.exclude(listed)
	running := r.start(listed)
	r.ok(r.Close())

	elsewhere, err := lab.NewNamespace()
	r.ok(err)
	defer elsewhere.Close()
	open := func(ns *lab.Namespace) error {
		return ns.Do(func() error {
			d, err := datapath.Open(r.opts)
			if err == nil {
				err = errors.Join(errors.New("it was opened"), d.Close())
			}
			return err
		})
	}
	if err := open(elsewhere); !errors.Is(err, datapath.ErrNamespace) {
		t.Errorf("from another namespace: %v, want %v", err, datapath.ErrNamespace)
	}
	settings, err := ebpf.LoadPinnedMap(filepath.Join(r.opts.Pins, "maps", "settings"), nil)
	r.ok(err)
	defer settings.Close()
	raw, err := settings.LookupBytes(uint32(0))
	r.ok(err)
	ours := binary.NativeEndian.Uint64(raw)
	binary.NativeEndian.PutUint64(raw, ours+1)
	r.ok(settings.Put(uint32(0), raw))
	if err := open(r.ns); !errors.Is(err, datapath.ErrLater) {
		t.Errorf("of a later version: %v, want %v", err, datapath.ErrLater)
	}
	binary.NativeEndian.PutUint64(raw, ours-1)
	r.ok(settings.Put(uint32(0), raw))
	labels, hidden := filepath.Join(r.opts.Pins, "maps", "labels"), filepath.Join(r.opts.Pins, "maps", "hidden")
	r.ok(os.Rename(labels, hidden))
	pinAnything(t, labels)
	if err := open(r.ns); !errors.Is(err, datapath.ErrLayout) {
		t.Errorf("of an older version with other labels: %v, want %v", err, datapath.ErrLayout)
	}
	r.ok(os.Rename(hidden, labels))
	r.wantMark(running, outside, "after the refusals")
	binary.NativeEndian.PutUint64(raw, ours)
	r.ok(settings.Put(uint32(0), raw))
	r.open()
	r.wantMark(running, outside, "once it is adopted")
}

// rulesOfAProgram is how many rules a program in a test's directory has: one, and one more for each mount on the way.
func rulesOfAProgram(t *testing.T) uint32 {
	t.Helper()
	app, err := policy.ParsePath(filepath.Join(t.TempDir(), "program"))
	if err != nil {
		t.Fatal(err)
	}
	target, err := identity.Resolve(app)
	if err != nil {
		t.Fatal(err)
	}
	return uint32(len(datapath.RulesFor(identity.NewHasher([16]byte{}), target)))
}

func TestASetThatFailsChangesNothing(t *testing.T) {
	t.Parallel()
	r := newRigWith(t, map[string]uint32{"rules": 2 * rulesOfAProgram(t)})
	a, b, c := r.install("a"), r.install("b"), r.install("c")
	r.exclude(a)
	runsA, runsB := r.start(a), r.start(b)
	before := r.ids
	check := func(when string) {
		t.Helper()
		r.wantMark(runsA, outside, "excluded, "+when)
		r.wantMark(r.start(a), outside, "excluded and started "+when)
		r.wantMark(runsB, 0, "not excluded, "+when)
		r.wantMark(r.start(b), 0, "not excluded and started "+when)
	}
	cancelled, cancel := context.WithCancel(r.ctx)
	cancel()
	for _, want := range [][]string{{a, b}, {b}} {
		apps := r.compile(want)
		if err := r.Set(cancelled, apps, keep); !errors.Is(err, context.Canceled) {
			t.Errorf("excluding %q after the context's end: %v", want, err)
		}
		r.ids = before
		check("after a Set that was cancelled")
	}
	for _, want := range [][]string{{a, b, c}, {b, c}} {
		apps := r.compile(want)
		if err := r.Set(r.ctx, apps, keep); !errors.Is(err, unix.E2BIG) {
			t.Errorf("excluding %q with too few rules: %v", want, err)
		}
		r.ids = before
		check("after a Set that found no room")
	}
	r.exclude(b)
	r.wantMark(runsA, 0, "included at last")
	r.wantMark(runsB, outside, "excluded at last")
}

func TestOfTwoDatapathsThatStartAtOnceOneIsRefused(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.ok(r.Remove())
	type result struct {
		d   *datapath.Datapath
		err error
	}
	results := make(chan result, 2)
	for _, name := range []string{"-left", "-right"} {
		opts := r.opts
		opts.Pins += name
		go func() {
			var one result
			one.err = r.ns.Do(func() (err error) {
				one.d, err = datapath.Open(opts)
				return err
			})
			results <- one
		}()
	}
	var (
		refused, opened int
		first           *datapath.Datapath
	)
	for range 2 {
		switch one := <-results; {
		case one.err == nil:
			opened++
			first = one.d
		case errors.Is(one.err, datapath.ErrGoverned):
			refused++
		default:
			t.Error(one.err)
		}
	}
	if opened != 1 || refused != 1 {
		t.Errorf("%d were opened and %d refused, want one each", opened, refused)
	}
	r.ok(first.Remove())
	r.open()
}

func TestASecondDatapathForOneNamespaceIsRefused(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	second := r.opts
	second.Pins += "-second"
	err := r.ns.Do(func() error {
		d, err := datapath.Open(second)
		if err == nil {
			d.Remove()
		}
		return err
	})
	if !errors.Is(err, datapath.ErrGoverned) {
		t.Errorf("a second datapath in the same network namespace: %v, want %v", err, datapath.ErrGoverned)
	}
	other, err := lab.NewNamespace()
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	err = other.Do(func() error {
		d, err := datapath.Open(second)
		if err == nil {
			err = d.Remove()
		}
		return err
	})
	if err != nil {
		t.Errorf("a datapath in another network namespace: %v", err)
	}
}
