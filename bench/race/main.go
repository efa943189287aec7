// Command race measures how often the first packets of a program are on the wrong side, for sidestep and for the designs
// that others use, side by side in one run. docs/benchmarks.md says what it has found.
//
//	race [-n STARTS] [-short] [-out DIR]
//	race -show DIR
//
// It needs root, the machine's first network namespace (only there does the kernel tell of processes) and the net_cls
// controller. All traffic is in namespaces of its own. It exits with 1 if sidestep has a packet on the wrong side.
//
//	design.go     what a design is, and the list of them
//	none.go       the control
//	tracker.go    reacts to exec (procconn.go) and moves processes into a cgroup (netcls.go, firewall.go)
//	pidmap.go     keeps a table of threads, and marks at socket() (bpf/pidmap.c)
//	launcher.go   joins a cgroup, then executes
//	sidestep.go   sidestep
//	rig.go        the world, the programs, the storms; wires.go counts
//	race.go       the race; fate.go what happens besides
//	result.go     what was found, and its files; table.go and plot.go show it
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// insideEnv tells the program that it has mounts of its own already.
const insideEnv = "SIDESTEP_RACE_INSIDE"

// errWrong: sidestep does not keep its promise.
var errWrong = errors.New("sidestep has packets on the wrong side")

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // the second signal kills
	roles := map[string]func([]string) error{"tracker": runTracker, "pidmap": runPidmap, "launch": runLaunch}
	var err error
	switch role := append(os.Args, "")[1]; {
	case role == "sidestep":
		os.Exit(runSidestep(ctx, os.Args[2:]))
	case roles[role] != nil:
		err = roles[role](os.Args[2:])
	default:
		err = run(ctx)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "race:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	n := flag.Int("n", 1000, "how often the program is started under each design, idle and in storms")
	short := flag.Bool("short", false, "a look: under 90 seconds, and nothing is kept")
	out := flag.String("out", "", "keep results.json and results.svg in this directory")
	show := flag.String("show", "", "measure nothing: show the results in this directory")
	flag.Parse()
	if *show != "" {
		return showAgain(*show)
	}
	if os.Getenv(insideEnv) == "" {
		return inside()
	}
	many := 50
	if *short {
		*n, many, *out = 10, 10, ""
	}
	res, err := newResults(*n)
	if err != nil {
		return err
	}
	r, err := newRig(ctx)
	if err != nil {
		return err
	}
	if err := errors.Join(r.measure(ctx, res, many), r.close()); err != nil {
		return err
	}
	fmt.Print(res.tables())
	if *out != "" {
		if err := res.keep(*out); err != nil {
			return err
		}
	}
	return res.verdict()
}

// showAgain prints the tables of results that are kept, and draws their plot anew.
func showAgain(dir string) error {
	res, err := readResults(dir)
	if err != nil {
		return err
	}
	fmt.Print(res.tables())
	return res.keep(dir)
}

// inside is this program once more, with mounts of its own.
func inside() error {
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("make a mount namespace: %w", err)
	}
	return unix.Exec(self, os.Args, append(os.Environ(), insideEnv+"=1"))
}

// measure does everything that there is to do.
func (r *rig) measure(ctx context.Context, res *results, many int) error {
	say := func(what string) { fmt.Fprintln(os.Stderr, what) }
	for _, storm := range []bool{false, true} {
		err := r.race(ctx, res.Designs, res.Starts, storm, func(name string) { say(condition(storm) + ": " + name) })
		if err != nil {
			return err
		}
	}
	for _, d := range res.Designs {
		say("Fates: " + d.Name)
		if err := r.fates(ctx, d, many); err != nil {
			return err
		}
	}
	return nil
}

// fates finds out what happens besides the race.
func (r *rig) fates(ctx context.Context, d *result, many int) error {
	err := r.turn(ctx, d.design, func(t *turn) (err error) {
		d.Running, err = t.running(ctx, min(many, services))
		return err
	})
	if err != nil {
		return fmt.Errorf("list a running program: %w", err)
	}
	if d.Agent {
		err = r.turn(ctx, d.design, func(t *turn) (err error) {
			d.Killed, err = t.killed(ctx, min(many, services))
			return err
		})
		if err != nil {
			return fmt.Errorf("kill the agent: %w", err)
		}
	}
	for _, dist := range disturbances(d.Agent) {
		err := r.turn(ctx, d.design, func(t *turn) error {
			tallies, err := t.lost(ctx, many, dist)
			d.Lost = append(d.Lost, tallies...)
			return err
		})
		if err != nil {
			return fmt.Errorf("%s: %w", dist.name, err)
		}
	}
	return nil
}

// verdict judges sidestep, and the sensor: the control must be seen on the wrong side.
func (r *results) verdict() error {
	for _, d := range r.Designs {
		_, control := d.design.(*none)
		_, ours := d.design.(*product)
		switch {
		case ours && d.wrongs() > 0:
			return fmt.Errorf("%d: %w", d.wrongs(), errWrong)
		case control && d.wrongs() == 0:
			return errors.New("the control has no packet on the wrong side: the counters are broken")
		}
	}
	return nil
}
