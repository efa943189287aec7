//go:build linux

package actor

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"
)

const (
	stageSocket = "stage.sock"     // STAGE_SOCKET in src/actor.h
	helloLimit  = 10 * time.Second // for a connection to say who it is
	closeLimit  = 10 * time.Second // for killed processes to be gone
)

// A Stage is where actors announce themselves. It owns every actor that did.
type Stage struct {
	dir      string
	listener *net.UnixListener
	dirFile  *os.File
	tasks    sync.WaitGroup // the accept loop, greetings, and cmd.Wait of what Start started

	mu       sync.Mutex
	closed   bool
	expected map[uint64]chan *process // by token
	living   map[*process]struct{}
	started  map[*exec.Cmd]struct{}
}

// Listen makes a stage with its socket in dir, which must exist and which actors must be able to search. A stage
// lives in the file system, not in the abstract namespace, so that actors in other network namespaces reach it.
func Listen(dir string) (*Stage, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("listen for actors: %w", err)
	}
	dirFile, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("listen for actors: %w", err)
	}
	// By way of the descriptor, because a socket's path has at most 107 bytes.
	path := fmt.Sprintf("/proc/self/fd/%d/%s", dirFile.Fd(), stageSocket)
	listener, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: path, Net: "unixpacket"})
	if err == nil {
		err = os.Chmod(path, 0o666)
	}
	if err != nil {
		if listener != nil {
			_ = listener.Close()
		}
		_ = dirFile.Close()
		return nil, fmt.Errorf("listen for actors in %s: %w", dir, err)
	}
	s := &Stage{
		dir:      dir,
		listener: listener,
		dirFile:  dirFile,
		expected: make(map[uint64]chan *process),
		living:   make(map[*process]struct{}),
		started:  make(map[*exec.Cmd]struct{}),
	}
	s.tasks.Go(s.accept)
	return s, nil
}

func (s *Stage) accept() {
	for {
		conn, err := s.listener.AcceptUnix()
		if err != nil {
			return // closed
		}
		s.tasks.Go(func() { s.greet(conn) })
	}
}

// greet reads the hello of a new channel and hands it to whoever expects its token. Anybody else is sent away.
func (s *Stage) greet(conn *net.UnixConn) {
	p, token, err := newProcess(s, conn)
	if err != nil {
		_ = conn.Close()
		return
	}
	s.mu.Lock()
	waiter, ok := s.expected[token]
	ok = ok && !s.closed
	if ok {
		delete(s.expected, token)
		s.living[p] = struct{}{}
		waiter <- p
	}
	s.mu.Unlock()
	if !ok {
		p.release()
	}
}

// expect announces a birth: the process that says hello with token comes out of the channel.
func (s *Stage) expect() (token uint64, born chan *process, err error) {
	token, born = rand.Uint64(), make(chan *process, 1)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return 0, nil, errors.New("the stage is closed")
	}
	s.expected[token] = born
	return token, born, nil
}

// forget ends what expect began. A process that was born unseen finds nobody, and ends.
func (s *Stage) forget(token uint64, born chan *process) {
	s.mu.Lock()
	delete(s.expected, token)
	s.mu.Unlock()
	select {
	case p := <-born:
		p.release()
		s.remove(p)
	default:
	}
}

func (s *Stage) remove(p *process) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.living, p)
}

// waitsFor reports whether cmd.Wait will take the status of pid.
func (s *Stage) waitsFor(pid int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for cmd := range s.started {
		if cmd.Process.Pid == pid {
			return true
		}
	}
	return false
}

// Options say how [Stage.Start] starts an actor. The zero value is good.
type Options struct {
	// Args are the arguments, Args[0] included. Empty means the path alone.
	Args []string
	// Dir is the working directory.
	Dir string
	// Launcher, if any, is a command that will execute the path, which is appended to it: {"sidestep", "run", "--"}.
	Launcher []string
	// Start starts the command instead of (*exec.Cmd).Start, for example in another network namespace.
	Start func(*exec.Cmd) error
}

func (o Options) command(path string) *exec.Cmd {
	if len(o.Launcher) > 0 {
		args := append(append([]string(nil), o.Launcher...), path)
		return exec.Command(args[0], args[1:]...)
	}
	cmd := exec.Command(path)
	if len(o.Args) > 0 {
		cmd.Args = o.Args
	}
	return cmd
}

// Start starts the actor installed at path and waits until it is ready. ctx bounds the start only: the actor
// lives until it exits or the stage closes.
func (s *Stage) Start(ctx context.Context, path string, opts Options) (*Actor, error) {
	token, born, err := s.expect()
	if err != nil {
		return nil, fmt.Errorf("start actor %s: %w", path, err)
	}
	defer s.forget(token, born)
	cmd := opts.command(path)
	cmd.Dir = opts.Dir
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s%c%016x%s", wishEnv, startStage, token, s.dir))
	start := opts.Start
	if start == nil {
		start = (*exec.Cmd).Start
	}
	if err := start(cmd); err != nil {
		return nil, fmt.Errorf("start actor %s: %w", path, err)
	}
	failed := s.watch(cmd)
	select {
	case p := <-born:
		return &Actor{p: p}, nil
	case err := <-failed:
		return nil, fmt.Errorf("start actor %s: %w", path, err)
	case <-ctx.Done():
		_ = cmd.Process.Kill()
		return nil, fmt.Errorf("start actor %s: %w", path, context.Cause(ctx))
	}
}

// watch reaps cmd, and reports how it failed. A launcher may well end before its actor has said hello.
func (s *Stage) watch(cmd *exec.Cmd) <-chan error {
	failed := make(chan error, 1)
	s.mu.Lock()
	s.started[cmd] = struct{}{}
	s.mu.Unlock()
	s.tasks.Go(func() {
		if err := cmd.Wait(); err != nil {
			failed <- err
		}
		s.mu.Lock()
		delete(s.started, cmd)
		s.mu.Unlock()
	})
	return failed
}

// Close ends every actor and returns when all are gone.
func (s *Stage) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	var last []*process
	for p := range s.living {
		last = append(last, p)
	}
	for cmd := range s.started {
		_ = cmd.Process.Kill()
	}
	s.mu.Unlock()

	errs := []error{s.listener.Close(), s.dirFile.Close()}
	ctx, cancel := context.WithTimeout(context.Background(), closeLimit)
	defer cancel()
	for _, p := range last {
		errs = append(errs, p.kill())
	}
	for _, p := range last {
		errs = append(errs, p.wait(ctx))
		p.release()
	}
	s.tasks.Wait()
	return errors.Join(errs...)
}
