package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"sidestep/internal/lab/actor"
)

// launcher is a command that joins a cgroup, whose packets the firewall marks, and becomes the program. It has no list: the
// user starts each program by it, and may name running processes.
type launcher struct {
	class    *classed
	firewall *firewall
	command  string
}

func (*launcher) facts() facts { return facts{Name: "launcher, cgroup", Mode: exclude} }

func (l *launcher) start(_ context.Context, at place) (err error) {
	// The path of this file, for other processes. A link to itself in /proc means another one to each.
	if l.command, err = os.Executable(); err != nil {
		return err
	}
	if l.class, err = newClassed(at); err != nil {
		return err
	}
	if l.firewall, err = newFirewall(at.world); err != nil {
		return errors.Join(err, l.class.remove())
	}
	return nil
}

func (l *launcher) list(_ context.Context, _ string, running []*actor.Actor) error {
	for _, a := range running {
		if err := l.class.join(a.PID()); err != nil {
			return err
		}
	}
	return nil
}

func (l *launcher) image(path string, args ...string) actor.Image {
	return actor.Image{Path: l.command, Args: append([]string{l.command, "launch", l.class.dir, path}, args...)}
}

func (*launcher) signal(unix.Signal) error { return nil }

func (l *launcher) stop() error { return errors.Join(l.firewall.remove(), l.class.remove()) }

// runLaunch is the command: launch CGROUP PATH [ARG]...
func runLaunch(args []string) error {
	cgroup, path := args[0], args[1]
	// "0" is whoever writes it.
	if err := os.WriteFile(filepath.Join(cgroup, "cgroup.procs"), []byte("0"), 0); err != nil {
		return err
	}
	if err := unix.Exec(path, append([]string{path}, args[2:]...), os.Environ()); err != nil {
		return fmt.Errorf("launch %s: %w", path, err)
	}
	return nil
}
