package sidestep_test

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"sidestep"
	"sidestep/api"
	"sidestep/policy"
)

// wantCode fails unless err is an api.Error of this code.
func (r *rig) wantCode(err error, want api.ErrorCode, what string) {
	r.t.Helper()
	var e *api.Error
	if !errors.As(err, &e) || e.Code != want {
		r.t.Errorf("%s: %v, want code %s", what, err, want)
	}
}

// results are the changes in short: path result state.
func results(c api.Changes) []string {
	var all []string
	for _, ch := range c.Changes {
		all = append(all, strings.TrimSpace(filepath.Base(ch.Path)+" "+ch.Result+" "+string(ch.State)))
	}
	return all
}

func TestThePolicyChangesAsAWhole(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	a, b, missing := r.install("a"), r.install("b"), filepath.Join(r.dir, "missing")
	e := r.run(sidestep.Options{})
	runs := r.start(a)
	for _, step := range []struct {
		verb  func(context.Context, []string) (api.Changes, error)
		paths []string
		want  []string
		code  api.ErrorCode
		mark  int
	}{
		{verb: e.Exclude, paths: []string{a, missing, a}, want: []string{"a excluded active", "missing excluded missing"}, mark: outside},
		{verb: e.Exclude, paths: []string{a, b}, want: []string{"a unchanged active", "b excluded active"}, mark: outside},
		{verb: e.Exclude, paths: []string{missing + "2", "relative"}, code: api.CodeBadPath, mark: outside},
		{verb: e.Exclude, paths: []string{missing + "2", r.dir}, code: api.CodeBadPath, mark: outside},
		{verb: e.Exclude, paths: []string{missing + "2", a + "/"}, code: api.CodeBadPath, mark: outside},
		{verb: e.Exclude, paths: []string{"/"}, code: api.CodeBadPath, mark: outside},
		{verb: e.Include, paths: []string{a, missing + "2"}, code: api.CodeNotFound, mark: outside},
		{verb: e.Include, paths: []string{a, b}, want: []string{"a included", "b included"}, mark: 0},
		{verb: e.Replace, paths: []string{a, b}, want: []string{"a excluded active", "b excluded active", "missing included"}, mark: outside},
		{verb: e.Replace, paths: []string{b, ""}, code: api.CodeBadPath, mark: outside},
		{verb: e.Replace, paths: []string{b}, want: []string{"b unchanged active", "a included"}, mark: 0},
		{verb: e.Replace, paths: nil, want: []string{"b included"}, mark: 0},
	} {
		changes, err := step.verb(r.ctx, step.paths)
		if step.code != "" {
			r.wantCode(err, step.code, strings.Join(step.paths, " "))
		} else {
			r.ok(err)
		}
		if diff := cmp.Diff(step.want, results(changes)); diff != "" {
			t.Errorf("%q: changes differ (-want +got):\n%s", step.paths, diff)
		}
		r.wantMark(runs, step.mark, strings.Join(step.paths, " "))
	}
	apps, err := e.Apps(r.ctx)
	if err != nil || len(apps.Apps) > 0 {
		t.Errorf("apps are %v (%v), want none", apps, err)
	}
}

func TestTheStateFileIsWholeOrRefused(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	a := r.install("a")
	e := r.run(sidestep.Options{})
	_, err := e.Exclude(r.ctx, []string{a})
	r.ok(err)
	r.ok(e.stop())
	file := filepath.Join(r.state, "policy.json")
	good, err := os.ReadFile(file)
	r.ok(err)
	var saved struct {
		Apps []policy.App `json:"apps"`
	}
	r.ok(json.Unmarshal(good, &saved))
	if diff := cmp.Diff([]policy.App{{Path: a}}, saved.Apps); diff != "" {
		t.Errorf("what was saved differs (-want +got):\n%s", diff)
	}
	entries, err := os.ReadDir(r.state)
	r.ok(err)
	for _, entry := range entries {
		if name := entry.Name(); name != "policy.json" && name != "lock" {
			t.Errorf("%s is left in the state directory", name)
		}
	}
	for _, bad := range []string{"", "{", string(good[:len(good)/2]), `{"version":1,"apps":[{"path":"a"}]}`, `{"apps":1}`} {
		r.ok(os.WriteFile(file, []byte(bad), 0o600))
		if _, err := r.try(sidestep.Options{}); err == nil || !strings.Contains(err.Error(), file+" is damaged") {
			t.Errorf("with the state file %q: %v", bad, err)
		}
	}
	r.ok(os.WriteFile(file, good, 0o600))
	r.run(sidestep.Options{})
	r.wantMark(r.start(a), outside, "excluded before the engine was restarted")
}

func TestReloadTakesOverConfiguredApps(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	configured, added := r.install("configured"), r.install("added")
	o := sidestep.Options{State: r.state, Exclude: policy.Policy{Apps: []policy.App{{Path: configured}}}}
	e := r.run(o)
	_, err := e.Exclude(r.ctx, []string{added})
	r.ok(err)
	runsC, runsA := r.start(configured), r.start(added)
	r.wantMark(runsC, outside, "configured")
	o.Exclude = policy.Policy{}
	r.ok(e.Reload(r.ctx, o))
	r.wantMark(runsC, 0, "not configured any more")
	r.wantMark(runsA, outside, "added by hand")
	o.Exclude = policy.Policy{Apps: []policy.App{{Path: configured}}}
	r.ok(e.Reload(r.ctx, o))
	r.wantMark(runsC, outside, "configured again")
	for what, change := range map[string]func(*sidestep.Options){
		"state": func(o *sidestep.Options) { o.State = r.dir },
		"mask":  func(o *sidestep.Options) { o.MarkMask = 0x0f00_0000 },
		"table": func(o *sidestep.Options) { o.Table = 4711 },
		"bad":   func(o *sidestep.Options) { o.MarkMask = 5 },
	} {
		other := o
		change(&other)
		if err := e.Reload(r.ctx, other); err == nil {
			t.Errorf("reloading with another %s: no error", what)
		}
	}
	r.wantMark(runsC, outside, "after reloads that were refused")
}

func TestOneEngineForEachStateDirectory(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	a := r.install("a")
	e := r.run(sidestep.Options{})
	_, err := e.Exclude(r.ctx, []string{a})
	r.ok(err)
	const refusal = "another sidestep runs on this state directory"
	if _, err := r.try(sidestep.Options{}); err == nil || !strings.Contains(err.Error(), refusal) {
		t.Errorf("a second engine: %v", err)
	}
	if removed, err := sidestep.Clean(r.state); err == nil || !strings.Contains(err.Error(), refusal) || len(removed) > 0 {
		t.Errorf("cleaning: %q, %v", removed, err)
	}
	r.wantMark(r.start(a), outside, "after both refusals")
	r.ok(e.stop())
	_, err = e.Exclude(r.ctx, []string{a})
	r.wantCode(err, api.CodeUnavailable, "excluding after the end")
}

func TestLaunchStaysInTheNamespace(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	other := newRig(t, nil)
	e := r.run(sidestep.Options{})
	ours, foreign := r.start(r.install("a")), other.start(other.install("a"))
	r.wantCode(e.Launch(r.ctx, foreign.PID()), api.CodeNotFound, "a process of another namespace")
	r.ok(e.Launch(r.ctx, ours.PID()))
	r.wantMark(ours, outside, "launched")
	r.wantMark(foreign, 0, "refused")
	r.ok(ours.Exit(r.ctx, 0))
	r.wantCode(e.Launch(r.ctx, ours.PID()), api.CodeNotFound, "a process that has ended")
	_, err := e.ExplainPID(r.ctx, ours.PID())
	r.wantCode(err, api.CodeNotFound, "explaining it")
}

func TestANewEngineTakesOverFromOneThatWasKilled(t *testing.T) {
	t.Parallel()
	world := newWorld(t)
	r := newRig(t, world.Machine)
	a, other := r.install("a"), r.install("other")
	before := r.worldText()
	r.ok(os.MkdirAll(r.state, 0o700))
	r.ok(os.WriteFile(filepath.Join(r.state, "policy.json"), []byte(`{"version":1,"apps":[{"path":"`+a+`"}]}`), 0o600))
	for range 2 {
		cmd := r.spawn()
		runs := r.start(a)
		r.ok(cmd.Process.Kill())
		_ = cmd.Wait()
		r.wantMark(runs, outside, "with its engine killed")
		r.wantMark(r.start(a), outside, "started with the engine killed")
		r.wantMark(r.start(other), 0, "another program")
	}
	orphan := r.start(a)
	e := r.run(sidestep.Options{})
	r.wantMark(orphan, outside, "under the next engine")
	_, err := e.Include(r.ctx, []string{a})
	r.ok(err)
	r.wantMark(orphan, 0, "once the next engine includes it")
	r.ok(e.stop())
	if diff := cmp.Diff(before, r.worldText()); diff != "" {
		t.Errorf("the world is not as it was found (-before +after):\n%s", diff)
	}
}
