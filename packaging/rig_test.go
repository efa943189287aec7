package packaging_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sidestep/api"
	"sidestep/internal/lab"
	"sidestep/internal/lab/actor"
	"sidestep/internal/lab/labtest"
)

func TestMain(m *testing.M) {
	code := labtest.Main(m)
	os.RemoveAll(builtDir())
	os.Exit(code)
}

// Users without a name: nothing here asks for one.
const (
	alice  = 64190 // whose programs are excluded
	daemon = 64191 // who runs the daemon
)

// builtDir is where this run of the test binary keeps the program. TestMain removes it.
func builtDir() string {
	return filepath.Join(os.TempDir(), fmt.Sprintf("sidestep-packaging-%d", os.Getpid()))
}

// build builds the program, once.
var build = sync.OnceValues(func() (string, error) {
	path := filepath.Join(builtDir(), "sidestep")
	out, err := exec.Command("go", "build", "-o", path, "sidestep/cmd/sidestep").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("build the program: %w: %s", err, out)
	}
	return path, os.Chmod(builtDir(), 0o755)
})

// A rig is a machine with a tunnel, on which alice has a program in a home that is closed to others.
type rig struct {
	t     *testing.T
	ctx   context.Context
	world *lab.World
	stage *actor.Stage
	dir   string
	app   string
	port  atomic.Uint32
}

func newRig(t *testing.T) *rig {
	t.Helper()
	labtest.NeedRoot(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	r := &rig{t: t, ctx: ctx}
	r.port.Store(20000)
	var err error
	r.dir, err = os.MkdirTemp("", "sidestep-packaging-") // t.TempDir is closed to other users
	r.ok(err)
	t.Cleanup(func() { os.RemoveAll(r.dir) })
	r.ok(os.Chmod(r.dir, 0o755))
	r.world, err = lab.New(ctx, lab.Options{})
	r.ok(err)
	t.Cleanup(func() { r.ok(r.world.Close()) })
	r.stage, err = actor.Listen(r.dir)
	r.ok(err)
	t.Cleanup(func() { r.ok(r.stage.Close()) })
	home := r.mkdir("home", 0)
	r.app = filepath.Join(home, "app")
	r.ok(actor.Install(r.app))
	r.ok(os.Chown(r.app, alice, alice))
	r.ok(os.Chown(home, alice, alice))
	return r
}

func (r *rig) ok(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

// mkdir makes a directory that is open to its owner only.
func (r *rig) mkdir(name string, owner int) string {
	r.t.Helper()
	path := filepath.Join(r.dir, name)
	r.ok(os.MkdirAll(path, 0o700))
	r.ok(os.Chown(path, owner, owner))
	return path
}

// start starts alice's program.
func (r *rig) start() (*actor.Actor, error) {
	return r.stage.Start(r.ctx, r.app, actor.Options{Start: func(cmd *exec.Cmd) error {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: alice, Gid: alice}}
		return r.world.Machine.Start(cmd)
	}})
}

// goes fails unless the datagrams of an actor leave by a wire, and by that alone.
func (r *rig) goes(a *actor.Actor, right, wrong *lab.Wire) error {
	const each = 3
	m := lab.Match{DstPort: uint16(r.port.Add(1))}
	if err := a.Send(r.ctx, netip.AddrPortFrom(netip.MustParseAddr(lab.Internet4), m.DstPort), each); err != nil {
		return err
	}
	if err := right.Wait(r.ctx, m, each); err != nil {
		return err
	}
	if n, err := wrong.Count(m); err != nil || n > 0 {
		return fmt.Errorf("%d packets left by the wrong side, error %v", n, err)
	}
	return nil
}

func (r *rig) goesOutside(a *actor.Actor) error {
	return r.goes(a, r.world.Wires().Uplink, r.world.Wires().Tunnel)
}

func (r *rig) goesInside(a *actor.Actor) error {
	return r.goes(a, r.world.Wires().Tunnel, r.world.Wires().Uplink)
}

// pins is the directory of the pins of the rig's daemons.
func (r *rig) pins() string {
	sum := sha256.Sum256([]byte(filepath.Join(r.dir, "state")))
	return filepath.Join(bpffs, "sidestep-"+hex.EncodeToString(sum[:6]))
}

// A service is a daemon on the rig's machine.
type service struct {
	cmd    *exec.Cmd
	client *api.Client
	log    bytes.Buffer // belongs to cmd until ended is closed
	ended  chan struct{}
	err    error
	exes   []string // what ps named
}

// launch starts a daemon, by the command prefix if there is one.
func (r *rig) launch(attr *syscall.SysProcAttr, prefix ...string) *service {
	r.t.Helper()
	path, err := build()
	r.ok(err)
	user := 0
	if attr.Credential != nil {
		user = int(attr.Credential.Uid)
	}
	s := &service{client: &api.Client{Socket: filepath.Join(r.mkdir("run", user), "control")}, ended: make(chan struct{})}
	args := append(prefix, path, "--socket", s.client.Socket, "daemon", "--state", r.mkdir("state", user))
	s.cmd = exec.Command(args[0], args[1:]...)
	s.cmd.SysProcAttr, s.cmd.Stderr = attr, &s.log
	r.ok(r.world.Machine.Start(s.cmd))
	go func() {
		s.err = s.cmd.Wait()
		close(s.ended)
	}()
	r.t.Cleanup(s.kill)
	return s
}

func (s *service) kill() {
	_ = s.cmd.Process.Kill() // it may have ended by itself
	<-s.ended
}

// stop asks the daemon to take everything back, and waits until it has.
func (s *service) stop() error {
	if err := s.cmd.Process.Signal(unix.SIGTERM); err != nil {
		return err
	}
	<-s.ended
	return s.err
}

// engaged returns when the daemon is, or has ended.
func (s *service) engaged(ctx context.Context) error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		st, err := s.client.Status(ctx)
		if err == nil && st.State == api.Engaged {
			return nil
		}
		select {
		case <-s.ended:
			return errors.New("the daemon has ended")
		case <-ctx.Done():
			return fmt.Errorf("the daemon is %q: %w", st.State, errors.Join(err, context.Cause(ctx)))
		case <-tick.C:
		}
	}
}

// list asks for the processes that are not simply included.
func (s *service) list(ctx context.Context) error {
	ps, err := s.client.Processes(ctx, false)
	for _, p := range ps.Processes {
		s.exes = append(s.exes, p.Exe)
	}
	return err
}

// said is what a daemon that has ended had to say.
func (s *service) said() string {
	s.kill()
	return strings.TrimSpace(s.log.String())
}
