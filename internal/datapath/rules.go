package datapath

import (
	"errors"
	"fmt"
	"slices"

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
