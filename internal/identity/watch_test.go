package identity

import (
	"context"
	"errors"
	"os"
	"path"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sidestep/policy"
)

// follower keeps one app resolved as the engine does: whenever the Watcher tells, it resolves and sets again.
type follower struct {
	*Watcher
	app  policy.App
	told chan struct{}
	done chan error
}

func follow(t *testing.T, p string) *follower {
	t.Helper()
	w, err := NewWatcher()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	f := &follower{w, policy.App{Path: p}, make(chan struct{}, 1), make(chan error, 1)}
	go func() {
		f.done <- w.Run(ctx, func() {
			select {
			case f.told <- struct{}{}:
			default:
			}
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-f.done; !errors.Is(err, context.Canceled) {
			t.Errorf("Run ended with %v, want %v", err, context.Canceled)
		}
		if err := w.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	f.resolve()
	return f
}

func (f *follower) resolve() (Target, error) {
	target, err := Resolve(f.app)
	f.Set([]Target{target})
	return target, err
}

// until resolves again whenever it is told to, until the target is as good wants it.
func (f *follower) until(t *testing.T, what string, good func(Target, error) bool) {
	t.Helper()
	late := time.After(20 * time.Second)
	for {
		select {
		case <-f.told:
			if good(f.resolve()) {
				return
			}
		case <-late:
			target, err := Resolve(f.app)
			t.Fatalf("not told that %s; the target is %+v, %v", what, target, err)
		}
	}
}

// settle returns when the Watcher has told what there was to tell about the start.
func (f *follower) settle(t *testing.T) {
	t.Helper()
	f.until(t, "the watches are new", func(Target, error) bool { return true })
}

func leadsTo(canonical string) func(Target, error) bool {
	return func(t Target, err error) bool { return err == nil && t.Exists && t.Canonical == canonical }
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestSwappedLinkIsSeen(t *testing.T) {
	dir := tree(t, "v1/app", "v2/app", "current -> v1", "bin/app -> ../current/app")
	f := follow(t, dir+"/bin/app")
	f.settle(t)
	must(t, os.Symlink("v2", dir+"/next"))
	must(t, os.Rename(dir+"/next", dir+"/current"))
	f.until(t, "the link was swapped", leadsTo(dir+"/v2/app"))
}

func TestPathThatAppearsIsSeen(t *testing.T) {
	dir := tree(t)
	f := follow(t, dir+"/opt/new/bin/app")
	f.settle(t)
	must(t, plant(dir, "opt/"))
	must(t, plant(dir, "opt/new/bin/app = #!/bin/sh"))
	f.until(t, "the path appeared", func(t Target, err error) bool { return err == nil && t.Script })
}

func TestReplacedFileIsSeen(t *testing.T) {
	dir := tree(t, "app = \x7fELF", "new = #!/bin/sh")
	f := follow(t, dir+"/app")
	f.settle(t)
	must(t, os.Rename(dir+"/new", dir+"/app"))
	f.until(t, "the file became a script", func(t Target, err error) bool { return t.Script })
	must(t, os.WriteFile(dir+"/app", []byte("\x7fELF"), 0o755))
	f.until(t, "the file was written", func(t Target, err error) bool { return t.Exists && !t.Script })
	must(t, os.Remove(dir+"/app"))
	f.until(t, "the file is gone", func(t Target, err error) bool { return !t.Exists })
}

func TestMovedParentIsSeen(t *testing.T) {
	dir := tree(t, "a/b/app", "new/b/app = #!/bin/sh")
	f := follow(t, dir+"/a/b/app")
	f.settle(t)
	must(t, os.Rename(dir+"/a", dir+"/old"))
	must(t, os.Rename(dir+"/new", dir+"/a"))
	f.until(t, "the directory was replaced", func(t Target, err error) bool { return t.Script })
	// The watches must be in the new directory now.
	must(t, os.WriteFile(dir+"/a/b/app", nil, 0o755))
	f.until(t, "the file in it was written", func(t Target, err error) bool { return t.Exists && !t.Script })
}

func TestErrorHeals(t *testing.T) {
	dir := tree(t, "a -> a", "app")
	f := follow(t, dir+"/a")
	f.settle(t)
	must(t, os.Remove(dir+"/a"))
	must(t, os.Symlink("app", dir+"/a"))
	f.until(t, "the loop is gone", leadsTo(dir+"/app"))
}

// unrun returns a Watcher that does not run: the test looks at what it would have told.
func unrun(t *testing.T, paths ...string) *Watcher {
	t.Helper()
	w, err := NewWatcher()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { must(t, w.Close()) })
	w.Set(resolveAll(t, paths))
	return w
}

func resolveAll(t *testing.T, paths []string) []Target {
	t.Helper()
	var targets []Target
	for _, p := range paths {
		target, err := Resolve(policy.App{Path: p})
		must(t, err)
		targets = append(targets, target)
	}
	return targets
}

// news reports whether the Watcher has something to tell.
func news(t *testing.T, w *Watcher) bool {
	t.Helper()
	changed, err := w.drain()
	must(t, err)
	return changed
}

func TestOtherNamesAreNoNews(t *testing.T) {
	dir := tree(t, "a/app")
	w := unrun(t, dir+"/a/app")
	if !news(t, w) {
		t.Error("new watches are news")
	}
	must(t, plant(dir, "a/other = x"))
	must(t, plant(dir, "another/"))
	must(t, os.Remove(dir+"/a/other"))
	if news(t, w) {
		t.Error("other names are news")
	}
	w.Set(resolveAll(t, []string{dir + "/a/app"}))
	if news(t, w) {
		t.Error("setting the same targets is news")
	}
	if _, err := os.ReadFile(dir + "/a/app"); err != nil || news(t, w) {
		t.Errorf("reading is news, or failed: %v", err)
	}
}

func TestSetReplacesTheWish(t *testing.T) {
	dir := tree(t, "a/app", "b/app")
	w := unrun(t, dir+"/a/app")
	w.Set(resolveAll(t, []string{dir + "/b/app"}))
	news(t, w)
	must(t, os.Remove(dir+"/a/app"))
	if news(t, w) {
		t.Error("a path that is not wanted any more is news")
	}
	must(t, os.Remove(dir+"/b/app"))
	if !news(t, w) {
		t.Error("the wanted path is no news")
	}
	w.Set(nil)
	if len(w.dirs) != 0 {
		t.Errorf("%d directories are watched for nothing", len(w.dirs))
	}
}

func TestLimitIsReportedAndMadeUpFor(t *testing.T) {
	dir := tree(t, "a/b/c/app")
	w := unrun(t)
	w.max, w.slow = 1, time.Millisecond
	w.Set(resolveAll(t, []string{dir + "/a/b/c/app"}))
	if got := w.Warnings(); len(got) != 1 || !strings.Contains(got[0], "too many") {
		t.Errorf("warnings %q, want one about the limit", got)
	}
	ctx, cancel := context.WithCancel(t.Context())
	calls := 0
	err := w.Run(ctx, func() {
		if calls++; calls == 3 { // one for the new watches, the others for the limit
			cancel()
		}
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("Run ended with %v", err)
	}
	w.max = watchMax
	w.Set(nil)
	if got := w.Warnings(); got != nil {
		t.Errorf("warnings %q after the cause is gone", got)
	}
}

func TestVanishedDirectoryIsNews(t *testing.T) {
	dir := tree(t, "a/app")
	targets := resolveAll(t, []string{dir + "/a/app"})
	w := unrun(t)
	must(t, os.RemoveAll(dir+"/a"))
	w.Set(targets)
	if !news(t, w) || w.Warnings() != nil {
		t.Errorf("a directory that went before it was watched is no news; warnings %q", w.Warnings())
	}
}

func TestExplainNamesTheSetting(t *testing.T) {
	if got := explain("/x", unix.ENOSPC); !strings.Contains(got, "/x") || !strings.Contains(got, "max_user_watches") {
		t.Errorf("%q does not name the directory and the setting", got)
	}
	if got := explain("/x", unix.EACCES); !strings.Contains(got, "/x: permission denied") {
		t.Errorf("%q does not say what is wrong", got)
	}
}

func TestSchedule(t *testing.T) {
	start := time.Now()
	s := schedule{told: start}
	if got := s.timeout(start, 0); got >= 0 {
		t.Errorf("nothing to tell: %v", got)
	}
	if got := s.timeout(start.Add(time.Second), time.Minute); got != 59*time.Second {
		t.Errorf("slowly: %v", got)
	}
	s = s.event(start)
	if got := s.timeout(start, 0); got != quiet {
		t.Errorf("after an event: %v, want %v", got, quiet)
	}
	calls := 0
	for now := start; s.timeout(now, 0) > 0; now = now.Add(quiet / 2) {
		s = s.event(now) // it is never quiet
		calls++
	}
	if want := int(patience / (quiet / 2)); calls != want {
		t.Errorf("told after %d events, want %d: patience ends", calls, want)
	}
}

func TestWatchListHoldsNoLinks(t *testing.T) {
	dir := tree(t, "real/app", "l -> real")
	target, err := Resolve(policy.App{Path: dir + "/l/app"})
	must(t, err)
	if slices.ContainsFunc(target.Watch, func(e Entry) bool { return e.Dir == path.Join(dir, "l") }) {
		t.Errorf("watch %v goes through a link", target.Watch)
	}
}
