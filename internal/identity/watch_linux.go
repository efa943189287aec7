package identity

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"sidestep/internal/mountinfo"
)

// Limits of a Watcher.
const (
	quiet     = 50 * time.Millisecond  // how long nothing may happen before it tells
	patience  = 500 * time.Millisecond // how long it waits for that at most
	slowly    = 30 * time.Second       // how often it tells when it is partly blind
	watchMax  = 4096                   // directories watched; the kernel's own limit is max_user_watches
	eventMask = unix.IN_CREATE | unix.IN_DELETE | unix.IN_MOVED_FROM | unix.IN_MOVED_TO | unix.IN_ATTRIB |
		unix.IN_CLOSE_WRITE | unix.IN_DELETE_SELF | unix.IN_MOVE_SELF | unix.IN_ONLYDIR | unix.IN_EXCL_UNLINK
)

// A Watcher tells when targets may have to be resolved again: because a symbolic link on the way was swapped, a
// missing path has appeared, a directory was moved, a file was replaced, or the mounts have changed.
//
// It watches each directory once, and only for the names that matter in it. What it cannot watch it makes up for
// by telling every half a minute, and says so in [Watcher.Warnings].
type Watcher struct {
	inotify int
	wake    int // eventfd: Run has something to look at
	mounts  int // the mount namespace that the Watcher was made in; whoever polls it first takes the news

	slow time.Duration
	max  int

	mu       sync.Mutex
	dirs     map[int]names // by watch descriptor
	changed  bool          // something has happened that no event will tell
	closed   bool
	warnings []string
}

// names are the entries of one directory that matter. The name "" stands for all.
type names map[string]bool

// NewWatcher returns a Watcher that has no targets. Made before they are resolved, it misses nothing.
func NewWatcher() (*Watcher, error) {
	// Not an os.File: Go's own poller would take the news.
	mounts, err := unix.Open(mountinfo.File, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("watch mounts: open %s: %w", mountinfo.File, err)
	}
	inotify, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		unix.Close(mounts)
		return nil, fmt.Errorf("watch paths: inotify_init: %w", err)
	}
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		unix.Close(mounts)
		unix.Close(inotify)
		return nil, fmt.Errorf("watch paths: eventfd: %w", err)
	}
	return &Watcher{
		inotify: inotify, wake: wake, mounts: mounts, slow: slowly, max: watchMax, dirs: map[int]names{},
	}, nil
}

// Close gives the Watcher's resources back. Run must have returned.
func (w *Watcher) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
	return errors.Join(unix.Close(w.inotify), unix.Close(w.wake), unix.Close(w.mounts))
}

// Set makes the Watcher watch what these targets depend on, and nothing else. Directories that it did not watch
// before may have changed since the targets were resolved; Run then tells once more.
func (w *Watcher) Set(targets []Target) {
	want := map[string]names{}
	for _, t := range targets {
		for _, e := range t.Watch {
			if want[e.Dir] == nil {
				want[e.Dir] = names{}
			}
			want[e.Dir][e.Name] = true
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.setLocked(want)
	w.signalLocked()
}

// Warnings says what the Watcher cannot see. It is empty when all is well.
func (w *Watcher) Warnings() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.warnings)
}

// setLocked adds a watch for every directory of want, also for those it has: under the same name there may be
// another directory now. Then it removes the watches that nothing asks for.
func (w *Watcher) setLocked(want map[string]names) {
	w.warnings = nil
	dirs := make(map[int]names, len(want))
	for i, dir := range slices.Sorted(maps.Keys(want)) {
		if i == w.max {
			w.warnings = append(w.warnings, fmt.Sprintf("%d directories are too many to watch, the limit is %d", len(want), w.max))
			break
		}
		wd, err := unix.InotifyAddWatch(w.inotify, dir, eventMask)
		switch {
		case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR):
			w.changed = true // it is not what it was when it was resolved
			continue
		case err != nil:
			w.warnings = append(w.warnings, explain(dir, err))
			continue
		}
		if w.dirs[wd] == nil && dirs[wd] == nil {
			w.changed = true
		}
		if dirs[wd] == nil {
			dirs[wd] = names{}
		}
		maps.Copy(dirs[wd], want[dir]) // two paths may lead to one directory
	}
	for wd := range w.dirs {
		if dirs[wd] == nil {
			_, _ = unix.InotifyRmWatch(w.inotify, uint32(wd)) // fails if the directory is gone
		}
	}
	w.dirs = dirs
}

// explain says why a directory is not watched, and what helps.
func explain(dir string, err error) string {
	if errors.Is(err, unix.ENOSPC) {
		return fmt.Sprintf("cannot watch %s: no inotify watches left (raise fs.inotify.max_user_watches)", dir)
	}
	return fmt.Sprintf("cannot watch %s: %v", dir, err)
}

// signalLocked wakes Run.
func (w *Watcher) signalLocked() {
	if w.closed {
		return
	}
	// The only error is that the counter is full, and then Run is going to wake anyway.
	_, _ = unix.Write(w.wake, []byte{1, 0, 0, 0, 0, 0, 0, 0})
}

// Run calls fn whenever the targets may have to be resolved again, until ctx ends.
//
// fn runs on Run's goroutine and should hand the work to another or do it quickly; it may call Set. Changes that
// come close together make one call, and nothing delays a call for more than half a second.
func (w *Watcher) Run(ctx context.Context, fn func()) error {
	stop := context.AfterFunc(ctx, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.signalLocked()
	})
	defer stop()
	due := schedule{told: time.Now()}
	for {
		changed, err := w.wait(due.timeout(time.Now(), w.period()))
		if err != nil {
			return fmt.Errorf("watch paths: %w", err)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		now := time.Now()
		if changed {
			due = due.event(now)
		}
		if due.timeout(now, w.period()) == 0 {
			due = schedule{told: now}
			fn()
		}
	}
}

// period is how often Run tells for no reason, 0 for never.
func (w *Watcher) period() time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.warnings) == 0 {
		return 0
	}
	return w.slow
}

// A schedule says when to tell: when it has been quiet for a while, or when it has been long enough.
type schedule struct {
	first, last time.Time // the events that have not been told; zero when there are none
	told        time.Time
}

// event returns the schedule after one more event.
func (s schedule) event(now time.Time) schedule {
	if s.first.IsZero() {
		s.first = now
	}
	s.last = now
	return s
}

// timeout returns how long to wait: 0 when it is time to tell, negative for as long as nothing happens. A period
// of 0 stands for never.
func (s schedule) timeout(now time.Time, period time.Duration) time.Duration {
	switch {
	case !s.first.IsZero():
		return max(0, min(s.last.Add(quiet).Sub(now), s.first.Add(patience).Sub(now)))
	case period > 0:
		return max(0, s.told.Add(period).Sub(now))
	}
	return -1
}
