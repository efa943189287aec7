package leak_test

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"sidestep/api"
	"sidestep/internal/doctor"
	"sidestep/internal/lab"
	"sidestep/internal/lab/actor"
)

func TestKillingTheDaemonChangesNothing(t *testing.T) {
	t.Parallel()
	r := newRig(t, lab.Options{})
	d := r.daemon()
	listed, other := r.install("listed"), r.install("other")
	kin := r.kin(listed, other)
	stranger := r.start(other)
	check := func(want side, when string) {
		t.Helper()
		for name, a := range kin {
			r.goes(a, want, name+" "+when)
		}
		r.ends(r.start(listed), want, "started "+when)
		r.ends(r.exec(kin["a grandchild"], actor.Image{Path: other}), want, "born "+when)
		r.goes(stranger, inside, "an unlisted program "+when)
		r.ends(r.start(other), inside, "an unlisted program started "+when)
	}
	check(inside, "before it is excluded")
	r.exclude(listed)
	check(outside, "with the daemon")
	d.kill()
	check(outside, "without the daemon")
	r.ok(actor.Install(listed))
	check(outside, "after an upgrade without the daemon")
}

func TestRestartedDaemonTakesOverWhatIsInForce(t *testing.T) {
	t.Parallel()
	r := newRig(t, lab.Options{MaxFlows: 1 << 18})
	d := r.daemon()
	listed, other := r.install("listed"), r.install("other")
	probe, innocent := r.probe("probe"), r.probe("innocent")
	kin := r.kin(listed, other)
	starter := r.start(r.install("starter"))
	r.starts(starter, probe, inside, 20)
	r.exclude(listed, probe, "/nowhere/"+t.Name())
	apps, processes := r.answers(kin)
	stop := r.traffic(map[string]side{probe: outside, innocent: inside}, true)
	for range 3 {
		d.kill()
		r.starts(starter, probe, outside, 50)
		r.starts(starter, innocent, inside, 50)
		d = r.daemon()
		again, same := r.answers(kin)
		if diff := cmp.Diff(apps, again); diff != "" {
			t.Errorf("the policy changed by the restart (-before +after):\n%s", diff)
		}
		if diff := cmp.Diff(processes, same); diff != "" {
			t.Errorf("the processes changed by the restart (-before +after):\n%s", diff)
		}
	}
	stop()
	for name, a := range kin {
		r.goes(a, outside, name+" after three restarts")
	}
	r.include(listed)
	for name, a := range kin {
		r.goes(a, inside, name+" once it is included by a new daemon")
	}
}

// answers is what the daemon says of the policy, and of the processes in kin.
func (r *rig) answers(kin map[string]*actor.Actor) (apps []api.App, processes []api.Process) {
	r.t.Helper()
	a, err := r.engine.Apps(r.ctx)
	r.ok(err)
	for _, app := range a.Apps {
		app.Processes = 0 // probes come and go
		apps = append(apps, app)
	}
	ps, err := r.engine.Processes(r.ctx, false)
	r.ok(err)
	for _, p := range ps.Processes {
		for _, a := range kin {
			if a.PID() == p.PID {
				processes = append(processes, p)
			}
		}
	}
	if len(processes) != len(kin) {
		r.t.Errorf("%d of %d processes are listed as excluded: %v", len(processes), len(kin), processes)
	}
	return apps, processes
}

// strict makes the uplink's reverse path filter one that the engine has to relax, and put back.
func (r *rig) strict() {
	r.t.Helper()
	r.ok(r.world.Machine.Do(func() error { return setSysctl("ipv4/conf/"+lab.UplinkName+"/rp_filter", "1") }))
}

// wantGone fails unless the machine is as it was before the engine came.
func (r *rig) wantGone(before []string, was objects) {
	r.t.Helper()
	if diff := cmp.Diff(before, r.footprint()); diff != "" {
		r.t.Errorf("the network is not as it was (-before +after):\n%s", diff)
	}
	// The kernel frees what nobody refers to a little later.
	r.wait("the kernel to forget "+was.String(), func() bool {
		left := was.remaining()
		return len(left.maps)+len(left.programs)+len(left.links) == 0
	})
	if left := r.objects(); len(left.maps)+len(left.programs)+len(left.links) != 0 {
		r.t.Errorf("the kernel still has %v", left)
	}
}

// wantTraces fails unless the engine can be seen: that is the sensor of wantGone.
func (r *rig) wantTraces(before []string) objects {
	r.t.Helper()
	o := r.objects()
	links := 14
	if doctor.Offers("tcx") == nil {
		links++ // at the tunnel's door
	}
	if doctor.Offers("netfilter programs") == nil {
		links += 2
	}
	if len(o.maps) < 10 || len(o.programs) < 5 || len(o.links) != links {
		r.t.Errorf("the kernel has %v of ours, want more than 10 maps and 5 programs, and %d links", o, links)
	}
	now := r.footprint()
	for _, prefix := range []string{"rule", "route", "pins", "/proc/sys/net"} {
		changed := slices.ContainsFunc(now, func(line string) bool {
			return len(line) > len(prefix) && line[:len(prefix)] == prefix && !slices.Contains(before, line)
		})
		if !changed {
			r.t.Errorf("no %s was added or changed", prefix)
		}
	}
	return o
}

func TestStoppedDaemonLeavesNothing(t *testing.T) {
	t.Parallel()
	r := newRig(t, lab.Options{})
	r.strict()
	before := r.footprint()
	d := r.daemon()
	listed := r.install("listed")
	r.ends(r.start(listed), inside, "before it is excluded")
	r.exclude(listed)
	running := r.start(listed)
	r.goes(running, outside, "with the daemon")
	was := r.wantTraces(before)
	d.stop()
	r.goes(running, inside, "running, once the daemon has been stopped")
	r.ends(r.start(listed), inside, "started once the daemon has been stopped")
	r.wantGone(before, was)
	if removed := r.clean(); len(removed) != 0 {
		t.Errorf("clean removed %q after a daemon that was stopped", removed)
	}
	r.daemon()
	r.goes(running, outside, "running, with the next daemon")
	r.ends(r.start(listed), outside, "started with the next daemon")
}

func TestCleanRemovesWhatAKilledDaemonLeft(t *testing.T) {
	t.Parallel()
	r := newRig(t, lab.Options{})
	r.strict()
	before := r.footprint()
	d := r.daemon()
	listed := r.install("listed")
	running := r.start(listed)
	r.goes(running, inside, "before it is excluded")
	r.exclude(listed)
	d.kill()
	r.goes(running, outside, "without the daemon")
	was := r.wantTraces(before)
	if removed := r.clean(); len(removed) == 0 {
		t.Error("clean says that it removed nothing")
	}
	r.goes(running, inside, "running, once cleaned")
	r.ends(r.start(listed), inside, "started once cleaned")
	r.wantGone(before, was)
	if removed := r.clean(); len(removed) != 0 {
		t.Errorf("a second clean removed %q", removed)
	}
}
