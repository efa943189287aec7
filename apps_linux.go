package sidestep

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"sidestep/api"
	"sidestep/internal/identity"
	"sidestep/internal/mountinfo"
	"sidestep/policy"
)

// Exclude adds apps to the policy and returns when that is in force, for running and for future processes. Paths are as
// policy.ParsePath takes them. It does all or nothing.
func (e *Engine) Exclude(ctx context.Context, paths []string) (api.Changes, error) {
	wanted, err := parse(paths)
	if err != nil {
		return api.Changes{}, err
	}
	var changes api.Changes
	err = e.do(ctx, func() error {
		apps := slices.Clone(e.apps)
		at := positions(apps)
		mounts, mountsErr := mountinfo.Read()
		var added []string
		for _, a := range wanted.Apps {
			if _, there := at[a.Path]; there {
				continue
			}
			n, err := admit(a, mounts, mountsErr)
			if err != nil {
				return err
			}
			apps = append(apps, n)
			added = append(added, a.Path)
		}
		return e.change(ctx, apps, wanted, added, nil, &changes)
	})
	return changes, err
}

// Include takes apps out of the policy and returns when that is in force. It does all or nothing.
func (e *Engine) Include(ctx context.Context, paths []string) (api.Changes, error) {
	unwanted, err := parse(paths)
	if err != nil {
		return api.Changes{}, err
	}
	var changes api.Changes
	err = e.do(ctx, func() error {
		gone := unwanted.Positions()
		at := positions(e.apps)
		var removed []string
		for _, a := range unwanted.Apps {
			if _, there := at[a.Path]; !there {
				return &api.Error{
					Code: api.CodeNotFound, Message: a.Path + " is not in the policy",
					Hint: "`sidestep apps` lists what is",
				}
			}
			removed = append(removed, a.Path)
		}
		apps := slices.DeleteFunc(slices.Clone(e.apps), func(a app) bool {
			_, unwanted := gone[a.Path]
			return unwanted
		})
		return e.change(ctx, apps, unwanted, nil, removed, &changes)
	})
	return changes, err
}

// Replace makes paths the whole policy and returns when that is in force. It does all or nothing.
func (e *Engine) Replace(ctx context.Context, paths []string) (api.Changes, error) {
	wanted, err := parse(paths)
	if err != nil {
		return api.Changes{}, err
	}
	var changes api.Changes
	err = e.do(ctx, func() error { return e.replace(ctx, wanted, &changes) })
	return changes, err
}

func (e *Engine) replace(ctx context.Context, wanted policy.Policy, changes *api.Changes) error {
	var apps []app
	var added, removed []string
	named := policy.Policy{Apps: slices.Clone(wanted.Apps)}
	at, staying := positions(e.apps), wanted.Positions()
	mounts, mountsErr := mountinfo.Read()
	for _, a := range wanted.Apps {
		if i, there := at[a.Path]; there {
			apps = append(apps, e.apps[i])
			continue
		}
		n, err := admit(a, mounts, mountsErr)
		if err != nil {
			return err
		}
		apps = append(apps, n)
		added = append(added, a.Path)
	}
	for _, a := range e.apps {
		if _, stays := staying[a.Path]; !stays {
			removed = append(removed, a.Path)
			named.Apps = append(named.Apps, a.App)
		}
	}
	return e.change(ctx, apps, named, added, removed, changes)
}

// Reload takes over changed options, as far as they can change while running: the configured apps, and the names of
// tunnels and uplink. It does all or nothing.
func (e *Engine) Reload(ctx context.Context, o Options) error {
	o, err := o.withDefaults()
	if err != nil {
		return err
	}
	if o.State != e.opts.State || !sameNumbers(o.routing(), e.opts.routing()) {
		return errors.New("the state directory and the numbers of mark, table, rule and protocol only change with a restart")
	}
	return e.do(ctx, func() error {
		if err := e.checkStrict(o); err != nil {
			return err
		}
		configured := o.Exclude.Positions()
		apps := slices.DeleteFunc(slices.Clone(e.apps), func(a app) bool {
			_, still := configured[a.Path]
			return a.Configured && !still
		})
		if err := e.set(ctx, resolved(withConfigured(apps, o.Exclude))); err != nil {
			return err
		}
		e.opts = o
		return e.follow(ctx, *e.latest.Load())
	})
}

func parse(paths []string) (policy.Policy, error) {
	p, err := policy.Parse(paths)
	if err != nil {
		return p, &api.Error{Code: api.CodeBadPath, Message: err.Error()}
	}
	return p, nil
}

// admit resolves a new app, and refuses one that would not mean what the user expects.
func admit(a policy.App, mounts mountinfo.Table, mountsErr error) (app, error) {
	n := app{savedApp: savedApp{App: a}}
	n.resolve(mounts, mountsErr)
	switch {
	case errors.Is(n.err, identity.ErrIsDirectory):
		return n, &api.Error{
			Code: api.CodeBadPath, Message: a.Path + " is a directory",
			Hint: fmt.Sprintf("write %s/ to exclude every program below it", a.Path),
		}
	case errors.Is(n.err, identity.ErrNotDirectory) && a.Dir():
		return n, &api.Error{
			Code: api.CodeBadPath, Message: a.Path + " is not a directory",
			Hint: "leave the final / away to exclude a program",
		}
	case n.err != nil:
		return n, &api.Error{Code: api.CodeInternal, Message: fmt.Sprintf("exclude %s: %v", a.Path, n.err)}
	}
	return n, nil
}

// change puts apps in force and reports what became of each named path.
func (e *Engine) change(ctx context.Context, apps []app, named policy.Policy, added, removed []string, c *api.Changes) error {
	if len(added)+len(removed) > 0 {
		if err := e.set(ctx, apps); err != nil {
			return fmt.Errorf("change %s: %w", strings.Join(slices.Concat(added, removed), ", "), err)
		}
	}
	c.Version, c.Changes = api.Version, []api.Change{}
	at, isNew, isGone := positions(apps), setOf(added), setOf(removed)
	for _, n := range named.Apps {
		ch := api.Change{Path: n.Path, Result: "unchanged"}
		if i, there := at[n.Path]; there {
			ch.State, ch.Script = apps[i].state(), apps[i].target.Script
		}
		switch {
		case isNew[n.Path]:
			ch.Result = "excluded"
			e.events.send(api.Event{Kind: api.EventExcluded, App: n.Path})
		case isGone[n.Path]:
			ch.Result = "included"
			e.events.send(api.Event{Kind: api.EventIncluded, App: n.Path})
		}
		if ch.Result != "unchanged" {
			e.opts.Log.Info(ch.Result, "app", n.Path)
		}
		c.Changes = append(c.Changes, ch)
	}
	e.reportClassified(added)
	return nil
}

func setOf(names []string) map[string]bool {
	m := make(map[string]bool, len(names))
	for _, n := range names {
		m[n] = true
	}
	return m
}
