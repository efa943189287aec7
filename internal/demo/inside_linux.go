package demo

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"sidestep/api"
	"sidestep/internal/lab"
	"sidestep/internal/lab/actor"
)

// bpffs is where the daemon finds a BPF file system that has nobody else's pins, and whose pins nobody else has.
const bpffs = "/sys/fs/bpf"

// errWrong: the demo has shown that sidestep fails.
var errWrong = errors.New("sidestep does not keep its promise")

// A scene is everything that the story happens in.
type scene struct {
	screen
	ledger
	dir    string // on a file system of its own: bin, state, sockets
	world  *lab.World
	stage  *actor.Stage
	daemon *daemon
	client *api.Client
	before remains // what was there before the first daemon

	bank, browser, viewer *actor.Actor
	desktop               *actor.Actor // starts programs afresh
}

// play tells the story from beginning to end, and leaves nothing running.
func play(ctx context.Context, o Options) (err error) {
	unix.CloseOnExec(reportFD)
	s := &scene{screen: screen{w: o.Out}}
	s.title()
	defer func() { err = errors.Join(err, s.close()) }()
	for _, step := range s.story() {
		if err := ctx.Err(); err != nil {
			return err
		}
		if o.Before != nil && s.world != nil {
			if err := o.Before(step.name, s.world.Machine); err != nil {
				return err
			}
		}
		err := step.run(ctx)
		switch {
		case ctx.Err() != nil:
			return errors.New("interrupted") // what failed then, failed because of that
		case errors.Is(err, errWrong):
			_ = s.summary() // for its table; its verdict is less precise
			return errors.New(firstLine("demo: ", err.Error()))
		case err != nil:
			return fmt.Errorf("demo: %s: %w", step.name, err)
		}
	}
	return s.summary()
}

// summary prints the table of everything, late packets included, and judges it.
func (s *scene) summary() error {
	c, err := takeCensus(s.world.Wires())
	if err != nil {
		return err
	}
	wrong, strays := s.wrong(c), s.strays(c)
	s.table(s.rows(c), wrong)
	if wrong > 0 {
		return fmt.Errorf("demo: %d packets on the wrong side: %w", wrong, errWrong)
	}
	if len(strays) > 0 {
		return fmt.Errorf("demo: %d packets that are of no part of the story, such as %v: %w",
			strays.Count(lab.Match{}), strays[0], errWrong)
	}
	return nil
}

// build makes the place, the world and its programs.
func (s *scene) build(ctx context.Context) (err error) {
	if s.dir, err = mountPrivate(); err != nil {
		return err
	}
	s.client = &api.Client{Socket: s.file("control.sock")}
	for _, p := range []string{"bank", "browser", "desktop", "viewer"} {
		if err := actor.Install(s.program(p)); err != nil {
			return err
		}
	}
	var ports []uint16
	for p := uint16(markerPort); p <= lastPort; p++ {
		ports = append(ports, p)
	}
	if s.world, err = lab.New(ctx, lab.Options{Ports: ports}); err != nil {
		return err
	}
	if s.before, err = remainsOf(s.world.Machine); err != nil {
		return err
	}
	if s.stage, err = actor.Listen(s.dir); err != nil {
		return err
	}
	for name, a := range map[string]**actor.Actor{"bank": &s.bank, "browser": &s.browser, "desktop": &s.desktop} {
		*a, err = s.stage.Start(ctx, s.program(name), actor.Options{Start: s.world.Machine.Start})
		if err != nil {
			return err
		}
	}
	return nil
}

// close ends all processes and the world. What is pinned or written ends with the mount namespace, and so with this
// process.
func (s *scene) close() error {
	var errs []error
	if s.daemon != nil {
		s.daemon.kill()
	}
	if s.stage != nil {
		errs = append(errs, s.stage.Close())
	}
	if s.world != nil {
		errs = append(errs, s.world.Close())
	}
	return errors.Join(errs...)
}

func (s *scene) file(name string) string { return filepath.Join(s.dir, name) }

func (s *scene) program(name string) string { return filepath.Join(s.dir, "bin", name) }

// mountPrivate gives this process a BPF file system and a directory that nobody else sees. A file system covers one of
// the machine's directories for that, so that not even an empty directory is made outside.
func mountPrivate() (dir string, err error) {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return "", fmt.Errorf("make mounts private: %w", err)
	}
	if err := unix.Mount("bpf", bpffs, "bpf", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0700"); err != nil {
		return "", fmt.Errorf("mount a BPF file system on %s: %w", bpffs, err)
	}
	for _, cover := range []string{"/run", "/mnt", "/tmp"} {
		err = unix.Mount("tmpfs", cover, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755")
		if err == nil {
			dir = filepath.Join(cover, "sidestep-demo")
			return dir, os.MkdirAll(filepath.Join(dir, "bin"), 0o755)
		}
	}
	return "", fmt.Errorf("mount a file system for the demo's files: %w", err)
}
