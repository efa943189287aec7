//go:build linux

package actor

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func TestEveryBirth(t *testing.T) {
	for _, by := range Births() {
		for _, onThread := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/thread=%v", by, onThread), func(t *testing.T) {
				w := newWorld(t)
				parent := w.fork(w.root)
				maker := parent
				if onThread {
					maker = parent.OnThread()
				}
				child, err := maker.ForkBy(w.ctx, by)
				w.ok(err)
				w.checkBirth(by, parent, child)
				w.ok(child.Send(w.ctx, w.addr, 1))
				if d := w.hear(); d.PID != child.PID() {
					t.Errorf("heard %+v, want %d", d, child.PID())
				}
				w.ok(w.fork(child).Exit(w.ctx, 0)) // the newcomer is a full actor
				w.ok(child.OnThread().Exec(w.ctx, w.path))
				w.ok(child.Exit(w.ctx, 3))
				w.info(parent)
			})
		}
	}
}

func (w *world) checkBirth(by Birth, parent, child *Actor) {
	w.t.Helper()
	info := w.info(child)
	if info.TID != info.PID {
		w.t.Errorf("the new process speaks with thread %d", info.TID)
	}
	if child.PID() == parent.PID() {
		w.t.Error("no new process")
	}
	switch by {
	case ByCloneParent:
		if want := w.root.PID(); info.PPID != want {
			w.t.Errorf("parent %d, want the grandparent %d", info.PPID, want)
		}
	case ByDoubleFork:
		if info.PPID == parent.PID() || info.PPID == w.root.PID() {
			w.t.Errorf("parent %d: not an orphan", info.PPID)
		}
	default:
		if info.PPID != parent.PID() {
			w.t.Errorf("parent %d, want %d", info.PPID, parent.PID())
		}
	}
	if by != ByVfork { // the parent of a vfork sleeps
		w.info(parent)
	}
}

func TestEveryBirthWithEveryExec(t *testing.T) {
	w := newWorld(t)
	other := w.install("sub/other")
	for _, by := range Births() {
		for _, via := range Vias() {
			for _, maker := range []*Actor{w.root, w.root.OnThread()} {
				im := Image{Path: other, Via: via, Args: []string{"zero", "one"}}
				if via == ViaDirFD {
					im.Path, im.Dir = "other", filepath.Join(w.dir, "sub")
				}
				child, err := maker.ForkExec(w.ctx, by, im)
				w.ok(err)
				if got := cmdlineOf(t, child); got != "zero one" {
					t.Errorf("%s, %s: command line %q", by, via, got)
				}
				want := other
				if via == ViaMemfd {
					want = "/memfd:actor (deleted)"
				}
				if exe := exeOf(t, child); exe != want {
					t.Errorf("%s, %s: runs %s, want %s", by, via, exe, want)
				}
				w.ok(child.Exit(w.ctx, 0))
			}
		}
	}
}

func TestExecFailureIsReported(t *testing.T) {
	w := newWorld(t)
	plain := filepath.Join(w.dir, "plain")
	w.ok(os.WriteFile(plain, []byte("not a program"), 0o644))
	for _, via := range Vias() {
		for _, c := range []struct {
			path string
			want unix.Errno
		}{{"/nowhere", unix.ENOENT}, {plain, unix.EACCES}} {
			if via == ViaMemfd && c.path == plain {
				c.want = unix.ENOEXEC // a memfd is executable
			}
			im := Image{Path: c.path, Via: via, Dir: "/"}
			w.wantErr(w.root.ExecImage(w.ctx, im), c.want)
			w.wantErr(w.root.OnThread().ExecImage(w.ctx, im), c.want)
			for _, by := range Births() {
				_, err := w.root.ForkExec(w.ctx, by, im)
				w.wantErr(err, c.want)
			}
		}
	}
	w.wantErr(w.root.ExecImage(w.ctx, Image{Path: w.path, Args: make([]string, 17)}), unix.E2BIG)
	w.info(w.root)
}

func TestExecKeepsProcessAndChannel(t *testing.T) {
	w := newWorld(t)
	other := w.install("sub/other")
	hard, soft, script := filepath.Join(w.dir, "hard"), filepath.Join(w.dir, "soft"), filepath.Join(w.dir, "script")
	w.ok(os.Link(other, hard))
	w.ok(os.Symlink(other, soft))
	w.ok(InstallScript(script, other))
	sub := filepath.Join(w.dir, "sub")
	for _, c := range []struct {
		im  Image
		exe string
	}{
		{Image{Path: other}, other},
		{Image{Path: other, Args: []string{"firefox"}}, other},
		{Image{Path: hard}, hard},
		{Image{Path: soft}, other},
		{Image{Path: script}, other},
		{Image{Path: script, Via: ViaFD}, other},
		{Image{Path: "./other", Dir: sub}, other},
		{Image{Path: "other", Dir: sub}, other},
		{Image{Path: "../actor", Dir: sub, Via: ViaFD}, w.path},
		{Image{Path: "../script", Dir: sub, Via: ViaDirFD}, other},
	} {
		for _, a := range []*Actor{w.root, w.root.OnThread()} {
			before := w.info(w.root)
			w.ok(a.ExecImage(w.ctx, c.im))
			if after := w.info(w.root); after != before {
				t.Errorf("%+v: was %+v, is %+v", c.im, before, after)
			}
			if exe := exeOf(t, w.root); exe != c.exe {
				t.Errorf("%+v: runs %s, want %s", c.im, exe, c.exe)
			}
		}
	}
}

func TestExecThroughAnotherProgram(t *testing.T) {
	w := newWorld(t)
	w.ok(w.root.ExecImage(w.ctx, Image{Path: "/bin/sh", Args: []string{"sh", "-c", "exec " + w.path}}))
	w.info(w.root)
}

func TestUpgradeOfARunningProgram(t *testing.T) {
	w := newWorld(t)
	w.ok(Install(w.path))
	if exe := exeOf(t, w.root); exe != w.path+" (deleted)" {
		t.Errorf("runs %s", exe)
	}
	w.ok(w.root.Exec(w.ctx, w.path))
	if exe := exeOf(t, w.root); exe != w.path {
		t.Errorf("runs %s", exe)
	}
}

func TestOrphansLiveOn(t *testing.T) {
	w := newWorld(t)
	parent := w.fork(w.root)
	child := w.fork(parent)
	w.ok(parent.Exit(w.ctx, 0))
	if info := w.info(child); info.PPID == parent.PID() || info.PPID == w.root.PID() {
		t.Errorf("orphan's parent is %d", info.PPID)
	}
	w.ok(child.Send(w.ctx, w.addr, 1))
	w.wantErr(parent.Send(w.ctx, w.addr, 1), ErrGone)
}

func TestVforkParentSleepsUntilExec(t *testing.T) {
	w := newWorld(t)
	child, err := w.root.ForkBy(w.ctx, ByVfork)
	w.ok(err)
	done := make(chan error, 1)
	go func() {
		_, err := w.root.Info(w.ctx)
		done <- err
	}()
	w.info(child)
	select {
	case err := <-done:
		t.Fatalf("the parent answered: %v", err)
	default:
	}
	w.ok(child.Exec(w.ctx, w.path))
	w.ok(<-done)
}

func TestForkDepth50(t *testing.T) {
	w := newWorld(t)
	line := []*Actor{w.root}
	for i := range 50 {
		maker := line[len(line)-1]
		by := []Birth{ByFork, ByClone, ByClone3, ByCloneVM}[i%4]
		if i%3 == 0 {
			maker = maker.OnThread()
		}
		child, err := maker.ForkBy(w.ctx, by)
		w.ok(err)
		if info := w.info(child); info.PPID != maker.PID() {
			t.Fatalf("depth %d: parent %d, want %d", i, info.PPID, maker.PID())
		}
		line = append(line, child)
	}
	for _, a := range line {
		w.ok(a.Send(w.ctx, w.addr, 1))
		if d := w.hear(); d.PID != a.PID() {
			t.Fatalf("heard %+v, want %d", d, a.PID())
		}
	}
}

func TestProcessOutlivesItsLeader(t *testing.T) {
	w := newWorld(t)
	a := w.fork(w.root)
	w.ok(a.EndLeader(w.ctx))
	if state, _ := stateOf(a.PID()); state != 'Z' {
		t.Errorf("leader in state %c", state)
	}
	if info := w.info(a); info.TID == info.PID {
		t.Errorf("the leader still speaks: %+v", info)
	}
	if !a.Alive() {
		t.Error("not alive")
	}
	w.ok(a.Send(w.ctx, w.addr, 1))
	w.hear()
	child := w.fork(a)
	if info := w.info(child); info.PPID != a.PID() || info.TID != info.PID {
		t.Errorf("child of a process without leader: %+v", info)
	}
	w.ok(a.Exec(w.ctx, w.path)) // the thread becomes the leader
	if info := w.info(a); info.TID != info.PID {
		t.Errorf("after exec: %+v", info)
	}
	w.ok(a.EndLeader(w.ctx))
	w.ok(a.Exit(w.ctx, 0))
}
