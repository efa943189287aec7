package policy

import (
	"maps"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

const root = 1

// TestModelSaysWhatTheDesignSays spells the sentences of the design, section 4, one by one.
func TestModelSaysWhatTheDesignSays(t *testing.T) {
	a, b, dir := App{"/a"}, App{"/b"}, App{"/d/"}
	for name, c := range map[string]struct {
		play func(m *Model)
		want Decision // of process 2
	}{
		"a program that nothing names": {func(m *Model) { m.Exclude(a); m.Start(root, 2, "/x") }, Decision{}},
		"a listed program":             {func(m *Model) { m.Exclude(a); m.Start(root, 2, "/a") }, Decision{Excluded, Listed, "/a"}},
		"a program in a directory":     {func(m *Model) { m.Exclude(dir); m.Start(root, 2, "/d/x") }, Decision{Excluded, Listed, "/d/"}},
		"a running program":            {func(m *Model) { m.Start(root, 2, "/a"); m.Exclude(a) }, Decision{Excluded, Listed, "/a"}},
		"a child": {func(m *Model) { m.Exclude(a); m.Start(root, 3, "/a"); m.Fork(3, 2); m.Exec(2, "/x") },
			Decision{Excluded, Inherited, "/a"}},
		"a running child": {func(m *Model) { m.Start(root, 3, "/a"); m.Fork(3, 2); m.Exec(2, "/x"); m.Exclude(a) },
			Decision{Excluded, Inherited, "/a"}},
		"a listed match replaces an inherited one": {func(m *Model) { m.Exclude(a); m.Exclude(b); m.Start(root, 2, "/a"); m.Exec(2, "/b") },
			Decision{Excluded, Listed, "/b"}},
		"another app still covers": {func(m *Model) {
			m.Exclude(a)
			m.Exclude(b)
			m.Start(root, 2, "/a")
			m.Exec(2, "/b")
			m.Include(b)
		}, Decision{Excluded, Inherited, "/a"}},
		"an orphan": {func(m *Model) { m.Exclude(a); m.Start(root, 3, "/a"); m.Fork(3, 2); m.Exec(2, "/x"); m.Exit(3) },
			Decision{Excluded, Inherited, "/a"}},
		"an orphan whose app is included": {func(m *Model) {
			m.Exclude(a)
			m.Start(root, 3, "/a")
			m.Fork(3, 2)
			m.Exec(2, "/x")
			m.Exit(3)
			m.Include(a)
		}, Decision{}},
		"an orphan is not found later": {func(m *Model) { m.Start(root, 3, "/a"); m.Fork(3, 2); m.Exec(2, "/x"); m.Exit(3); m.Exclude(a) },
			Decision{}},
		"a child from before the exec":   {func(m *Model) { m.Exclude(a); m.Start(root, 3, "/x"); m.Fork(3, 2); m.Exec(3, "/a") }, Decision{}},
		"launched":                       {func(m *Model) { m.Start(root, 2, "/x"); m.Launch(2); m.Exec(2, "/y") }, Decision{Excluded, Launched, LaunchedBy}},
		"a child from before the launch": {func(m *Model) { m.Start(root, 3, "/x"); m.Fork(3, 2); m.Launch(3) }, Decision{}},
		"launched, then listed":          {func(m *Model) { m.Exclude(a); m.Start(root, 2, "/x"); m.Launch(2); m.Exec(2, "/a") }, Decision{Excluded, Listed, "/a"}},
		"a sibling of a listed maker": {func(m *Model) { m.Exclude(a); m.Start(root, 3, "/a"); m.Sibling(3, 2); m.Exec(2, "/x") },
			Decision{Excluded, Inherited, "/a"}},
		"a sibling is not its maker's child": {func(m *Model) { m.Start(root, 3, "/a"); m.Sibling(3, 2); m.Exec(2, "/x"); m.Exclude(a) },
			Decision{}},
		"the parent of a sibling": {func(m *Model) {
			m.Exclude(a)
			m.Start(root, 4, "/x")
			m.Fork(4, 3)
			m.Exec(4, "/a")
			m.Sibling(3, 2)
		}, Decision{}},
	} {
		m := NewModel(root, "/init")
		c.play(m)
		if diff := cmp.Diff(c.want, m.Decide(2)); diff != "" {
			t.Errorf("%s: decision differs (-want +got):\n%s", name, diff)
		}
	}
}

// A world is a model under random steps.
type world struct {
	*Model
	next int
}

func (w *world) pids() []int { return slices.Sorted(maps.Keys(w.procs)) }

func (w *world) verdicts() map[int]Verdict {
	all := map[int]Verdict{}
	for pid := range w.procs {
		all[pid] = w.Decide(pid).Verdict
	}
	return all
}

// play draws a history.
func play(t *rapid.T) *world {
	w := &world{NewModel(root, "/init"), root}
	exes := []string{"/a", "/b", "/x", "/d/a", "/d/x", "/d/e/a", "/d/e/x", "/da"}
	for range rapid.IntRange(0, 40).Draw(t, "steps") {
		pid := rapid.SampledFrom(w.pids()).Draw(t, "pid")
		switch rapid.IntRange(0, 7).Draw(t, "step") {
		case 0, 1:
			w.next++
			w.Fork(pid, w.next)
			if got, want := w.Decide(w.next), w.Decide(pid); got != want {
				t.Fatalf("a child is %+v, its parent %+v", got, want)
			}
		case 2, 3:
			w.Exec(pid, rapid.SampledFrom(exes).Draw(t, "exe"))
		case 4:
			if pid != root {
				w.Exit(pid)
			}
		case 5:
			w.Exclude(drawApp(t))
		case 6:
			w.Include(drawApp(t))
		case 7:
			if pid != root && rapid.IntRange(0, 3).Draw(t, "launch") == 0 {
				w.Launch(pid)
			}
		}
	}
	return w
}

func TestEveryDecisionHasItsReason(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := play(t)
		for pid, p := range w.procs {
			d := w.Decide(pid)
			covering := w.policy.Covering(p.exe)
			switch {
			case d.Verdict == Included && (d != Decision{} || len(covering) > 0):
				t.Fatalf("%d, running %s, is %+v, and %q cover it", pid, p.exe, d, covering)
			case d.Verdict == Excluded && d.App != LaunchedBy && !w.policy.Has(d.App):
				t.Fatalf("%d is %+v, which is not in the policy", pid, d)
			case d.Cause == Listed != slices.Contains(covering, d.App):
				t.Fatalf("%d, running %s, is %+v, and %q cover it", pid, p.exe, d, covering)
			case d.Cause == Launched != (d.App == LaunchedBy):
				t.Fatalf("%d is %+v", pid, d)
			}
		}
	})
}

func TestIncludingEverythingExcludesNobody(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := play(t)
		for _, path := range few {
			w.Include(App{path})
		}
		for pid := range w.procs {
			if d := w.Decide(pid); d != (Decision{}) && d.Cause != Launched {
				t.Fatalf("%d is %+v", pid, d)
			}
		}
	})
}

func TestIncludeUndoesExclude(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w, app := play(t), drawApp(t)
		if w.policy.Has(app.Path) {
			return
		}
		before := w.verdicts()
		w.Exclude(app)
		once := w.verdicts()
		w.Exclude(app)
		if diff := cmp.Diff(once, w.verdicts()); diff != "" {
			t.Fatalf("excluding %s again changed (-before +after):\n%s", app.Path, diff)
		}
		w.Include(app)
		if diff := cmp.Diff(before, w.verdicts()); diff != "" {
			t.Fatalf("excluding and including %s changed (-before +after):\n%s", app.Path, diff)
		}
	})
}
