package datapath

import (
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// ownNetns opens the calling thread's network namespace.
func ownNetns() (*os.File, error) {
	f, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return nil, fmt.Errorf("open the network namespace: %w", err)
	}
	return f, nil
}

// netnsCookie names the calling thread's network namespace. SO_NETNS_COOKIE: socket(7), since 5.14.
func netnsCookie() (uint64, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("ask for the network namespace: %w", err)
	}
	defer unix.Close(fd)
	cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	if err != nil {
		return 0, fmt.Errorf("ask for the network namespace's cookie (needs kernel 5.14): %w", err)
	}
	return cookie, nil
}

// inside runs fn on a thread in the network namespace that is governed: the walks over sockets and the doors of tunnels
// are those of the thread that opens them.
func (d *Datapath) inside(fn func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the runtime ends the thread with the goroutine
		if unix.Gettid() == os.Getpid() {
			done <- d.inside(fn) // the first thread can't end; while we sit on it, the next goroutine gets another
			runtime.UnlockOSThread()
			return
		}
		if err := d.enter(); err != nil {
			done <- err
			return
		}
		done <- fn()
	}()
	return <-done
}

// enter moves the calling thread into the network namespace, unless it is there: to move takes CAP_SYS_ADMIN.
func (d *Datapath) enter() error {
	if here, err := netnsCookie(); err == nil && here == d.settings.NetnsCookie {
		return nil
	}
	if err := unix.Setns(int(d.netns.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter the network namespace: %w", err)
	}
	return nil
}
