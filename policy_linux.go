package sidestep

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"

	"golang.org/x/sys/unix"

	"sidestep/api"
	"sidestep/internal/datapath"
	"sidestep/internal/identity"
	"sidestep/internal/mountinfo"
	"sidestep/policy"
)

// app is an app of the policy as the engine enforces it.
type app struct {
	savedApp
	target identity.Target
	err    error // why the path could not be resolved last time; target is then the last that could
}

func (a app) state() api.AppState {
	if a.target.Exists {
		return api.Active
	}
	return api.Missing
}

// loadPolicy takes the apps of the state directory, without those that came from an earlier configuration only, and
// adds the configured ones.
func (e *Engine) loadPolicy() error {
	var saved savedPolicy
	if err := readState(e.opts.State, policyFile, &saved); err != nil {
		return err
	}
	configured := e.opts.Exclude.Positions()
	for _, s := range saved.Apps {
		parsed, err := policy.ParsePath(s.Path)
		if err != nil {
			return damaged(e.file(policyFile), err)
		}
		s.App = parsed
		if _, still := configured[s.Path]; s.Configured && !still {
			continue
		}
		e.apps = append(e.apps, app{savedApp: s})
	}
	e.apps = withConfigured(e.apps, e.opts.Exclude)
	return nil
}

func withConfigured(apps []app, p policy.Policy) []app {
	at := positions(apps)
	for _, a := range p.Apps {
		if _, there := at[a.Path]; !there {
			apps = append(apps, app{savedApp: savedApp{App: a, Configured: true}})
		}
	}
	return apps
}

// positions returns where in apps each path is.
func positions(apps []app) map[string]int {
	at := make(map[string]int, len(apps))
	for i, a := range apps {
		at[a.Path] = i
	}
	return at
}

// enforce puts the loaded policy in force for the first time. An app whose path can't be resolved is no reason not to
// enforce the others: it is complained of, and tried again when what is on the way changes. But if it is for want of
// memory, say, what an engine before us has put in force is better than what we would put in its place.
func (e *Engine) enforce(ctx context.Context) error {
	apps := resolved(e.apps)
	for _, a := range apps {
		if a.err != nil && isPassing(a.err) {
			return fmt.Errorf("resolve %s: %w", a.Path, a.err)
		}
	}
	return e.set(ctx, apps)
}

// isPassing reports whether an error is about this moment, and not about what was asked for.
func isPassing(err error) bool {
	return slices.ContainsFunc([]error{unix.ENOMEM, unix.EMFILE, unix.ENFILE, unix.EAGAIN, unix.EINTR, unix.EIO},
		func(e error) bool { return errors.Is(err, e) })
}

// unresolved reports whether an app's path is to be resolved again, though nothing on the way changes.
func (e *Engine) unresolved() bool {
	return slices.ContainsFunc(e.apps, func(a app) bool { return a.err != nil && isPassing(a.err) })
}

// resolved returns apps with what their paths lead to now.
func resolved(apps []app) []app {
	mounts, err := mountinfo.Read()
	apps = slices.Clone(apps)
	for i := range apps {
		apps[i].resolve(mounts, err)
	}
	return apps
}

func (a *app) resolve(mounts mountinfo.Table, err error) {
	target := identity.Target{Path: a.Path}
	if err == nil {
		target, err = identity.ResolveIn(mounts, a.App)
	}
	a.err = err
	if err == nil || a.target.Path == "" {
		a.target = target
	}
}

// set makes apps the policy: on disk once the kernel is prepared, in force, in what we remember; then it closes what is on
// the wrong side. If something fails before that, the policy is what it was; where even that fails, it is unsettled.
func (e *Engine) set(ctx context.Context, apps []app) error {
	if err := e.number(apps); err != nil {
		return err
	}
	e.remember(apps) // events of apps that are being added must find their names
	saved := false
	err := e.kernel.Set(ctx, e.compile(apps), func() error {
		err := e.save(apps)
		saved = err == nil
		return err
	})
	if err != nil {
		return fmt.Errorf("put the policy in force: %w", e.setBack(apps, saved, err))
	}
	e.unsettled = nil
	e.closeStrays(len(apps) == 0 && len(e.apps) > 0)
	e.apps = apps
	e.remember(apps)
	targets := make([]identity.Target, len(apps))
	for i, a := range apps {
		targets[i] = a.target
	}
	e.watcher.Set(targets)
	return nil
}

// number gives the apps that have no number one.
func (e *Engine) number(apps []app) error {
	for i := range apps {
		if apps[i].ID != 0 {
			continue
		}
		id, err := e.kernel.NewApp()
		if err != nil {
			return err
		}
		apps[i].ID = id
	}
	return nil
}

// setBack deals with a change that failed; saved: after the new policy was written to disk, so perhaps half way through the
// flip. What was opened on the new side meanwhile is closed.
func (e *Engine) setBack(apps []app, saved bool, err error) error {
	err = e.blame(apps, err)
	unsettled := errors.Is(err, datapath.ErrUnsettled)
	if saved {
		rewritten := e.save(e.apps)
		unsettled = unsettled || rewritten != nil
		err = errors.Join(err, rewritten)
		e.closeStrays(false)
	}
	if unsettled {
		e.unsettled = err
	}
	e.remember(e.apps)
	return err
}

func (e *Engine) save(apps []app) error {
	saved := savedPolicy{Version: 1, Apps: []savedApp{}}
	for _, a := range apps {
		saved.Apps = append(saved.Apps, a.savedApp)
	}
	return writeState(e.opts.State, policyFile, saved)
}

// blame names the app that the kernel had no room for.
func (e *Engine) blame(apps []app, err error) error {
	var failed *datapath.AppError
	if !errors.As(err, &failed) {
		return err
	}
	i := slices.IndexFunc(apps, func(a app) bool { return a.ID == failed.ID })
	if i < 0 {
		return err
	}
	return fmt.Errorf("%s: %w", apps[i].Path, err)
}

// remember keeps the apps' names for the goroutine that reports events.
func (e *Engine) remember(apps []app) {
	names := map[uint32]string{datapath.Launched: policy.LaunchedBy}
	for _, a := range slices.Concat(e.apps, apps) {
		names[a.ID] = a.Path
	}
	e.names.Store(&names)
}

// compile lowers the apps to what the kernel looks up.
func (e *Engine) compile(apps []app) []datapath.App {
	hasher := identity.NewHasher(e.kernel.Seed())
	all := make([]datapath.App, 0, len(apps))
	for _, a := range apps {
		k := datapath.App{ID: a.ID}
		if a.target.Identity != (identity.File{}) {
			k.Rules = datapath.RulesFor(hasher, a.target)
		}
		if a.target.Script {
			target := a.target
			k.Running = func() []int { return identity.RunningScript(target) }
		}
		all = append(all, k)
	}
	return all
}

// resolveAgain follows links, mounts and files that have changed.
func (e *Engine) resolveAgain(ctx context.Context) error {
	apps := resolved(e.apps)
	if reflect.DeepEqual(apps, e.apps) {
		return nil
	}
	for i, a := range apps {
		if a.target.Canonical != e.apps[i].target.Canonical || a.state() != e.apps[i].state() {
			e.opts.Log.Info("path changed", "app", a.Path, "resolved", a.target.Canonical, "state", a.state())
		}
	}
	err := e.set(ctx, apps)
	if err != nil {
		e.unsettled = err // nobody would ask again
	}
	return err
}
