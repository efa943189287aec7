package fault

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A Kind is what happens at a call.
type Kind int

const (
	Once    Kind = iota // that call fails, and no other
	Onwards             // that call and all later ones fail
	Kill                // the process is killed instead
)

func (k Kind) String() string {
	return [...]string{"one call fails", "all calls from one on fail", "killed"}[k]
}

// watched are the calls that count, by name.
var watched = map[int32]string{
	unix.SYS_BPF: "bpf", unix.SYS_SOCKET: "socket", unix.SYS_SENDTO: "sendto", unix.SYS_SENDMSG: "sendmsg",
	unix.SYS_OPENAT: "openat", unix.SYS_READLINKAT: "readlinkat", unix.SYS_WRITE: "write", unix.SYS_FSYNC: "fsync",
	unix.SYS_MKDIRAT: "mkdirat", unix.SYS_UNLINKAT: "unlinkat", unix.SYS_RENAMEAT: "renameat", unix.SYS_RENAMEAT2: "renameat2",
	unix.SYS_FLOCK: "flock", unix.SYS_MOUNT: "mount", unix.SYS_SETNS: "setns", unix.SYS_PIDFD_OPEN: "pidfd_open",
	unix.SYS_PIDFD_GETFD: "pidfd_getfd", unix.SYS_INOTIFY_ADD_WATCH: "inotify_add_watch", unix.SYS_INOTIFY_INIT1: "inotify_init1",
}

// Calls are those of one process. Its methods may be called from any goroutine.
type Calls struct {
	listener int
	starter  int           // the thread that started the process
	ended    chan struct{} // the thread may end

	mu    sync.Mutex
	count int // since Arm
	at    int // 0: nothing is armed
	kind  Kind
	fired string
}

// Start starts cmd on a thread of its own, which enter has prepared, and armed from its first call on if n is not 0. The
// caller waits for cmd and then calls Close.
func Start(cmd *exec.Cmd, enter func(fn func() error) error, n int, kind Kind) (*Calls, error) {
	c := &Calls{listener: -1, ended: make(chan struct{}), at: n, kind: kind}
	started := make(chan error, 1)
	go enter(func() error {
		err := c.start(cmd)
		started <- err
		<-c.ended // whoever is to die with its parent dies with this thread
		return nil
	})
	return c, <-started
}

func (c *Calls) start(cmd *exec.Cmd) error {
	c.starter = unix.Gettid()
	if err := c.filter(); err != nil {
		return fmt.Errorf("watch system calls: %w", err)
	}
	go c.answer()
	return cmd.Start()
}

// Close is for when the process has ended.
func (c *Calls) Close() error {
	close(c.ended)
	return nil
}

// Arm has the n-th call from now on fail. It counts from 1.
func (c *Calls) Arm(n int, kind Kind) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.count, c.at, c.kind, c.fired = 0, n, kind, ""
}

// Disarm lets all calls pass again. It returns how many there were since Arm, and what became of the one that was meant: its
// name, or nothing if there were not so many.
func (c *Calls) Disarm() (count int, fired string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = 0
	return c.count, c.fired
}

// filter has the calling thread, and whatever it starts, ask before each watched call. SECCOMP_RET_USER_NOTIF: seccomp(2).
func (c *Calls) filter() error {
	program := []unix.SockFilter{{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 0}} // the call's number
	left := uint8(len(watched))
	for nr := range watched {
		program = append(program, unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: uint32(nr), Jt: left})
		left--
	}
	program = append(program,
		unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
		unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_USER_NOTIF})
	whole := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	fd, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER,
		unix.SECCOMP_FILTER_FLAG_NEW_LISTENER|unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV, uintptr(unsafe.Pointer(&whole)))
	runtime.KeepAlive(program)
	if errno != 0 {
		return errno
	}
	c.listener = int(fd)
	return nil
}

// A question is struct seccomp_notif, a reply struct seccomp_notif_resp: include/uapi/linux/seccomp.h.
type question struct {
	id         uint64
	tid, flags uint32
	nr         int32
	arch       uint32
	ip         uint64
	args       [6]uint64
}

type reply struct {
	id    uint64
	value int64
	error int32
	flags uint32
}

// answer answers until nobody is left who could ask.
func (c *Calls) answer() {
	defer unix.Close(c.listener)
	for {
		poll := []unix.PollFd{{Fd: int32(c.listener), Events: unix.POLLIN}}
		if _, err := unix.Poll(poll, -1); err != nil && !errors.Is(err, unix.EINTR) {
			return
		}
		switch {
		case poll[0].Revents&unix.POLLIN != 0:
			var q question
			if c.ioctl(unix.SECCOMP_IOCTL_NOTIF_RECV, unsafe.Pointer(&q)) == 0 {
				r := c.decide(q)
				c.ioctl(unix.SECCOMP_IOCTL_NOTIF_SEND, unsafe.Pointer(&r)) // in vain if it was killed
			}
		case poll[0].Revents&(unix.POLLHUP|unix.POLLERR|unix.POLLNVAL) != 0:
			return
		}
	}
}

func (c *Calls) ioctl(request uintptr, arg unsafe.Pointer) unix.Errno {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(c.listener), request, uintptr(arg))
	return errno
}

func (c *Calls) decide(q question) reply {
	r := reply{id: q.id, flags: seccompContinue}
	c.mu.Lock()
	defer c.mu.Unlock()
	if int(q.tid) == c.starter || q.nr == unix.SYS_WRITE && !toFile(q) {
		return r
	}
	c.count++
	if c.at == 0 || c.count < c.at || c.count > c.at && c.kind == Once {
		return r
	}
	if c.fired == "" {
		c.fired = describe(q)
	}
	if c.kind == Kill {
		_ = unix.Kill(int(q.tid), unix.SIGKILL)
	}
	return reply{id: q.id, error: -int32(unix.ENOMEM)}
}

// seccompContinue is SECCOMP_USER_NOTIF_FLAG_CONTINUE.
const seccompContinue = 1

// toFile tells what is written to files from what goes to the process's own channels, or to whoever reads its log.
func toFile(q question) bool {
	file, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", q.tid, q.args[0]))
	return err == nil && strings.HasPrefix(file, "/") && q.args[0] > 2
}

func describe(q question) string {
	if q.nr == unix.SYS_BPF {
		return fmt.Sprintf("bpf command %d", q.args[0])
	}
	return watched[q.nr]
}
