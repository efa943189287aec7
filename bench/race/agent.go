package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"

	"golang.org/x/sys/unix"
)

// self is this program, for another process of it.
const self = "/proc/self/exe"

// readyWord is what an agent says when it is in force.
const readyWord = "ready"

// An agent is a process of a design, in the machine's first network namespace: the kernel tells of processes only there.
// It ends when its standard input does, so it does not outlive this process.
type agent struct {
	cmd    *exec.Cmd
	leash  io.Closer
	errors strings.Builder // belongs to cmd until it has ended
	ended  bool
}

// startAgent starts this program in a role, and waits until it is ready.
func startAgent(ctx context.Context, role string, args ...string) (*agent, error) {
	a := &agent{cmd: exec.Command(self, append([]string{role}, args...)...)}
	a.cmd.Stderr = &a.errors
	leash, err := a.cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	a.leash = leash
	out, err := a.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := a.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start agent: %w", err)
	}
	defer context.AfterFunc(ctx, func() { leash.Close() })()
	line, _ := bufio.NewReader(out).ReadString('\n')
	if strings.TrimSpace(line) != readyWord {
		return nil, fmt.Errorf("start agent: %w", errors.Join(errors.New("it is not ready"), a.stop()))
	}
	return a, nil
}

// serve is called by an agent that is in force. When it is to end, end is called.
func serve(end func()) {
	fmt.Println(readyWord)
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin) // until this process's driver lets go, in whatever way
		end()
	}()
}

// stop ends the agent in good order, if it is not dead.
func (a *agent) stop() error {
	if a.ended {
		return nil
	}
	a.ended = true
	a.leash.Close()
	if err := a.cmd.Wait(); err != nil {
		return fmt.Errorf("stop agent: %w: %s", err, strings.TrimSpace(a.errors.String()))
	}
	return nil
}

// signal sends a signal, and waits for the end if it is SIGKILL.
func (a *agent) signal(s unix.Signal) error {
	if err := a.cmd.Process.Signal(s); err != nil {
		return fmt.Errorf("signal agent: %w", err)
	}
	if s == unix.SIGKILL {
		a.ended = true
		a.leash.Close()
		_ = a.cmd.Wait() // killed, as it should be
	}
	return nil
}
