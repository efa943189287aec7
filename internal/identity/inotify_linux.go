package identity

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// wait blocks until something happens or the time is over, negative for no limit. It reports whether what
// happened matters to a target.
func (w *Watcher) wait(limit time.Duration) (bool, error) {
	fds := []unix.PollFd{
		{Fd: int32(w.inotify), Events: unix.POLLIN},
		{Fd: int32(w.wake), Events: unix.POLLIN},
		{Fd: int32(w.mounts), Events: unix.POLLPRI},
	}
	ms := -1
	if limit >= 0 {
		ms = int((limit + time.Millisecond - 1) / time.Millisecond) // up, or the last millisecond is spent spinning
	}
	if _, err := unix.Poll(fds, ms); err != nil && !errors.Is(err, unix.EINTR) {
		return false, fmt.Errorf("poll: %w", err)
	}
	var counter [8]byte
	if _, err := unix.Read(w.wake, counter[:]); err != nil && !errors.Is(err, unix.EAGAIN) {
		return false, fmt.Errorf("read eventfd: %w", err)
	}
	changed, err := w.drain()
	if err != nil {
		return false, err
	}
	return changed || fds[2].Revents != 0, nil
}

// drain reads every event there is, and takes note of what Set has seen. It reports whether one of them matters.
func (w *Watcher) drain() (bool, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	changed := w.changed
	w.changed = false
	buf := make([]byte, 64<<10)
	for {
		n, err := unix.Read(w.inotify, buf)
		switch {
		case errors.Is(err, unix.EAGAIN):
			return changed, nil
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return changed, fmt.Errorf("read inotify: %w", err)
		}
		for b := buf[:n]; len(b) >= unix.SizeofInotifyEvent; {
			var matters bool
			matters, b = w.eventLocked(b)
			changed = changed || matters
		}
	}
}

// eventLocked takes the first event off b and reports whether it matters.
func (w *Watcher) eventLocked(b []byte) (bool, []byte) {
	wd := int(int32(binary.NativeEndian.Uint32(b)))
	mask := binary.NativeEndian.Uint32(b[4:])
	end := unix.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(b[12:]))
	name, _, _ := bytes.Cut(b[unix.SizeofInotifyEvent:end], []byte{0})
	rest := b[end:]
	if mask&unix.IN_Q_OVERFLOW != 0 {
		return true, rest
	}
	dir, ok := w.dirs[wd]
	if !ok {
		return false, rest
	}
	if mask&unix.IN_IGNORED != 0 {
		delete(w.dirs, wd) // the kernel has removed the watch: the directory is gone
		return true, rest
	}
	return len(name) == 0 || dir[""] || dir[string(name)], rest
}
