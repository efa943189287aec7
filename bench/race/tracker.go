package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"

	"golang.org/x/sys/unix"

	"sidestep/internal/lab/actor"
)

// tracker reacts to exec: an agent hears of it from the process events connector, looks at /proc/PID/exe, and moves the
// process into a cgroup whose packets the firewall marks.
type tracker struct {
	at       place
	class    *classed
	firewall *firewall
	agent    *agent
}

func (*tracker) facts() facts {
	return facts{Name: "exec tracker, cgroup", Mode: exclude, Agent: true}
}

func (t *tracker) start(ctx context.Context, at place) (err error) {
	t.at = at
	if t.class, err = newClassed(at); err != nil {
		return err
	}
	if t.firewall, err = newFirewall(at.world); err != nil {
		return errors.Join(err, t.class.remove())
	}
	t.agent, err = startAgent(ctx, "tracker", t.class.dir)
	if err != nil {
		return errors.Join(err, t.firewall.remove(), t.class.remove())
	}
	return nil
}

// list starts the agent anew, which looks at what runs.
func (t *tracker) list(ctx context.Context, path string, _ []*actor.Actor) (err error) {
	if err := t.agent.stop(); err != nil {
		return err
	}
	t.agent, err = startAgent(ctx, "tracker", t.class.dir, path)
	return err
}

func (*tracker) image(path string, args ...string) actor.Image { return plainImage(path, args) }

func (t *tracker) signal(s unix.Signal) error { return t.agent.signal(s) }

func (t *tracker) stop() error {
	return errors.Join(t.agent.stop(), t.firewall.remove(), t.class.remove())
}

// runTracker is the agent's process: tracker CGROUP [PATH]...
func runTracker(args []string) error {
	cgroup, list := args[0], args[1:]
	events, err := newProcConnector() // first the events, then what runs: nothing is between the two
	if err != nil {
		return err
	}
	processes, err := readProcesses()
	if err != nil {
		return err
	}
	for pid, p := range processes {
		if slices.Contains(list, p.exe) {
			move(cgroup, pid)
		}
	}
	serve(func() { os.Exit(0) })
	runtime.LockOSThread() // one thread, as a program in C would have
	for {
		pid, err := events.next()
		switch {
		case errors.Is(err, unix.ENOBUFS): // events are lost; the next one is as good as any
		case err != nil:
			return fmt.Errorf("read process events: %w", err)
		case slices.Contains(list, exeOf(pid)):
			move(cgroup, pid)
		}
	}
}

// move moves a process, unless it has ended.
func move(cgroup string, pid int) {
	if err := joinCgroup(cgroup, pid); err != nil && !errors.Is(err, unix.ESRCH) {
		fmt.Fprintln(os.Stderr, err)
	}
}
