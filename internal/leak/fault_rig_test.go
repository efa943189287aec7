package leak_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"sidestep/api"
	"sidestep/internal/lab/fault"
)

// patient gives a test the time to start a daemon again and again.
func (r *rig) patient() {
	patience := time.Duration(times(3)) * limit
	if *every {
		patience = 12 * time.Hour
	}
	ctx, cancel := context.WithTimeout(r.t.Context(), patience)
	r.t.Cleanup(cancel)
	r.ctx = ctx
}

// A fragile daemon is one whose calls of the kernel can be made to fail.
type fragile struct {
	*daemon
	calls *fault.Calls
	log   *strings.Builder
	done  chan error // how it ended
}

// fragile starts a daemon, and has its n-th call fail if n is not 0. It does not wait for the daemon.
func (r *rig) fragile(n int, kind fault.Kind) *fragile {
	r.t.Helper()
	path, err := build()
	r.ok(err)
	socket := filepath.Join(filepath.Dir(r.state), "control")
	f := &fragile{daemon: &daemon{r, exec.Command(path, "--socket", socket, "daemon", "--state", r.state)}}
	f.log, f.done = new(strings.Builder), make(chan error, 1)
	f.cmd.Stderr = f.log
	f.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}
	f.calls, err = fault.Start(f.cmd, r.world.Machine.Do, n, kind)
	r.ok(err)
	go func() {
		err := f.cmd.Wait()
		f.done <- errors.Join(err, f.calls.Close())
	}()
	r.engine = &api.Client{Socket: socket}
	return f
}

// engages waits until the daemon is engaged, and reports whether it is. Else it has ended.
func (f *fragile) engages() bool {
	f.r.t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	ctx, cancel := context.WithTimeout(f.r.ctx, time.Minute)
	defer cancel()
	var last api.Status
	for {
		if s, err := f.r.engine.Status(ctx); err == nil {
			if last = s; s.State == api.Engaged {
				return true
			}
		}
		select {
		case <-tick.C:
		case err := <-f.done:
			f.done <- err
			return false
		case <-ctx.Done():
			f.stuck(fmt.Sprintf("the daemon neither engages nor ends; it said last: %+v", last))
		}
	}
}

// stuck fails the test with the daemon's goroutines, which the Go runtime writes when it gets a SIGQUIT.
func (f *fragile) stuck(what string) {
	f.r.t.Helper()
	_, fired := f.calls.Disarm()
	_ = f.cmd.Process.Signal(unix.SIGQUIT)
	select {
	case err := <-f.done:
		f.done <- err
	case <-time.After(10 * time.Second): // not even that
	}
	f.r.t.Fatalf("%s; what failed was %q; it says: %s", what, fired, f.log)
}

// engaged is engages for a daemon that must.
func (f *fragile) engaged() error {
	f.r.t.Helper()
	if !f.engages() {
		return fmt.Errorf("the daemon ends: %s", f.log)
	}
	return nil
}

// end waits for the daemon to end.
func (f *fragile) end() error {
	f.r.t.Helper()
	select {
	case err := <-f.done:
		f.done <- err
		return err
	case <-time.After(time.Minute):
		f.stuck("the daemon does not end")
		return nil
	}
}

// kill is kill -9.
func (f *fragile) kill() {
	f.r.t.Helper()
	_ = f.cmd.Process.Kill()
	f.done <- <-f.done
}

// steps calls fn with numbers of calls, of which there are total: with a few that lie about evenly, others in each run, as each
// takes a second or two; with -long six times as many; with -every all of them.
func (r *rig) steps(total, few int, fn func(n int)) {
	r.t.Helper()
	switch {
	case *every:
		few = total
	case *long:
		few *= 6
	}
	gap := max(1, total/few)
	first := 1 + rand.IntN(gap)
	r.t.Logf("%d calls; the %d. and every %d. after it", total, first, gap)
	for n := first; n <= total && !r.t.Failed(); n += gap {
		fn(n)
	}
}

// policy is the policy as the daemon tells it.
func (r *rig) policy() []string {
	r.t.Helper()
	apps, err := r.engine.Apps(r.ctx)
	r.ok(err)
	var paths []string
	for _, a := range apps.Apps {
		paths = append(paths, a.Path)
	}
	slices.Sort(paths)
	return paths
}

// wantNothingLeft fails unless nothing of the engine is left.
func (r *rig) wantNothingLeft(before []string, when string) {
	r.t.Helper()
	left := r.objects()
	// A map within a map is freed after the grace periods of both, which take their time on a machine that is busy.
	r.waitUpTo(time.Minute, "the kernel to forget "+left.String()+": "+when, func() bool {
		left = left.remaining()
		return len(left.maps)+len(left.programs)+len(left.links) == 0
	})
	if now := r.footprint(); !slices.Equal(before, now) {
		r.t.Errorf("%s: the network is not as it was: %s", when, difference(before, now))
	}
}

func difference(before, now []string) string {
	var all []string
	for _, line := range before {
		if !slices.Contains(now, line) {
			all = append(all, "-"+line)
		}
	}
	for _, line := range now {
		if !slices.Contains(before, line) {
			all = append(all, "+"+line)
		}
	}
	return fmt.Sprint(strings.Join(all, "; "))
}
