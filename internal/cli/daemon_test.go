package cli

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"sidestep/internal/config"
	"sidestep/internal/control"
	"sidestep/internal/control/controltest"
	"sidestep/internal/sdnotify"
)

// A stub is an engine whose steps a test sees and paces.
type stub struct {
	controltest.Engine
	ready    chan struct{}
	removing chan struct{} // closed when ctx has ended
	removed  chan struct{} // closed by the test to let Run return
	reloaded chan config.Config
	refuse   error
}

func newStub() *stub {
	return &stub{
		ready:    make(chan struct{}),
		removing: make(chan struct{}),
		removed:  make(chan struct{}),
		reloaded: make(chan config.Config, 1),
	}
}

func (s *stub) Run(ctx context.Context) error {
	<-ctx.Done()
	close(s.removing)
	<-s.removed
	return nil
}
func (s *stub) Ready() <-chan struct{} { return s.ready }
func (s *stub) Reload(_ context.Context, c config.Config) error {
	s.reloaded <- c
	return s.refuse
}

// manager is a service manager that reads what it is told.
func manager(t *testing.T) (getenv func(string) string, next func() string) {
	t.Helper()
	name := filepath.Join(t.TempDir(), "notify")
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	getenv = func(k string) string { return map[string]string{"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "20000"}[k] }
	return getenv, func() string {
		for b := make([]byte, 4096); ; {
			n, err := c.Read(b)
			if err != nil {
				t.Fatal(err)
			}
			if s := string(b[:n]); s != "WATCHDOG=1" {
				return strings.SplitN(s, "\n", 2)[0]
			}
		}
	}
}

func expect(t *testing.T, next func() string, want string) {
	t.Helper()
	if got := next(); got != want {
		t.Errorf("the service manager hears %q, want %q", got, want)
	}
}

func TestDaemonTellsTheServiceManagerAndEndsInOrder(t *testing.T) {
	getenv, next := manager(t)
	l, err := control.Listen(t.Context(), filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	d, hangups := newStub(), make(chan os.Signal, 1)
	cfg, loadErr := config.Config{Uplink: "eth0"}, error(nil)
	s := &supervisor{daemon: d, hangups: hangups, notify: sdnotify.New(getenv, os.Getpid()),
		load: func() (config.Config, error) { return cfg, loadErr }, log: slog.New(slog.DiscardHandler)}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	done := make(chan error, 1)
	hangups <- syscall.SIGHUP // while it starts: comes after READY=1
	go func() { done <- s.run(ctx, l, &bytes.Buffer{}) }()

	close(d.ready)
	expect(t, next, "READY=1")
	expect(t, next, "RELOADING=1")
	expect(t, next, "READY=1")
	if c := <-d.reloaded; c.Uplink != "eth0" {
		t.Errorf("reloaded %+v", c)
	}
	loadErr = errors.New("bad file") // the engine never hears of it
	hangups <- syscall.SIGHUP
	expect(t, next, "RELOADING=1")
	expect(t, next, "READY=1")

	stop()
	expect(t, next, "STOPPING=1")
	<-d.removing
	if _, err := os.Stat(l.Path()); err != nil {
		t.Errorf("the socket is gone before the rules are: %v", err)
	}
	close(d.removed)
	if err := <-done; err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(l.Path()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is still there: %v", err)
	}
}

func TestWatchdogHearsOnlyOfAnEngineThatAnswers(t *testing.T) {
	name := filepath.Join(t.TempDir(), "notify")
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var log bytes.Buffer
	getenv := func(k string) string { return map[string]string{"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "1000000"}[k] }
	d := newStub()
	s := &supervisor{daemon: d, notify: sdnotify.New(getenv, 1), log: slog.New(slog.NewTextHandler(&log, nil))}
	s.beat(t.Context())
	b := make([]byte, 64)
	if n, err := c.Read(b); err != nil || string(b[:n]) != "WATCHDOG=1" {
		t.Errorf("heard %q, %v", b[:n], err)
	}
	d.Fail(errors.New("stuck"))
	s.beat(t.Context())
	s.tell(s.notify.Stopping())
	if n, err := c.Read(b); err != nil || string(b[:n]) != "STOPPING=1" {
		t.Errorf("heard %q, %v", b[:n], err)
	}
	if !strings.Contains(log.String(), "stuck") {
		t.Errorf("log: %s", log.String())
	}
}

func TestShutdownNeverHangsInSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		stop()
		var dump bytes.Buffer
		began := time.Now()
		err := within(ctx, make(chan error), &dump)
		if err == nil || time.Since(began) != stopLimit || !strings.Contains(dump.String(), "goroutine") {
			t.Errorf("after %v: %v\n%s", time.Since(began), err, &dump)
		}
	})
}
