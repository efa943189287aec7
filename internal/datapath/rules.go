package datapath

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"sidestep/internal/datapath/bpf"
	"sidestep/internal/identity"
)

// The exits of bpf/abi.h.
const (
	exitDefault = 0
	exitOutside = 1
)

const (
	nameFile = 1
	nameDir  = 2
)

// An App is one app of the policy as the kernel knows it.
type App struct {
	// ID is from [Datapath.NewApp]. The same app keeps it as long as it is in the policy.
	ID uint32
	// Rules are the files and directories that the app's path stands for. Where two apps have the same rule, the
	// first in the list has it.
	Rules []Rule
	// Running, if set, finds processes that are the app's although their executable does not show it (scripts).
	// Set calls it once the rules are in the kernel.
	Running func() []int
}

// A Rule names a file or a directory by its hashes; see identity.Hasher.
type Rule struct {
	Name uint64 // of the last component
	Key  [16]byte
	Dir  bool
}

// RulesFor returns the rules of what a path of the policy leads to.
func RulesFor(h identity.Hasher, t identity.Target) []Rule {
	var rs []Rule
	for _, f := range slices.Concat([]identity.File{t.Identity}, t.Below, t.Aliases) {
		r := Rule{Name: h.Name(f.Base()), Key: h.File(f)}
		if t.Dir() {
			r.Key, r.Dir = h.Dir(f), true
		}
		rs = append(rs, r)
	}
	return rs
}

type key = [16]byte

// rules is what the kernel's maps hold, or should hold.
type rules struct {
	apps  map[uint32]bool
	rules map[key]uint32
	names map[uint64]uint32
	dirs  uint32
}

func newRules() rules {
	return rules{apps: map[uint32]bool{}, rules: map[key]uint32{}, names: map[uint64]uint32{}}
}

func rulesOf(apps []App) rules {
	r := newRules()
	for _, a := range apps {
		r.apps[a.ID] = true
		for _, rule := range a.Rules {
			kind := uint32(nameFile)
			if rule.Dir {
				kind = nameDir
			}
			r.names[rule.Name] |= kind
			if _, taken := r.rules[rule.Key]; taken {
				continue
			}
			r.rules[rule.Key] = a.ID
			if rule.Dir {
				r.dirs++
			}
		}
	}
	return r
}

// readRules reads back what is in force. What was being prepared when somebody was cut off is forgotten.
func (d *Datapath) readRules() (rules, error) {
	r := newRules()
	r.dirs = d.settings.DirRules
	var (
		id   uint32
		app  bpf.DatapathApp
		half []uint32
	)
	apps := d.objs.Apps.Iterate()
	for apps.Next(&id, &app) {
		if app.Fresh != 0 {
			half = append(half, id)
		}
		if id >= firstApp && app.Exit == exitOutside {
			r.apps[id] = true
		}
	}
	var rulesErr, namesErr error
	r.rules, rulesErr = contents[key](d.objs.Rules)
	r.names, namesErr = contents[uint64](d.objs.Names)
	err := errors.Join(apps.Err(), rulesErr, namesErr)
	for _, id := range half {
		if r.apps[id] {
			err = errors.Join(err, d.writeApp(id, bpf.DatapathApp{Exit: exitOutside}))
		} else {
			err = errors.Join(err, deleted(d.objs.Apps.Delete(id)))
		}
	}
	if err != nil {
		return r, fmt.Errorf("read the rules: %w", err)
	}
	return r, nil
}

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
	gains := gaining(have, want)
	err := d.stage(ctx, have, want, gains, apps)
	if err == nil {
		err = commit()
	}
	if err == nil {
		err = d.flip(have, want, gains)
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
	if err := d.noteSockets(); err != nil {
		return fmt.Errorf("note open sockets: %w", err)
	}
	return nil
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
	// Twice: a child that was born while the first walk was between it and its parent is found by the second.
	for range 2 {
		if err := ctx.Err(); err != nil {
			return err
		}
		if _, err := d.walk(d.objs.WalkSeed); err != nil {
			return fmt.Errorf("label running processes: %w", err)
		}
	}
	return nil
}

// noteSockets finds out whose the open sockets are, then whose they are not, and what the kernel has made for them.
func (d *Datapath) noteSockets() error {
	if err := empty(d.objs.Mptcp); err != nil {
		return err
	}
	for _, prog := range []*ebpf.Program{d.objs.WalkNote, d.objs.WalkDisown} {
		if _, err := d.walk(prog); err != nil {
			return err
		}
	}
	return d.inside(func() error {
		_, err := d.walk(d.objs.WalkSubflow)
		return err
	})
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

// flip puts the change in force: apps that come first, so that a process which two apps cover is never without.
func (d *Datapath) flip(have, want rules, gains map[uint32]bool) error {
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
	if have.loses(want) { // what belongs to nobody now may be somebody else's
		if err := d.noteSockets(); err != nil {
			return fmt.Errorf("note open sockets: %w", err)
		}
	}
	return d.settle()
}

// hushFor is how long the kernel answers nothing through a tunnel once an app has been excluded, or a link that is closed to
// excluded programs has come or gone: long enough for a peer that repeats itself to what has just been closed. Whoever sends
// again after that is answered.
const hushFor = 5 * time.Second

func (d *Datapath) hush() error {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
		return fmt.Errorf("read the clock: %w", err)
	}
	return d.configure(func(c *bpf.DatapathConfig) { c.Quiet = uint64(now.Nano() + hushFor.Nanoseconds()) })
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

// writeRules turns the maps from one content to another. The generation grows in the end: whoever was found to belong
// to no app by the old rules is judged again.
func (d *Datapath) writeRules(have, want rules) error {
	if err := put(d.objs.Names, have.names, want.names); err != nil {
		return fmt.Errorf("write names: %w", err)
	}
	if err := d.configure(func(c *bpf.DatapathConfig) { c.DirRules = max(have.dirs, want.dirs) }); err != nil {
		return err
	}
	if err := d.putRules(have.rules, want.rules); err != nil {
		return err
	}
	if err := drop(d.objs.Rules, have.rules, want.rules); err != nil {
		return fmt.Errorf("remove rules: %w", err)
	}
	if err := drop(d.objs.Names, have.names, want.names); err != nil {
		return fmt.Errorf("remove names: %w", err)
	}
	return d.configure(func(c *bpf.DatapathConfig) {
		c.DirRules = want.dirs
		c.Generation++
	})
}

func (d *Datapath) putRules(have, want map[key]uint32) error {
	for k, id := range want {
		if have[k] == id {
			continue
		}
		if err := d.objs.Rules.Put(k, id); err != nil {
			return &AppError{ID: id, Err: err}
		}
	}
	return nil
}

// An AppError says which app the kernel had no room for.
type AppError struct {
	ID  uint32
	Err error
}

func (e *AppError) Error() string { return fmt.Sprintf("write app %d: %v", e.ID, e.Err) }

// Unwrap returns what the kernel said.
func (e *AppError) Unwrap() error { return e.Err }

func (d *Datapath) writeApp(id uint32, app bpf.DatapathApp) error {
	if err := d.objs.Apps.Put(id, app); err != nil {
		return &AppError{ID: id, Err: err}
	}
	return nil
}
