//go:build deaf

package datapath_test

import (
	"fmt"
	"maps"
	"slices"

	"sidestep/policy"
)

// bounds is the oracle of a kernel that misses events: it knows which apps a process must be found to belong to, and
// which it may.
//
// Must: what the process's executable shows; what is in its label for certain, because a walk or its own socket put it
// there; and what its parent must have, if it had that when the process was born. May: whatever the process or one of
// its ancestors ever was.
type bounds struct {
	policy policy.Policy
	procs  map[int]*fate
}

type apps map[string]bool

type fate struct {
	exe      string
	launched bool
	parent   *fate // nil once it has ended
	born     apps  // what the parent had then
	label    apps  // what the label holds at least
	ever     apps
}

func newBounds(pid int) *bounds {
	return &bounds{procs: map[int]*fate{pid: {born: apps{}, label: apps{}, ever: apps{}}}}
}

func (b *bounds) own(f *fate) apps {
	own := apps{}
	for _, path := range b.policy.Covering(f.exe) {
		own[path] = true
	}
	if f.launched {
		own[policy.LaunchedBy] = true
	}
	return own
}

// must lists the apps that the process is one of for certain.
func (b *bounds) must(f *fate) apps {
	if f == nil {
		return apps{}
	}
	all := b.own(f)
	maps.Copy(all, f.label)
	for path := range b.must(f.parent) {
		if f.born[path] {
			all[path] = true
		}
	}
	return all
}

// spread brings what a process may be to its descendants, which may ask for it at any time, and takes from what they
// were born with what their parents can no longer tell.
func (b *bounds) spread() {
	for _, f := range b.procs {
		known := b.must(f.parent)
		maps.DeleteFunc(f.born, func(path string, _ bool) bool { return !known[path] })
		for a := f; a != nil; a = a.parent {
			maps.Copy(f.ever, b.own(a))
			maps.Copy(f.ever, a.ever)
		}
	}
}

func (b *bounds) bear(maker, parent, child int) {
	m, p := b.procs[maker], b.procs[parent]
	f := &fate{exe: m.exe, parent: p, label: apps{}, ever: maps.Clone(m.ever)}
	f.born = b.must(m)
	if p != m {
		f.born = apps{} // what the label would have come from is not above it
	}
	b.procs[child] = f
	b.spread()
}

func (b *bounds) Fork(parent, child int) { b.bear(parent, parent, child) }

func (b *bounds) Sibling(maker, child int) {
	parent := 0
	for pid, f := range b.procs {
		if f == b.procs[maker].parent {
			parent = pid
		}
	}
	b.bear(maker, parent, child)
}

func (b *bounds) Start(parent, child int, exe string) {
	b.Fork(parent, child)
	b.Exec(child, exe)
}

func (b *bounds) Exec(pid int, exe string) {
	f := b.procs[pid]
	f.exe, f.launched = exe, false
	b.spread()
}

func (b *bounds) Exit(pid int) {
	dead := b.procs[pid]
	delete(b.procs, pid)
	for _, f := range b.procs {
		if f.parent == dead {
			f.parent = nil
		}
	}
}

func (b *bounds) Launch(pid int) {
	f := b.procs[pid]
	f.launched, f.label[policy.LaunchedBy] = true, true
	b.spread()
}

func (b *bounds) Exclude(app policy.App) {
	b.policy, _ = b.policy.With(app)
	for _, f := range b.procs {
		for a := f; a != nil; a = a.parent {
			if b.own(a)[app.Path] {
				f.label[app.Path] = true
			}
		}
	}
	b.settle()
}

// settle is what the walk over all processes does: it stores what it finds.
func (b *bounds) settle() {
	for _, f := range b.procs {
		maps.Copy(f.label, b.must(f))
	}
	b.spread()
}

func (b *bounds) Include(app policy.App) {
	b.policy, _ = b.policy.Without(app)
	for _, f := range b.procs {
		delete(f.born, app.Path)
		delete(f.label, app.Path)
		delete(f.ever, app.Path)
	}
}

func (b *bounds) Allows(pid int, got policy.Decision) error {
	f := b.procs[pid]
	if err := b.side(f, got.Verdict == policy.Excluded); err != nil {
		return err
	}
	if got.App != "" && !f.ever[got.App] {
		return fmt.Errorf("is %+v, and never was one of those", got)
	}
	return nil
}

func (b *bounds) Heard(pid int, excluded bool) error {
	f := b.procs[pid]
	err := b.side(f, excluded)
	maps.Copy(f.label, b.must(f))
	return err
}

func (b *bounds) side(f *fate, excluded bool) error {
	must := slices.Sorted(maps.Keys(b.must(f)))
	if !excluded && len(must) > 0 {
		return fmt.Errorf("is included, and belongs to %q", must)
	}
	if excluded && len(f.ever) == 0 {
		return fmt.Errorf("is excluded, and belongs to nothing")
	}
	return nil
}
