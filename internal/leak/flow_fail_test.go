package leak_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"sidestep"
	"sidestep/internal/lab"
	"sidestep/internal/lab/actor"
	"sidestep/internal/lab/labtest"
)

// TestChangeThatFailsCutsNothing is about changes that cannot be done as a whole: everything stays as it was, open
// flows included, and the error names the app that is to blame.
func TestChangeThatFailsCutsNothing(t *testing.T) {
	t.Parallel()
	r := newRig(t, lab.Options{})
	r.smallState()
	r.engage(sidestep.Options{})
	in, out := r.install("in"), r.install("out")
	r.exclude(out)
	apps := map[side]*actor.Actor{inside: r.start(in), outside: r.start(out)}
	host := r.elsewhere(r.world.Internet)
	folder, loop, nobody := filepath.Dir(r.at("folder/x")), r.at("loop"), r.at("nobody")
	r.ok(os.Symlink(loop, loop))
	for _, c := range []struct {
		name   string
		change func() error
		blamed string
	}{
		{"exclude a directory as a program", func() error { return r.tryExclude(in, folder) }, folder},
		{"exclude a program as a directory", func() error { return r.tryExclude(in, out+"/") }, out + "/"},
		{"exclude a link to itself", func() error { return r.tryExclude(in, loop) }, loop},
		{"include what is not excluded", func() error { return r.tryInclude(out, nobody) }, nobody},
		{"exclude with a full disk", func() error { return r.onFullDisk(func() error { return r.tryExclude(in) }) }, in},
		{"include with a full disk", func() error { return r.onFullDisk(func() error { return r.tryInclude(out) }) }, out},
	} {
		t.Run(c.name, func(t *testing.T) {
			r.sub(t).wantFailure(apps, host, c.change, c.blamed)
		})
	}
	r.wantCutAtLast(in, apps[inside], host)
}

// wantFailure fails unless the change fails, blames a path, and changes nothing for two programs.
func (r *rig) wantFailure(apps map[side]*actor.Actor, host *actor.Actor, change func() error, blamed string) {
	r.t.Helper()
	flows := map[side][]*flow{}
	for s, a := range apps {
		flows[s] = r.dial(a, host, internet...)
	}
	if err := change(); err == nil || !strings.Contains(err.Error(), blamed) {
		r.t.Errorf("error %v, want one that names %s", err, blamed)
	}
	for s, a := range apps {
		for _, f := range append(flows[s], r.dial(a, host, internet...)...) {
			f.lives("after a change that failed")
			f.wantOn(s, "after a change that failed")
		}
	}
}

// wantCutAtLast shows that a change cuts when it can be done: that is the sensor.
func (r *rig) wantCutAtLast(listed string, app, host *actor.Actor) {
	r.t.Helper()
	flows := r.dial(app, host, internet...)
	r.exclude(listed)
	for _, f := range flows {
		f.wantCut("after a change that did not fail")
	}
	r.wantNoMixture()
}

// TestAppWhoseSocketsFindNoMemoryForANoteIsNotExcluded takes the memory away that sockets may have for such things. Nobody
// would know of a connection without a note: it would stay inside.
func TestAppWhoseSocketsFindNoMemoryForANoteIsNotExcluded(t *testing.T) {
	t.Parallel()
	r := newRig(t, lab.Options{})
	r.engage(sidestep.Options{})
	listed := r.install("listed")
	a, host := r.start(listed), r.elsewhere(r.world.Internet)
	flows := r.dial(a, host, internet...)
	before := r.optionMemory("0")
	if err := r.tryExclude(listed); err == nil || !strings.Contains(err.Error(), "no memory to note") {
		t.Errorf("error %v, want one that names the want of memory", err)
	}
	r.optionMemory(before)
	for _, f := range flows {
		f.lives("after a change that failed")
		f.wantOn(inside, "after a change that failed")
	}
	r.goes(a, inside, "after a change that failed")
	r.wantCutAtLast(listed, a, host)
}

// optionMemory limits how much memory a socket on the machine may have beside its packets, and returns the limit before.
func (r *rig) optionMemory(limit string) (before string) {
	r.t.Helper()
	const name = "core/optmem_max"
	err := r.world.Machine.Do(func() error {
		b, err := os.ReadFile(filepath.Join("/proc/sys/net", name))
		before = strings.TrimSpace(string(b))
		return errors.Join(err, setSysctl(name, limit))
	})
	if errors.Is(err, os.ErrNotExist) { // before Linux 6.8
		labtest.Skip(r.t, "this kernel has no limit of a socket's memory for each network namespace")
	}
	r.ok(err)
	return before
}

func (r *rig) tryExclude(paths ...string) error {
	_, err := r.engine.Exclude(r.ctx, paths)
	return err
}

func (r *rig) tryInclude(paths ...string) error {
	_, err := r.engine.Include(r.ctx, paths)
	return err
}

// smallState puts the state directory on a disk of its own, of 64 kilobytes.
func (r *rig) smallState() {
	r.t.Helper()
	r.ok(os.Mkdir(r.state, 0o700))
	r.ok(unix.Mount("small", r.state, "tmpfs", 0, "size=64k"))
	r.t.Cleanup(func() { r.ok(unix.Unmount(r.state, 0)) })
}

// onFullDisk calls fn while there is no room in the state directory.
func (r *rig) onFullDisk(fn func() error) (err error) {
	r.t.Helper()
	f, err := os.Create(filepath.Join(r.state, "ballast"))
	r.ok(err)
	for err == nil {
		_, err = f.Write(make([]byte, 4096))
	}
	if !errors.Is(err, unix.ENOSPC) {
		r.t.Errorf("the disk fills up with error %v, want ENOSPC", err)
	}
	defer func() { r.ok(errors.Join(f.Close(), os.Remove(f.Name()))) }()
	return fn()
}
