package leak_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"sidestep/internal/lab"
	"sidestep/internal/lab/labtest"
	"sidestep/internal/mountinfo"
)

// A memoryGroup is a control group that limits memory, of version 1 or 2.
type memoryGroup struct {
	*rig
	dir, limit, usage, kills string // the group, and its files
}

// memoryGroup makes one.
func (r *rig) memoryGroup() *memoryGroup {
	r.t.Helper()
	table, err := mountinfo.Read()
	r.ok(err)
	for _, m := range table.Mounts() {
		g := &memoryGroup{rig: r, dir: filepath.Join(m.Point, fmt.Sprintf("sidestep-%d-%d", os.Getpid(), r.port()))}
		switch {
		case m.FSType == "cgroup" && m.Option("memory"):
			g.limit, g.usage, g.kills = "memory.limit_in_bytes", "memory.usage_in_bytes", "memory.oom_control"
		case m.FSType == "cgroup2" && slices.Contains(strings.Fields(readFile(m.Point, "cgroup.subtree_control")), "memory"):
			g.limit, g.usage, g.kills = "memory.max", "memory.current", "memory.events"
		default:
			continue
		}
		r.ok(os.Mkdir(g.dir, 0o755))
		r.t.Cleanup(func() { r.ok(os.Remove(g.dir)) })
		return g
	}
	labtest.Skip(r.t, "this kernel has no control groups that limit memory, or they are not enabled")
	return nil
}

func readFile(dir, name string) string {
	text, _ := os.ReadFile(filepath.Join(dir, name))
	return strings.TrimSpace(string(text))
}

// limitTo limits the group to what it uses and that much more.
func (g *memoryGroup) limitTo(more int) {
	g.t.Helper()
	used, err := strconv.Atoi(readFile(g.dir, g.usage))
	g.ok(err)
	g.ok(os.WriteFile(filepath.Join(g.dir, g.limit), []byte(strconv.Itoa(used+more)), 0))
}

// killed returns how many processes the kernel has killed for want of memory.
func (g *memoryGroup) killed() string {
	for line := range strings.Lines(readFile(g.dir, g.kills)) {
		if n, ok := strings.CutPrefix(line, "oom_kill "); ok {
			return strings.TrimSpace(n)
		}
	}
	return ""
}

// daemon starts one in the group.
func (g *memoryGroup) daemon() *daemon {
	g.t.Helper()
	return g.daemonOf(func() (string, error) {
		path, err := build()
		script := fmt.Sprintf("#!/bin/sh\necho $$ > %s/cgroup.procs && exec %s \"$@\"\n", g.dir, path)
		if err == nil {
			path = filepath.Join(filepath.Dir(g.state), "limited")
			err = os.WriteFile(path, []byte(script), 0o755)
		}
		return path, err
	})
}

// TestADaemonThatIsKilledForWantOfMemoryLeavesItsPolicyInForce limits what the daemon, its maps and labels may take, and then
// asks for more than that.
func TestADaemonThatIsKilledForWantOfMemoryLeavesItsPolicyInForce(t *testing.T) {
	t.Parallel()
	r := newRig(t, lab.Options{})
	before := r.footprint()
	g := r.memoryGroup()
	d := g.daemon()
	listed, other := r.install("listed"), r.install("other")
	r.exclude(listed)
	kin := r.kin(listed, other)
	a := r.start(other)
	g.limitTo(2 << 20)
	many := make([]string, 50000)
	for i := range many {
		many[i] = fmt.Sprintf("/nowhere/%050d", i)
	}
	if _, err := r.engine.Exclude(r.ctx, many); err == nil || g.killed() != "1" {
		t.Fatalf("a policy that needs more memory than there is: %v, with %s daemons killed", err, g.killed())
	}
	if err := d.cmd.Wait(); err == nil {
		t.Error("the daemon ended well")
	}
	check := func(when string) {
		for name, k := range kin {
			r.goes(k, outside, name+", "+when)
		}
		r.goes(a, inside, "an included program, "+when)
		r.ends(r.start(listed), outside, "started "+when)
		r.ends(r.start(other), inside, "started included "+when)
	}
	check("with the daemon killed")
	next := r.daemon()
	if got := r.policy(); !slices.Equal(got, []string{listed}) {
		t.Errorf("the policy is %q, want the one before", got)
	}
	check("with the next daemon")
	next.stop()
	r.wantNothingLeft(before, "at the end")
}
