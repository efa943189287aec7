package lab

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// killDeadline bounds how long [Namespace.Close] waits for the processes that it killed.
const killDeadline = 10 * time.Second

// A fork asks a namespace's forking thread to start cmd.
type fork struct {
	cmd  *exec.Cmd
	done chan<- error
}

// Start starts cmd inside the namespace, as cmd.Start does outside. Only the network namespace differs: mounts,
// process ids and cgroups are the caller's.
//
// The process is killed when the namespace is closed and when this process dies, however it dies. Its own children are
// killed by Close; for them to die with a killed parent too, set CLONE_NEWPID in cmd.SysProcAttr.Cloneflags.
func (n *Namespace) Start(cmd *exec.Cmd) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return fmt.Errorf("start %s: namespace: %w", cmd.Path, os.ErrClosed)
	}
	if n.forks == nil {
		if err := n.startForking(); err != nil {
			return err
		}
	}
	var attr syscall.SysProcAttr
	if cmd.SysProcAttr != nil {
		attr = *cmd.SysProcAttr
	}
	if attr.Pdeathsig == 0 {
		attr.Pdeathsig = syscall.SIGKILL
	}
	cmd.SysProcAttr = &attr
	done := make(chan error, 1)
	n.forks <- fork{cmd, done}
	return <-done
}

// Run starts cmd inside the namespace and waits for it to end.
func (n *Namespace) Run(cmd *exec.Cmd) error {
	if err := n.Start(cmd); err != nil {
		return err
	}
	return cmd.Wait()
}

// startForking starts the thread that all processes of the namespace are started from. There is one, and it lives as
// long as the namespace is open, because the kernel sends the parent death signal when the forking thread dies.
func (n *Namespace) startForking() error {
	forks := make(chan fork)
	ready := make(chan error, 1)
	go onThread(func() error {
		err := n.enter()
		ready <- err
		if err != nil {
			return err
		}
		for f := range forks {
			f.done <- f.cmd.Start()
		}
		return nil
	})
	if err := <-ready; err != nil {
		return err
	}
	n.forks = forks
	return nil
}

// killAll kills every other process that is in the network namespace, and those that they start meanwhile, until
// there is none.
func killAll(inode uint64) error {
	deadline := time.Now().Add(killDeadline)
	for {
		pids, err := processesIn(inode)
		if err != nil {
			return fmt.Errorf("kill processes in namespace: %w", err)
		}
		if len(pids) == 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("kill processes in namespace: %d did not end", pids)
		}
		for _, pid := range pids {
			if err := kill(pid, inode, time.Until(deadline)); err != nil {
				return fmt.Errorf("kill process %d in namespace: %w", pid, err)
			}
		}
	}
}

// kill kills one process if it is still in the namespace, and waits until it is dead.
func kill(pid int, inode uint64, patience time.Duration) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if !inNamespace(pid, inode) { // the number may have been reused before it was opened
		return nil
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return err
	}
	for until := time.Now().Add(patience); ; {
		left := max(0, time.Until(until))
		_, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(left.Milliseconds()))
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// processesIn returns the processes, other than this one, whose network namespace has that inode.
func processesIn(inode uint64) ([]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err == nil && pid != os.Getpid() && inNamespace(pid, inode) {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// inNamespace reports whether the process is in the network namespace. A dead one is in none.
func inNamespace(pid int, ns uint64) bool {
	info, err := os.Stat(filepath.Join("/proc", strconv.Itoa(pid), "ns/net"))
	return err == nil && inode(info) == ns
}

// inode returns a file's inode number.
func inode(info fs.FileInfo) uint64 { return info.Sys().(*syscall.Stat_t).Ino }
