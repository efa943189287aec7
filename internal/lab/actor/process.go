//go:build linux

package actor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// ErrGone means that the process has ended, or that its stage is closed.
var ErrGone = errors.New("the process is gone")

// A process is one channel and the process at its other end.
type process struct {
	stage *Stage
	conn  *net.UnixConn
	pidfd *os.File
	pid   int // as the driver sees it, from the kernel
	gone  atomic.Bool

	turn chan struct{} // holds one token while a command is under way; guards the rest
	seq  uint32
	base uint64 // where the actor keeps the data of a request
	buf  []byte
}

// newProcess reads the hello of a new channel.
func newProcess(s *Stage, conn *net.UnixConn) (*process, uint64, error) {
	p := &process{
		stage: s,
		conn:  conn,
		turn:  make(chan struct{}, 1),
		buf:   make([]byte, replySize+dataMax+1),
	}
	if err := conn.SetDeadline(time.Now().Add(helloLimit)); err != nil {
		return nil, 0, err
	}
	hello, err := p.read()
	if err != nil {
		return nil, 0, err
	}
	if hello.seq != 0 || hello.token == 0 {
		return nil, 0, errors.New("first message is not a hello")
	}
	p.base = hello.base
	if p.pid, err = peerPID(conn); err != nil {
		return nil, 0, err
	}
	// The peer waits for a command, so the pid is still its own.
	fd, err := unix.PidfdOpen(p.pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		return nil, 0, fmt.Errorf("pidfd_open %d: %w", p.pid, err)
	}
	p.pidfd = os.NewFile(uintptr(fd), "pidfd")
	return p, hello.token, conn.SetDeadline(time.Time{})
}

// peerPID returns the process that connected, in the driver's numbers: the hello would give those of the actor's
// own pid namespace.
func peerPID(conn *net.UnixConn) (int, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	var inner error
	err = raw.Control(func(fd uintptr) {
		cred, inner = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err := errors.Join(err, inner); err != nil {
		return 0, err
	}
	return int(cred.Pid), nil
}

func (p *process) read() (reply, error) {
	n, err := p.conn.Read(p.buf)
	if err != nil {
		return reply{}, err
	}
	return parseReply(p.buf[:n])
}

// call runs one command. The reply's data is valid until the next one.
func (p *process) call(ctx context.Context, rq *request) (reply, error) {
	if err := p.enter(ctx); err != nil {
		return reply{}, p.describe(rq, err)
	}
	defer p.leave()
	r, err := p.roundTrip(ctx, rq)
	r.data = append([]byte(nil), r.data...)
	return r, err
}

func (p *process) enter(ctx context.Context) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	select {
	case p.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (p *process) leave() { <-p.turn }

// roundTrip sends a command and waits for its reply. Replies to earlier commands, given up by their callers, are passed over.
func (p *process) roundTrip(ctx context.Context, rq *request) (reply, error) {
	if len(rq.data) > dataMax {
		return reply{}, p.describe(rq, unix.E2BIG)
	}
	defer interruptible(ctx, p.conn.SetDeadline)()
	p.seq++
	if _, err := p.conn.Write(rq.marshal(p.seq)); err != nil {
		return reply{}, p.describe(rq, orCause(ctx, err))
	}
	for {
		r, err := p.read()
		if err != nil {
			return reply{}, p.describe(rq, orCause(ctx, err))
		}
		if r.seq == 0 || r.seq > p.seq {
			return reply{}, p.describe(rq, fmt.Errorf("reply %d to command %d", r.seq, p.seq))
		}
		p.base = r.base
		if r.seq != p.seq {
			continue
		}
		if r.ret < 0 && r.ret > -4096 {
			return r, p.describe(rq, unix.Errno(-r.ret))
		}
		return r, nil
	}
}

func (p *process) describe(rq *request, err error) error {
	for _, end := range []error{io.EOF, net.ErrClosed, unix.EPIPE, unix.ECONNRESET} {
		// A plain errno is the actor's answer; the same number from our own end comes in a net.OpError.
		if _, answer := err.(unix.Errno); !answer && errors.Is(err, end) {
			err = ErrGone
		}
	}
	return fmt.Errorf("actor %d: %s: %w", p.pid, rq.op, err)
}

// kill sends SIGKILL. That the process is gone already is no error.
func (p *process) kill() error {
	err := p.control(func(fd int) error { return unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0) })
	if errors.Is(err, unix.ESRCH) || p.gone.Load() {
		return nil
	}
	return err
}

func (p *process) control(fn func(fd int) error) error {
	raw, err := p.pidfd.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	err = raw.Control(func(fd uintptr) { inner = fn(int(fd)) })
	return errors.Join(err, inner)
}

// wait returns when all threads of the process have ended.
func (p *process) wait(ctx context.Context) error {
	if p.gone.Load() {
		return nil
	}
	raw, err := p.pidfd.SyscallConn()
	if err != nil {
		return err
	}
	release := interruptible(ctx, p.pidfd.SetReadDeadline)
	err = raw.Read(func(fd uintptr) bool {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		return err == nil && n > 0
	})
	release()
	if p.gone.Load() {
		return nil
	}
	if err != nil {
		return fmt.Errorf("wait for actor %d: %w", p.pid, orCause(ctx, err))
	}
	p.gone.Store(true)
	p.reap()
	p.stage.remove(p)
	return nil
}

// reap takes the status of a process that became our child by CLONE_PARENT. It is somebody else's otherwise:
// cmd.Wait has what Start started.
func (p *process) reap() {
	if p.stage.waitsFor(p.pid) {
		return
	}
	_ = p.control(func(fd int) error {
		return unix.Waitid(unix.P_PIDFD, fd, nil, unix.WEXITED|unix.WNOHANG, nil)
	})
}

func (p *process) release() {
	_ = p.conn.Close()
	_ = p.pidfd.Close()
}

var longAgo = time.Unix(1, 0)

// interruptible makes the end of ctx interrupt what set sets a deadline for, until the returned function is called.
func interruptible(ctx context.Context, set func(time.Time) error) (release func()) {
	fired := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		_ = set(longAgo)
		close(fired)
	})
	return func() {
		if !stop() {
			<-fired
			_ = set(time.Time{})
		}
	}
}

// orCause returns why ctx ended if err is only the interruption that followed.
func orCause(ctx context.Context, err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}
