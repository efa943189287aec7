package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"

	"sidestep/internal/lab"
	"sidestep/internal/lab/actor"
	"sidestep/internal/mountinfo"
)

// The TCP ports of the host on the internet where somebody answers.
const (
	firstService = 7000
	services     = 20
)

// maxFlows is enough for a turn: its packets, and the answers to them.
const maxFlows = 1 << 14

// A rig is the world that the designs race in: one machine with an uplink and a tunnel, a stage for programs, and wires
// that count. One design at a time is in force.
type rig struct {
	dir    string
	world  *lab.World
	stage  *actor.Stage
	cgroup string         // the root of cgroup2
	stormy []*actor.Actor // make fork storms
	port   uint16         // the last that was used
}

// The programs in the rig's directory.
const (
	timedProgram = "listed/timed"
	appProgram   = "listed/app"
	otherProgram = "other/app"
	stormProgram = "other/storm"
)

func newRig(ctx context.Context) (*rig, error) {
	dir, err := privateMounts()
	if err != nil {
		return nil, err
	}
	r := &rig{dir: dir, port: firstPort}
	if err := r.build(ctx); err != nil {
		return nil, errors.Join(err, r.close())
	}
	return r, nil
}

func (r *rig) build(ctx context.Context) (err error) {
	if r.cgroup, err = mountinfo.Cgroup2Root(); err != nil {
		return err
	}
	installs := map[string]func(string) error{
		timedProgram: actor.InstallTimed, appProgram: actor.Install, otherProgram: actor.Install, stormProgram: actor.Install,
	}
	for name, install := range installs {
		if err := errors.Join(os.MkdirAll(filepath.Dir(r.program(name)), 0o755), install(r.program(name))); err != nil {
			return err
		}
	}
	opts := lab.Options{MaxFlows: maxFlows}
	for p := range uint16(services) {
		opts.Ports = append(opts.Ports, firstService+p)
	}
	if r.world, err = lab.New(ctx, opts); err != nil {
		return err
	}
	r.stage, err = actor.Listen(r.dir)
	return err
}

// privateMounts gives this process, which has a mount namespace of its own, a place for files and a BPF file system.
func privateMounts() (dir string, err error) {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return "", fmt.Errorf("make mounts private: %w", err)
	}
	if err := unix.Mount("bpf", "/sys/fs/bpf", "bpf", 0, "mode=0700"); err != nil {
		return "", fmt.Errorf("mount a BPF file system: %w", err)
	}
	if dir, err = os.MkdirTemp("", "sidestep-race-"); err != nil {
		return "", err
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=0755"); err != nil { // goes with the namespace
		return "", errors.Join(fmt.Errorf("mount a file system for programs: %w", err), os.Remove(dir))
	}
	return dir, nil
}

func (r *rig) program(name string) string { return filepath.Join(r.dir, name) }

func (r *rig) close() error {
	var errs []error
	if r.stage != nil {
		errs = append(errs, r.stage.Close())
	}
	if r.world != nil {
		errs = append(errs, r.world.Close())
	}
	return errors.Join(append(errs, unix.Unmount(r.dir, unix.MNT_DETACH), os.Remove(r.dir))...)
}

// A turn is a design in force, and a program that starts others.
type turn struct {
	*rig
	design  design
	starter *actor.Actor
}

// turn puts a design in force, calls fn, and takes everything back.
func (r *rig) turn(ctx context.Context, d design, fn func(*turn) error) (err error) {
	at := place{world: r.world, cgroup: filepath.Join(r.cgroup, fmt.Sprintf("sidestep-race-%d", os.Getpid())), dir: r.dir}
	if err := os.Mkdir(at.cgroup, 0o755); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, removeCgroup(at.cgroup, r.cgroup)) }()
	t := &turn{rig: r, design: d}
	t.starter, err = r.stage.Start(ctx, r.program(otherProgram), actor.Options{Start: r.world.Machine.Start})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, t.starter.Kill(context.WithoutCancel(ctx))) }()
	if err := joinCgroup(at.cgroup, t.starter.PID()); err != nil {
		return err
	}
	if err := d.start(ctx, at); err != nil {
		return fmt.Errorf("%s: %w", d.facts().Name, err)
	}
	defer func() { err = errors.Join(err, d.stop()) }()
	if err := fn(t); err != nil {
		return fmt.Errorf("%s: %w", d.facts().Name, err)
	}
	return nil
}

// apps starts programs that obey, and returns a function that ends them.
func (t *turn) apps(ctx context.Context, n int, im actor.Image) (apps []*actor.Actor, end func() error, err error) {
	end = func() error {
		var errs []error
		for _, a := range apps {
			errs = append(errs, a.Kill(context.WithoutCancel(ctx)))
		}
		return errors.Join(errs...)
	}
	for range n {
		a, err := t.starter.ForkExec(ctx, actor.ByFork, im)
		if err != nil {
			return nil, nil, errors.Join(err, end())
		}
		apps = append(apps, a)
	}
	return apps, end, nil
}

// storms keeps four processes forking and executing until stop is called.
func (r *rig) storms(ctx context.Context) (stop func() error, err error) {
	path := r.program(stormProgram)
	for len(r.stormy) < 4 {
		a, err := r.stage.Start(ctx, path, actor.Options{Start: r.world.Machine.Start})
		if err != nil {
			return nil, err
		}
		r.stormy = append(r.stormy, a)
	}
	var wg sync.WaitGroup
	var errs [4]error
	blowing, cancel := context.WithCancel(ctx)
	for i, a := range r.stormy {
		wg.Go(func() {
			for blowing.Err() == nil && errs[i] == nil {
				_, errs[i] = a.Storm(ctx, actor.Storm{Count: 40, Width: 4, Image: &actor.Image{Path: path}})
			}
		})
	}
	return func() error {
		cancel()
		wg.Wait()
		return errors.Join(errs[:]...)
	}, nil
}

func internet(port uint16) netip.AddrPort {
	return netip.AddrPortFrom(netip.MustParseAddr(lab.Internet4), port)
}
