package leak_test

import (
	"bufio"
	"encoding/json"
	"errors"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sidestep/api"
	"sidestep/internal/lab"
	"sidestep/internal/lab/actor"
)

// TestNothingOfAFloodIsOnTheWrongSideOfAnUpgrade goes back and forth between two versions whose kernel maps have another
// layout. Going back takes `sidestep clean`: the elder refuses what the later one left.
func TestNothingOfAFloodIsOnTheWrongSideOfAnUpgrade(t *testing.T) {
	t.Parallel()
	r := newRig(t, room)
	before := r.footprint()
	r.spells(func(number int, d *download) {
		elder := r.daemonOf(buildElder)
		listed, other := r.flood("listed", 2*number), r.flood("other", 2*number+1)
		listed.pardon = true // peers of what it had closed before it was excluded may repeat themselves late, under load
		hand := r.install("hand")
		r.exclude(listed.path, hand)
		in, out := listed.sentInside(), other.sent(outside)
		kin := r.kin(hand, r.install("unlisted"))
		elder.kill()
		listed.rounds(2)
		later := r.daemon()
		listed.rounds(2)
		other.rounds(2)
		d.grows()
		listed.appears(outside)
		other.appears(inside)
		listed.wantNoMore(inside, in, "an excluded flood")
		other.wantNoMore(outside, out, "an included flood")
		for name, a := range kin {
			r.goes(a, outside, name+", after the upgrade")
		}
		later.kill()
		r.wantRefusal(buildElder, "a later version's", "clean")
		listed.appears(outside)
		listed.wantNoMore(inside, in, "an excluded flood")
		later = r.daemon()
		r.include(listed.path, hand)
		listed.appears(inside)
		for name, a := range kin {
			r.ends(a, inside, name+", included after the upgrade")
		}
		listed.end()
		other.end()
		later.stop()
	})
	r.patient() // the spells' time is over
	r.wantNothingLeft(before, "at the end")
}

// wantRefusal fails unless a daemon ends at once, and its complaint has these words.
func (r *rig) wantRefusal(version func() (string, error), words ...string) {
	r.t.Helper()
	path, err := version()
	r.ok(err)
	socket := filepath.Join(filepath.Dir(r.state), "refused")
	r.refuses(exec.CommandContext(r.ctx, path, "--socket", socket, "daemon", "--state", r.state), words...)
}

func (r *rig) refuses(cmd *exec.Cmd, words ...string) {
	r.t.Helper()
	var complaint strings.Builder
	cmd.Stderr = &complaint
	err := r.world.Machine.Run(cmd)
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		r.t.Errorf("%v: %v, want it to refuse", cmd, err)
	}
	for _, w := range words {
		if !strings.Contains(complaint.String(), w) {
			r.t.Errorf("the daemon says %q, want %q", complaint.String(), w)
		}
	}
}

func TestASecondDaemonIsRefused(t *testing.T) {
	t.Parallel()
	r := newRig(t, lab.Options{})
	first := r.daemon()
	listed := r.install("listed")
	r.exclude(listed)
	r.wantRefusal(build, "another sidestep runs on this state directory")
	path, err := build()
	r.ok(err)
	other := filepath.Join(filepath.Dir(r.state), "other")
	beside := func() *exec.Cmd {
		return exec.CommandContext(r.ctx, path, "--socket", other+".socket", "daemon", "--state", other)
	}
	r.refuses(beside(), "another sidestep governs this network namespace", "hint: stop that one")
	first.kill()
	r.refuses(beside(), "another sidestep governs this network namespace", "sidestep clean --state DIR")
	r.ends(r.start(listed), outside, "with a daemon that was killed and one that was refused")
}

func TestADaemonThatIsStoppedForAWhileCatchesUp(t *testing.T) {
	t.Parallel()
	r := newRig(t, room)
	d := r.daemon()
	r.spells(func(number int, _ *download) {
		listed := r.flood("listed", number)
		listed.pardon = true // as above
		r.exclude(listed.path)
		in := listed.sentInside()
		for range 3 {
			r.ok(d.cmd.Process.Signal(unix.SIGSTOP))
			listed.appears(outside)
			r.ok(r.world.TunnelDown())
			r.ok(r.world.UplinkDown())
			listed.rounds(2)
			r.ok(r.world.UplinkUp(r.ctx))
			r.ok(r.world.TunnelUp(r.ctx))
			listed.rounds(2)
			r.ok(d.cmd.Process.Signal(unix.SIGCONT))
			listed.appears(outside)
			r.wait("the daemon to be engaged", func() bool { return r.status().State == api.Engaged })
		}
		listed.wantNoMore(inside, in, "an excluded flood")
		r.include(listed.path)
		listed.appears(inside)
		listed.end()
	})
}

// TestADaemonThatIsStoppedForAMinuteIsNotMissed is a few seconds long without -long.
func TestADaemonThatIsStoppedForAMinuteIsNotMissed(t *testing.T) {
	t.Parallel()
	r := newRig(t, lab.Options{})
	d := r.daemon()
	listed, other := r.install("listed"), r.install("other")
	r.exclude(listed)
	kin := r.kin(listed, other)
	pause := 3 * time.Second
	if *long {
		pause = time.Minute
	}
	r.ok(d.cmd.Process.Signal(unix.SIGSTOP))
	for until := time.Now().Add(pause); time.Now().Before(until); {
		r.ends(r.start(listed), outside, "started with the daemon stopped")
		r.ends(r.start(other), inside, "started included with the daemon stopped")
	}
	r.ok(d.cmd.Process.Signal(unix.SIGCONT))
	for name, a := range kin {
		r.goes(a, outside, name+", with the daemon going on")
	}
	r.include(listed)
	for name, a := range kin {
		r.ends(a, inside, name+", included after that")
	}
	if s := r.status(); s.State != api.Engaged {
		t.Errorf("the state is %s: %q", s.State, s.Warnings)
	}
}

// TestEventsThatFindNoRoomAreCounted stops the daemon while more happens than the ring of events holds.
func TestEventsThatFindNoRoomAreCounted(t *testing.T) {
	t.Parallel()
	r := newRig(t, lab.Options{})
	d := r.daemon()
	listed := r.install("listed")
	r.exclude(listed)
	parent := r.start(listed)
	path, err := build()
	r.ok(err)
	watch := exec.CommandContext(r.ctx, path, "--socket", filepath.Join(filepath.Dir(r.state), "control"), "watch", "--json")
	out, err := watch.StdoutPipe()
	r.ok(err)
	r.ok(r.world.Machine.Start(watch))
	t.Cleanup(func() { _ = watch.Process.Kill(); _ = watch.Wait() })
	lines := bufio.NewScanner(out)
	next := func() (ev api.Event) {
		if !lines.Scan() {
			t.Fatalf("the events have ended: %v", lines.Err())
		}
		r.ok(json.Unmarshal(lines.Bytes(), &ev))
		return ev
	}
	next() // whoever has read the first misses nothing
	r.ok(d.cmd.Process.Signal(unix.SIGSTOP))
	_, err = parent.Storm(r.ctx, actor.Storm{Count: 1 << 13}) // a birth and an end each: more than a megabyte
	r.ok(err)
	r.ok(d.cmd.Process.Signal(unix.SIGCONT))
	for ev := next(); ev.Kind != api.EventLost; ev = next() {
	}
	if n := r.status().Counters["events_lost"]; n == 0 {
		t.Error("no event was counted as lost")
	}
	ps, err := r.engine.Processes(r.ctx, false)
	r.ok(err)
	if !slices.ContainsFunc(ps.Processes, func(p api.Process) bool { return p.PID == parent.PID() }) || len(ps.Processes) != 1 {
		t.Errorf("the processes are %v, want %d alone", ps.Processes, parent.PID())
	}
	r.ends(r.start(listed), outside, "started after that")
}

// TestADaemonThatLacksSomethingSaysWhat takes away the BPF file system, the right to mount one, and file descriptors.
func TestADaemonThatLacksSomethingSaysWhat(t *testing.T) {
	t.Parallel()
	needProgram(t, "util-linux", "setpriv")
	r := newRig(t, lab.Options{})
	before := r.footprint()
	path, err := build()
	r.ok(err)
	const unmount = "while umount /sys/fs/bpf 2>/dev/null; do :; done; "
	daemon := func(script string) *exec.Cmd {
		socket := filepath.Join(filepath.Dir(r.state), "control")
		return exec.CommandContext(r.ctx, "unshare", "--mount", "--propagation", "private",
			"sh", "-c", script, path, "--socket", socket, "daemon", "--state", r.state)
	}
	r.refuses(daemon(unmount+`exec setpriv --bounding-set=-sys_admin --inh-caps=-sys_admin "$0" "$@"`),
		"no BPF file system is mounted", "hint: `mount -t bpf")
	r.refuses(daemon(unmount+`mount -t bpf -o ro bpf /sys/fs/bpf; exec "$0" "$@"`), "read-only file system")
	r.refuses(daemon(`ulimit -n 24; exec "$0" "$@"`), "too many open files")
	r.wantNothingLeft(before, "after daemons that lacked something")
	if lines := r.clean(); len(lines) > 0 {
		t.Errorf("clean removes %q", lines)
	}

	cmd := daemon(unmount + `exec "$0" "$@"`)
	var log strings.Builder
	cmd.Stderr = &log
	r.ok(r.world.Machine.Start(cmd))
	r.engine = &api.Client{Socket: filepath.Join(filepath.Dir(r.state), "control")}
	r.wait("a daemon to be engaged that has mounted a BPF file system itself", func() bool {
		s, err := r.engine.Status(r.ctx)
		return err == nil && s.State == api.Engaged
	})
	r.ok(cmd.Process.Signal(unix.SIGTERM))
	r.ok(cmd.Wait())
	if !strings.Contains(log.String(), "mounted a BPF file system") {
		t.Errorf("the daemon says %q, and not that it has mounted a BPF file system", log.String())
	}
	r.wantNothingLeft(before, "after a daemon with a BPF file system of its own")
}
