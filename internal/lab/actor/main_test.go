//go:build linux

package actor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"sidestep/internal/lab/labtest"
)

// driverEnv makes the test binary a driver that waits to be killed; see TestDeathOfTheDriverEndsAllActors.
const driverEnv = "SIDESTEP_TEST_DRIVER"

func TestMain(m *testing.M) {
	if dir := os.Getenv(driverEnv); dir != "" {
		driveUntilKilled(dir)
	}
	goleak.VerifyTestMain(m)
}

// A world is a stage with one actor on it, and somebody who listens.
type world struct {
	t     *testing.T
	ctx   context.Context
	dir   string
	path  string // of the installed actor
	stage *Stage
	root  *Actor
	ear   *net.UDPConn
	addr  netip.AddrPort // of ear
}

func newWorld(t *testing.T) *world {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	w := &world{t: t, ctx: ctx, dir: t.TempDir()}
	w.path = w.install("actor")
	var err error
	w.stage, err = Listen(w.dir)
	w.ok(err)
	t.Cleanup(func() {
		if err := w.stage.Close(); err != nil {
			t.Errorf("close the stage: %v", err)
		}
	})
	w.ear, err = net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.MustParseAddrPort("127.0.0.1:0")))
	w.ok(err)
	t.Cleanup(func() { _ = w.ear.Close() })
	w.addr = w.ear.LocalAddr().(*net.UDPAddr).AddrPort()
	w.root, err = w.stage.Start(ctx, w.path, Options{})
	w.ok(err)
	return w
}

func (w *world) install(name string) string {
	w.t.Helper()
	path := filepath.Join(w.dir, name)
	w.ok(os.MkdirAll(filepath.Dir(path), 0o755))
	w.ok(Install(path))
	return path
}

func (w *world) ok(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) wantErr(err, want error) {
	w.t.Helper()
	if !errors.Is(err, want) {
		w.t.Fatalf("got error %v, want %v", err, want)
	}
}

func (w *world) fork(a *Actor) *Actor {
	w.t.Helper()
	child, err := a.Fork(w.ctx)
	w.ok(err)
	return child
}

func (w *world) info(a *Actor) Info {
	w.t.Helper()
	info, err := a.Info(w.ctx)
	w.ok(err)
	if info.PID != a.PID() {
		w.t.Fatalf("actor %d says it is %d", a.PID(), info.PID)
	}
	return info
}

// hear returns the next datagram.
func (w *world) hear() Datagram {
	w.t.Helper()
	b := make([]byte, 100)
	w.ok(w.ear.SetReadDeadline(time.Now().Add(10 * time.Second)))
	n, err := w.ear.Read(b)
	w.ok(err)
	d, err := ParseDatagram(b[:n])
	w.ok(err)
	return d
}

// silent fails if a datagram waits that nobody expected.
func (w *world) silent() {
	w.t.Helper()
	w.ok(w.ear.SetReadDeadline(time.Now()))
	if n, err := w.ear.Read(make([]byte, 100)); err == nil {
		w.t.Fatalf("an unexpected datagram of %d bytes", n)
	}
}

func exeOf(t *testing.T, a *Actor) string {
	t.Helper()
	exe, err := os.Readlink(filepath.Join("/proc", itoa(a.PID()), "exe"))
	if err != nil {
		t.Fatal(err)
	}
	return exe
}

func stateOf(pid int) (byte, bool) {
	b, err := os.ReadFile(filepath.Join("/proc", itoa(pid), "stat"))
	if err != nil {
		return 0, false
	}
	for i := len(b) - 1; i > 0; i-- {
		if b[i] == ')' {
			return b[i+2], true
		}
	}
	return 0, false
}

// needNamespaces makes a privileged in its own namespaces, as root does without more ado.
func (w *world) needNamespaces(a *Actor) {
	w.t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if err := a.Unshare(w.ctx, unix.CLONE_NEWUSER); err != nil {
		labtest.Skip(w.t, fmt.Sprintf("needs root or user namespaces: %v", err))
	}
}
