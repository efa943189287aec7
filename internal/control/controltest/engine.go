// Package controltest is an engine that enforces nothing, for tests of what talks to one.
package controltest

import (
	"context"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"sidestep/api"
	"sidestep/policy"
)

// An Engine keeps a policy in memory and answers as the real one does. The zero value is ready for use.
type Engine struct {
	mu       sync.Mutex
	policy   policy.Policy
	status   api.Status
	procs    []api.Process
	launched []int
	fail     error
	subs     []chan api.Event
	watched  chan struct{} // closed when there is a subscriber; nil until somebody waits
}

// SetStatus makes Status answer st.
func (e *Engine) SetStatus(st api.Status) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.status = st
}

// SetProcesses makes Processes answer procs.
func (e *Engine) SetProcesses(procs ...api.Process) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.procs = procs
}

// Fail makes every call but Events fail, until it is called with nil.
func (e *Engine) Fail(err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.fail = err
}

// Paths returns the policy.
func (e *Engine) Paths() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	paths := []string{}
	for _, a := range e.policy.Apps {
		paths = append(paths, a.Path)
	}
	return paths
}

// Launched returns the processes that Launch was called with.
func (e *Engine) Launched() []int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.launched)
}

// Watched is closed once somebody has subscribed to the events.
func (e *Engine) Watched() <-chan struct{} {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.watched == nil {
		e.watched = make(chan struct{})
	}
	if len(e.subs) > 0 {
		e.closeWatchedLocked()
	}
	return e.watched
}

func (e *Engine) closeWatchedLocked() {
	select {
	case <-e.watched:
	default:
		close(e.watched)
	}
}

// Emit sends an event to every subscriber.
func (e *Engine) Emit(ev api.Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, s := range e.subs {
		s <- ev
	}
}

// EndEvents ends every stream after what was emitted.
func (e *Engine) EndEvents() {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, s := range e.subs {
		close(s)
	}
	e.subs = nil
}

// Events is for control.Engine.
func (e *Engine) Events(ctx context.Context) <-chan api.Event {
	e.mu.Lock()
	defer e.mu.Unlock()
	s := make(chan api.Event, 64)
	e.subs = append(e.subs, s)
	if e.watched != nil {
		e.closeWatchedLocked()
	}
	context.AfterFunc(ctx, func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		if i := slices.Index(e.subs, s); i >= 0 {
			e.subs = slices.Delete(e.subs, i, i+1)
			close(s)
		}
	})
	return s
}

// Status is for control.Engine.
func (e *Engine) Status(context.Context) (api.Status, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	st := e.status
	if st.State == "" {
		st.State = api.Ready
	}
	return st, e.fail
}

// Apps is for control.Engine.
func (e *Engine) Apps(context.Context) (api.Apps, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	var apps api.Apps
	for _, a := range e.policy.Apps {
		apps.Apps = append(apps.Apps, api.App{Path: a.Path, State: stateOf(a.Path), Processes: e.coveredLocked(a)})
	}
	return apps, e.fail
}

func (e *Engine) coveredLocked(a policy.App) int {
	n := 0
	for _, p := range e.procs {
		if p.App == a.Path {
			n++
		}
	}
	return n
}

// Exclude is for control.Engine.
func (e *Engine) Exclude(_ context.Context, paths []string) (api.Changes, error) {
	return e.change(paths, "excluded", func(p policy.Policy, a policy.App) (policy.Policy, bool, error) {
		p, changed := p.With(a)
		return p, changed, nil
	})
}

// Include is for control.Engine.
func (e *Engine) Include(_ context.Context, paths []string) (api.Changes, error) {
	return e.change(paths, "included", func(p policy.Policy, a policy.App) (policy.Policy, bool, error) {
		p, changed := p.Without(a)
		if !changed {
			err := &api.Error{Code: api.CodeNotFound, Message: fmt.Sprintf("include %s: not in the policy", a.Path)}
			return p, false, err
		}
		return p, true, nil
	})
}

// Replace is for control.Engine.
func (e *Engine) Replace(_ context.Context, paths []string) (api.Changes, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.fail != nil {
		return api.Changes{}, e.fail
	}
	want, err := policy.Parse(paths)
	if err != nil {
		return api.Changes{}, err
	}
	var ch api.Changes
	for _, a := range want.Apps {
		result := "excluded"
		if e.policy.Has(a.Path) {
			result = "unchanged"
		}
		ch.Changes = append(ch.Changes, api.Change{Path: a.Path, Result: result, State: stateOf(a.Path)})
	}
	for _, a := range e.policy.Apps {
		if !want.Has(a.Path) {
			ch.Changes = append(ch.Changes, api.Change{Path: a.Path, Result: "included"})
		}
	}
	e.policy = want
	return ch, nil
}

func (e *Engine) change(paths []string, verb string,
	do func(policy.Policy, policy.App) (policy.Policy, bool, error)) (api.Changes, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.fail != nil {
		return api.Changes{}, e.fail
	}
	var ch api.Changes
	next := e.policy
	for _, path := range paths {
		p, changed, err := do(next, policy.App{Path: path})
		if err != nil {
			return api.Changes{}, err
		}
		c := api.Change{Path: path, Result: verb}
		if !changed {
			c.Result = "unchanged"
		}
		if verb == "excluded" {
			c.State = stateOf(path)
		}
		next, ch.Changes = p, append(ch.Changes, c)
	}
	e.policy = next
	return ch, nil
}

// Processes is for control.Engine.
func (e *Engine) Processes(_ context.Context, all bool) (api.Processes, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	var ps api.Processes
	for _, p := range e.procs {
		if all || p.Verdict != policy.Included {
			ps.Processes = append(ps.Processes, p)
		}
	}
	return ps, e.fail
}

// ExplainPID is for control.Engine.
func (e *Engine) ExplainPID(_ context.Context, pid int) (api.Explanation, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.fail != nil {
		return api.Explanation{}, e.fail
	}
	for _, p := range e.procs {
		if p.PID == pid {
			return api.Explanation{PID: pid, Exe: p.Exe, Verdict: p.Verdict, Cause: p.Cause, App: p.App,
				Sentence: fmt.Sprintf("process %d (%s) is %v: %v", pid, p.Exe, p.Verdict, p.Cause)}, nil
		}
	}
	return api.Explanation{}, &api.Error{Code: api.CodeNotFound, Message: fmt.Sprintf("explain %d: no such process", pid)}
}

// ExplainPath is for control.Engine.
func (e *Engine) ExplainPath(_ context.Context, path string) (api.Explanation, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	x := api.Explanation{Path: path, Sentence: path + " is included: no app covers it"}
	for _, a := range e.policy.Apps {
		if a.Covers(path) {
			x.Verdict, x.Cause, x.App = policy.Excluded, policy.Listed, a.Path
			x.Sentence = fmt.Sprintf("%s is excluded: the app %s covers it", path, a.Path)
		}
	}
	return x, e.fail
}

// Launch is for control.Engine.
func (e *Engine) Launch(_ context.Context, pid int) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.fail != nil {
		return e.fail
	}
	e.launched = append(e.launched, pid)
	return nil
}

func stateOf(path string) api.AppState {
	if _, err := os.Stat(path); err != nil {
		return api.Missing
	}
	return api.Active
}

// Classified is an event as the engine sends it.
func Classified(pid int, exe, app string) api.Event {
	cause := policy.Listed
	return api.Event{Time: time.Unix(0, 0), Kind: api.EventClassified, PID: pid, Exe: exe, Cause: &cause, App: app}
}
