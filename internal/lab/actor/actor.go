//go:build linux

package actor

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// An Actor is a process that does what it is told. Its methods may be called by several goroutines: commands
// take turns.
type Actor struct {
	p     *process
	flags uint32
}

// OnThread returns the same process, each of whose commands is the first thing that a new thread does. The thread
// ends with the command, unless it was an exec, which makes it the leader, or a fork, where it is the
// parent's thread.
func (a *Actor) OnThread() *Actor {
	return &Actor{p: a.p, flags: flagOnThread}
}

// PID returns the process id in the driver's pid namespace. It survives an exec.
func (a *Actor) PID() int { return a.p.pid }

// Alive reports whether the process has not ended.
func (a *Actor) Alive() bool {
	if a.p.gone.Load() {
		return false
	}
	return a.p.control(func(fd int) error { return unix.PidfdSendSignal(fd, 0, nil, 0) }) == nil
}

func (a *Actor) call(ctx context.Context, rq *request) (reply, error) {
	rq.flags |= a.flags
	return a.p.call(ctx, rq)
}

// Info is what a process knows of itself, in its own pid namespace.
type Info struct {
	PID, TID, PPID int
}

// Info asks the process who it is now.
func (a *Actor) Info(ctx context.Context) (Info, error) {
	r, err := a.call(ctx, &request{op: opInfo})
	return Info{PID: int(r.pid), TID: int(r.tid), PPID: int(r.ppid)}, err
}

// Send sends n datagrams to addr, each from a new socket. [ParseDatagram] reads them.
func (a *Actor) Send(ctx context.Context, addr netip.AddrPort, n int) error {
	_, err := a.call(ctx, &request{op: opSend, arg: [7]uint64{uint64(n)}, data: Sockaddr(addr)})
	return err
}

// Connect makes a TCP connection to addr and closes it. The local address is valid also if the connection failed,
// once the kernel had chosen one. Connect gives up with ETIMEDOUT when ctx is about to end, or after 30 seconds.
func (a *Actor) Connect(ctx context.Context, addr netip.AddrPort) (local netip.AddrPort, err error) {
	r, err := a.call(ctx, &request{op: opConnect, arg: [7]uint64{patience(ctx)}, data: Sockaddr(addr)})
	if len(r.data) > 0 {
		parsed, parseErr := parseSockaddr(r.data)
		if err == nil {
			err = parseErr
		}
		local = parsed
	}
	return local, err
}

// patience is how many milliseconds a waiting actor may take: a little less than ctx gives, so that it can answer.
func patience(ctx context.Context) uint64 {
	const longest = 30 * time.Second
	limit := longest
	if end, ok := ctx.Deadline(); ok {
		limit = min(longest, max(0, time.Until(end)*9/10))
	}
	return uint64(limit.Milliseconds())
}

// Exit ends the process with code, and returns when it has ended. From a thread too, all threads end.
func (a *Actor) Exit(ctx context.Context, code int) error {
	rq := &request{op: opExit, flags: a.flags, arg: [7]uint64{uint64(code)}}
	if err := a.p.enter(ctx); err != nil {
		return a.p.describe(rq, err)
	}
	defer a.p.leave()
	a.p.seq++
	if _, err := a.p.conn.Write(rq.marshal(a.p.seq)); err != nil {
		return a.p.describe(rq, err)
	}
	return a.end(ctx)
}

// Kill ends the process with SIGKILL, and returns when it has ended.
func (a *Actor) Kill(ctx context.Context) error {
	if err := a.p.kill(); err != nil {
		return fmt.Errorf("actor %d: kill: %w", a.p.pid, err)
	}
	return a.end(ctx)
}

func (a *Actor) end(ctx context.Context) error {
	err := a.p.wait(ctx)
	if err == nil {
		a.p.release()
	}
	return err
}

// Wait returns when the process has ended, all its threads included: the kernel has run its exit hooks. Its entry
// in /proc may live a moment longer.
func (a *Actor) Wait(ctx context.Context) error {
	return a.p.wait(ctx)
}

// EndLeader ends the thread that leads the process, as pthread_exit in main does: a zombie stays under the pid, and
// another thread lives on and obeys.
func (a *Actor) EndLeader(ctx context.Context) error {
	if _, err := a.p.call(ctx, &request{op: opAbdicate}); err != nil {
		return err
	}
	path := fmt.Sprintf("/proc/%d/task/%d/stat", a.p.pid, a.p.pid)
	for ctx.Err() == nil {
		stat, err := os.ReadFile(path)
		if err != nil {
			return fmt.Errorf("actor %d: end leader: %w", a.p.pid, err)
		}
		if bytes.Contains(stat, []byte(") Z ")) {
			return nil
		}
		runtime.Gosched() // it is on its way through do_exit
	}
	return fmt.Errorf("actor %d: end leader: %w", a.p.pid, context.Cause(ctx))
}
