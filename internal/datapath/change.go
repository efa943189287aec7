package datapath

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"sidestep/internal/datapath/bpf"
)

// ErrUnsettled: a change failed, and so did taking it back. What is in force is neither the old policy nor the new one
// until a [Datapath.Set] has succeeded.
var ErrUnsettled = errors.New("what is in force is neither the old policy nor the new one")

// Set makes apps the whole of what is excluded, for running and future processes, and returns when that is in force.
//
// The order is the promise: rules and fresh app entries first, so that whatever starts from now on is labelled; then
// the walks that label what runs already and note its sockets; then commit, for the caller to make the change last; then
// one write per app, which moves its processes at once. From then on the guard stops the flows that are on the wrong
// side; [Datapath.Strays] lists them. An error leaves everything as it was, unless it is ErrUnsettled.
func (d *Datapath) Set(ctx context.Context, apps []App, commit func() error) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.recall(); err != nil {
		return err
	}
	return d.change(ctx, d.rules, apps, commit)
}

// Withdraw takes every app out of force, what `sidestep run` started too. It does all or nothing.
func (d *Datapath) Withdraw(ctx context.Context) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.recall(); err != nil {
		return err
	}
	have := d.rules
	have.apps = maps.Clone(have.apps)
	have.apps[Launched] = true
	return d.change(ctx, have, nil, func() error { return nil })
}

// recall finds out what is in force where a failure has left that open.
func (d *Datapath) recall() error {
	if !d.unsettled {
		return nil
	}
	have, err := d.readRules()
	if err != nil {
		return fmt.Errorf("find out what is in force: %w", err)
	}
	d.rules, d.unsettled = have, false
	return nil
}

// change goes from one content of the maps to another, with Set's promises.
func (d *Datapath) change(ctx context.Context, have rules, apps []App, commit func() error) error {
	if d.older != nil {
		if err := d.takeOver(); err != nil {
			return fmt.Errorf("take over from another version: %w", err)
		}
	}
	if err := d.sweep(); err != nil {
		return err
	}
	want := rulesOf(apps)
	if err := d.reserve(want); err != nil {
		return err
	}
	unnoted, err := d.unnoted()
	if err != nil {
		return err
	}
	gains := gaining(have, want)
	err = d.stage(ctx, have, want, gains, apps)
	if err == nil {
		err = commit()
	}
	if err == nil {
		err = d.flip(have, want, gains, unnoted)
	}
	if err == nil {
		d.rules = want
		return d.replaceOlder()
	}
	if undone := d.undo(have, want, gains); undone != nil {
		d.unsettled = true
		err = fmt.Errorf("%w: %w; taking it back: %w", ErrUnsettled, err, undone)
	}
	return err
}

// gaining returns the apps that name files they did not name before: new ones, and ones that resolve differently now.
func gaining(have, want rules) map[uint32]bool {
	gains := map[uint32]bool{}
	for id := range want.apps {
		if !have.apps[id] {
			gains[id] = true
		}
	}
	for k, id := range want.rules {
		if have.rules[k] != id {
			gains[id] = true
		}
	}
	return gains
}

// loses reports whether an app is not wanted any more.
func (r rules) loses(want rules) bool {
	for id := range r.apps {
		if !want.apps[id] {
			return true
		}
	}
	return false
}

func (d *Datapath) stage(ctx context.Context, have, want rules, gains map[uint32]bool, apps []App) error {
	for id := range gains {
		app := bpf.DatapathApp{Fresh: 1}
		if have.apps[id] {
			app.Exit = exitOutside
		}
		if err := d.writeApp(id, app); err != nil {
			return err
		}
	}
	if err := d.writeRules(have, want); err != nil {
		return err
	}
	if len(gains) > 0 {
		if err := d.label(ctx, gains, apps); err != nil {
			return err
		}
	} else if !have.loses(want) {
		return nil
	}
	return d.noteSockets()
}

// label labels what runs already.
func (d *Datapath) label(ctx context.Context, gains map[uint32]bool, apps []App) error {
	for _, a := range apps {
		if a.Running == nil || !gains[a.ID] {
			continue
		}
		for _, pid := range a.Running() {
			if _, err := d.assign(pid, a.ID); err != nil {
				return err
			}
		}
	}
	begin, err := sinceBoot()
	if err != nil {
		return err
	}
	if err := d.seed(ctx, 0); err != nil {
		return err
	}
	// A child that was born while the walk was between it and its parent. The kernel notes its birth before others can see it.
	return d.seed(ctx, begin-time.Second)
}

// seed labels the processes that were born since.
func (d *Datapath) seed(ctx context.Context, since time.Duration) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	err := d.objs.Requests.Put(uint32(0), bpf.DatapathRequest{Born: uint64(max(since, 0))})
	if err == nil {
		_, err = d.walk(d.objs.WalkSeed)
	}
	if err != nil {
		return fmt.Errorf("label running processes: %w", err)
	}
	return nil
}

// undo takes back what stage and flip did, as far as they got. The labels that the walks made name apps that are gone,
// which names nothing.
func (d *Datapath) undo(have, want rules, gains map[uint32]bool) error {
	var errs []error
	for id := range gains {
		if !have.apps[id] {
			errs = append(errs, deleted(d.objs.Apps.Delete(id)))
		}
	}
	for id := range have.apps {
		errs = append(errs, d.writeApp(id, bpf.DatapathApp{Exit: exitOutside}))
	}
	return errors.Join(append(errs, d.writeRules(want, have), d.settle())...)
}

// flip puts the change in force: apps that come first, so that a process which two apps cover is never without. Before the
// change, unnoted sockets had found no memory for their note.
func (d *Datapath) flip(have, want rules, gains map[uint32]bool, unnoted uint64) error {
	for id := range gains {
		if err := d.writeApp(id, bpf.DatapathApp{Exit: exitOutside}); err != nil {
			return err
		}
	}
	if len(gains) > 0 {
		if err := d.hush(); err != nil {
			return err
		}
	}
	for id := range have.apps {
		if want.apps[id] {
			continue
		}
		if err := deleted(d.objs.Apps.Delete(id)); err != nil {
			return fmt.Errorf("take app %d out of force: %w", id, err)
		}
	}
	now, err := d.unnoted()
	if err != nil {
		return err
	}
	if have.loses(want) || now != unnoted { // what belongs to nobody now may be somebody else's
		if err := d.noteSockets(); err != nil {
			return err
		}
	}
	return d.settle()
}

// hushFor is how long the kernel answers nothing through a tunnel once an app has been excluded, or a link that is closed to
// excluded programs has come or gone: long enough for a peer that repeats itself to what has just been closed. Whoever sends
// again after that is answered.
const hushFor = 5 * time.Second

func (d *Datapath) hush() error {
	now, err := sinceBoot()
	if err != nil {
		return err
	}
	return d.configure(func(c *bpf.DatapathConfig) { c.Quiet = uint64(now + hushFor) })
}

// settle waits until no program that began before the call runs any more: none is left that saw the old state. The
// kernel waits for that itself when an inner map is replaced (maybe_wait_bpf_programs in kernel/bpf/syscall.c), which
// is all that the two maps are for.
func (d *Datapath) settle() error {
	if err := d.objs.Outer.Put(uint32(0), d.objs.Inner); err != nil {
		return fmt.Errorf("wait for running programs: %w", err)
	}
	return nil
}
