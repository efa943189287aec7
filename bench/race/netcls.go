package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"sidestep/internal/lab"
)

// removeLimit bounds the wait for processes that are ending.
const removeLimit = 10 * time.Second

// classID is what the packets of the excluded cgroup's sockets carry.
const classID = 0x00de5157

// A classed is a cgroup of the net_cls controller (cgroup v1) whose sockets have a class of their own.
type classed struct {
	mount, dir string
}

// newClassed mounts the controller where nobody else sees it, and makes the cgroup.
func newClassed(at place) (*classed, error) {
	c := &classed{mount: filepath.Join(at.dir, "net_cls")}
	c.dir = filepath.Join(c.mount, fmt.Sprintf("sidestep-race-%d", os.Getpid()))
	if err := os.MkdirAll(c.mount, 0o755); err != nil {
		return nil, err
	}
	if err := unix.Mount("net_cls", c.mount, "cgroup", 0, "net_cls"); err != nil {
		return nil, fmt.Errorf("mount the net_cls controller: %w", err)
	}
	err := os.Mkdir(c.dir, 0o755)
	if err == nil {
		err = os.WriteFile(filepath.Join(c.dir, "net_cls.classid"), []byte(strconv.Itoa(classID)), 0)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make a net_cls cgroup: %w", err), c.remove())
	}
	return c, nil
}

// join moves a process into the cgroup.
func (c *classed) join(pid int) error { return joinCgroup(c.dir, pid) }

// remove moves what is in the cgroup out of it, and removes it.
func (c *classed) remove() error {
	return errors.Join(removeCgroup(c.dir, c.mount), unix.Unmount(c.mount, unix.MNT_DETACH))
}

// joinCgroup moves a process into a cgroup.
func joinCgroup(dir string, pid int) error {
	return os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0)
}

// removeCgroup removes a cgroup. What is still in it goes to the one at refuge.
func removeCgroup(dir, refuge string) error {
	ctx, cancel := context.WithTimeout(context.Background(), removeLimit)
	defer cancel()
	err := lab.Poll(ctx, func() (bool, error) {
		err := os.Remove(dir)
		if errors.Is(err, unix.EBUSY) {
			return false, evict(dir, refuge)
		}
		if errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
		return true, err
	})
	if err != nil {
		return fmt.Errorf("remove cgroup: %w", err)
	}
	return nil
}

// evict moves what is in one cgroup to another.
func evict(dir, refuge string) error {
	procs, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if err != nil {
		return err
	}
	for _, field := range strings.Fields(string(procs)) {
		pid, err := strconv.Atoi(field)
		if err == nil {
			err = joinCgroup(refuge, pid)
		}
		if err != nil && !errors.Is(err, unix.ESRCH) {
			return err
		}
	}
	return nil
}
