package policy

import (
	"cmp"
	"slices"
	"strings"
)

// LaunchedBy is the app of every process that `sidestep run` started, and of its descendants.
const LaunchedBy = "sidestep run"

// remembered is how many apps a process remembers, nearest first.
const remembered = 8

// A Model is the oracle: it plays fork, exec, exit, exclude and include by the rules of the design, as plainly as
// they can be written down, and says what each process is. The kernel must agree with it.
//
// A process has a list of apps. At birth the list is its parent's. An exec puts the apps that name the new executable
// in front. Excluding an app adds it to every process that runs the app and to all that descend from one through
// living parents. Including an app takes it out everywhere. Who has an app is excluded; the first in the list decides.
type Model struct {
	policy Policy
	procs  map[int]*process
}

type process struct {
	exe      string
	parent   int // 0 once the parent has ended
	launched bool
	apps     []string
}

// A Decision is what a process is, and why.
type Decision struct {
	Verdict Verdict
	Cause   Cause
	App     string
}

// NewModel returns a Model with one process, which runs exe.
func NewModel(pid int, exe string) *Model {
	return &Model{procs: map[int]*process{pid: {exe: exe}}}
}

// Fork makes child, a copy of parent.
func (m *Model) Fork(parent, child int) {
	p := *m.procs[parent]
	p.parent, p.apps = parent, slices.Clone(p.apps)
	m.procs[child] = &p
}

// Sibling makes child, a copy of maker and a child of maker's parent: clone with CLONE_PARENT.
func (m *Model) Sibling(maker, child int) {
	m.Fork(maker, child)
	m.procs[child].parent = m.procs[maker].parent
}

// Start makes child a child of parent that owes it nothing, as if parent had never been one of any app's.
func (m *Model) Start(parent, child int, exe string) {
	m.procs[child] = &process{exe: exe, parent: parent}
	m.Exec(child, exe)
}

// Exec makes pid run exe.
func (m *Model) Exec(pid int, exe string) {
	p := m.procs[pid]
	p.exe, p.launched = exe, false
	p.apps = merge(m.own(p), p.apps)
}

// Exit ends pid; its children become orphans.
func (m *Model) Exit(pid int) {
	delete(m.procs, pid)
	for _, p := range m.procs {
		if p.parent == pid {
			p.parent = 0
		}
	}
}

// Launch makes pid one of LaunchedBy's.
func (m *Model) Launch(pid int) {
	p := m.procs[pid]
	p.launched = true
	p.apps = merge([]string{LaunchedBy}, p.apps)
}

// Exclude adds app to the policy.
func (m *Model) Exclude(app App) {
	next, changed := m.policy.With(app)
	if !changed {
		return
	}
	m.policy = next
	for _, p := range m.procs {
		found := m.own(p)
		for a := m.procs[p.parent]; a != nil; a = m.procs[a.parent] {
			for _, path := range m.own(a) {
				if path == app.Path || slices.Contains(p.apps, path) {
					found = append(found, path)
				}
			}
		}
		p.apps = merge(found, p.apps)
	}
}

// Include takes app out of the policy.
func (m *Model) Include(app App) {
	m.policy, _ = m.policy.Without(app)
	for _, p := range m.procs {
		p.apps = slices.DeleteFunc(p.apps, func(path string) bool { return path == app.Path })
	}
}

// Apps lists the apps that pid is one of, the one that decides first.
func (m *Model) Apps(pid int) []string { return slices.Clone(m.procs[pid].apps) }

// Decide says what pid is.
func (m *Model) Decide(pid int) Decision {
	p := m.procs[pid]
	if len(p.apps) == 0 {
		return Decision{}
	}
	d := Decision{Verdict: Excluded, Cause: Inherited, App: p.apps[0]}
	switch {
	case d.App == LaunchedBy:
		d.Cause = Launched
	case slices.Contains(m.own(p), d.App):
		d.Cause = Listed
	}
	return d
}

// own lists the apps that the process is one of by itself: launched, its executable named, the directories above it
// named, nearest first.
func (m *Model) own(p *process) []string {
	var apps []string
	if p.launched {
		apps = append(apps, LaunchedBy)
	}
	return append(apps, m.policy.Covering(p.exe)...)
}

// Covering lists the paths of the apps that name the executable exe, or a directory above it, nearest first.
func (p Policy) Covering(exe string) []string {
	var paths []string
	for _, a := range p.Apps {
		if a.Covers(exe) {
			paths = append(paths, a.Path)
		}
	}
	slices.SortFunc(paths, func(a, b string) int {
		return cmp.Or(cmp.Compare(len(b), len(a)), strings.Compare(a, b))
	})
	return paths
}

// merge puts what was found in front of what was remembered, each app once.
func merge(found, before []string) []string {
	var apps []string
	for _, a := range slices.Concat(found, before) {
		if !slices.Contains(apps, a) && len(apps) < remembered {
			apps = append(apps, a)
		}
	}
	return apps
}
