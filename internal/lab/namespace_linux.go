package lab

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"

	"golang.org/x/sys/unix"
)

// errLeft is what [Namespace.Do] returns when fn ended its goroutine instead of returning, as t.FailNow does.
var errLeft = errors.New("function left without returning")

// A Namespace is a network namespace without a name: it exists while this process, or a process in it, holds it.
type Namespace struct {
	file  *os.File
	inode uint64

	mu     sync.Mutex
	closed bool
	forks  chan fork // to the thread that starts processes; nil until there is one
}

// NewNamespace makes an empty namespace, with lo up.
func NewNamespace() (*Namespace, error) {
	n := &Namespace{}
	err := onThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("unshare: %w", err)
		}
		var err error
		n.file, err = os.Open("/proc/thread-self/ns/net")
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("new network namespace: %w", err)
	}
	if err := n.setup(); err != nil {
		return nil, errors.Join(fmt.Errorf("new network namespace: %w", err), n.file.Close())
	}
	return n, nil
}

// setup notes which namespace it is, and sets lo up.
func (n *Namespace) setup() error {
	info, err := n.file.Stat()
	if err != nil {
		return err
	}
	own, err := os.Stat("/proc/self/ns/net")
	if err != nil {
		return err
	}
	if os.SameFile(info, own) { // Close would kill the whole machine
		return errors.New("still in the old one")
	}
	n.inode = inode(info)
	return n.Do(func() error { return linkUp("lo") })
}

// Inode returns the number that tells this namespace from every other, as in the link /proc/PID/ns/net.
func (n *Namespace) Inode() uint64 { return n.inode }

// Path returns a path of the namespace, for programs such as `nsenter --net=PATH`. It is valid while this process
// lives and the namespace is open.
func (n *Namespace) Path() string {
	return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), n.fd())
}

// Do calls fn on a thread of its own inside the namespace, and returns what fn returns.
//
// Only what fn does on its own goroutine happens in the namespace. Sockets stay in the namespace they were made in,
// so they may leave fn. net.Dial of a literal address stays on the goroutine, of a host name it does not.
// fn must not call t.FailNow, which would end the wrong goroutine.
func (n *Namespace) Do(fn func() error) error {
	return onThread(func() error {
		if err := n.enter(); err != nil {
			return err
		}
		return fn()
	})
}

// Close kills every process in the namespace and lets go of it. The kernel destroys a namespace, and the links in it,
// when the last socket made in it is closed too.
func (n *Namespace) Close() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return nil
	}
	n.closed = true
	if n.forks != nil {
		close(n.forks)
	}
	return errors.Join(killAll(n.inode), n.file.Close())
}

// enter moves the calling thread, which must be locked, into the namespace.
func (n *Namespace) enter() error {
	conn, err := n.file.SyscallConn()
	if err != nil {
		return fmt.Errorf("enter network namespace: %w", err)
	}
	var errno error
	err = conn.Control(func(fd uintptr) { errno = unix.Setns(int(fd), unix.CLONE_NEWNET) })
	if err := errors.Join(err, errno); err != nil {
		return fmt.Errorf("enter network namespace: %w", err)
	}
	return nil
}

// fd returns the descriptor that holds the namespace.
func (n *Namespace) fd() int { return int(n.file.Fd()) }

// onThread calls fn on a thread that nothing else runs on and that ends with fn, so fn may change the thread as it likes.
//
// The process's first thread is never used: /proc/self shows that thread's namespace as the whole process's.
func onThread(fn func() error) error {
	err := errLeft
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the runtime ends the thread with the goroutine
		if unix.Gettid() == os.Getpid() {
			err = onThread(fn) // this goroutine sits on the first thread, so the next one gets another
			runtime.UnlockOSThread()
			return
		}
		err = fn()
	}()
	<-done
	return err
}
