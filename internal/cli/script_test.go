package cli_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"sidestep/api"
	"sidestep/internal/cli"
	"sidestep/internal/config"
	"sidestep/internal/control"
	"sidestep/internal/control/controltest"
	"sidestep/policy"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"sidestep": sidestep, "code": code})
}

// sidestep is the program, with hooks that do nothing to the machine.
func sidestep() {
	e := cli.OS(cli.Hooks{Daemon: fakeDaemon, Clean: fakeClean, Demo: fakeDemo})
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	os.Exit(cli.Main(ctx, e))
}

// code runs a command and succeeds if its exit code is the one it was told.
func code() {
	cmd := exec.Command(os.Args[2], os.Args[3:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	if err := cmd.Run(); cmd.ProcessState == nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	if got := strconv.Itoa(cmd.ProcessState.ExitCode()); got != os.Args[1] {
		fmt.Fprintf(os.Stderr, "exit code %s, want %s\n", got, os.Args[1])
		os.Exit(1)
	}
}

// A daemon is an engine that runs.
type daemon struct {
	controltest.Engine
	ready chan struct{}
}

func (d *daemon) Run(ctx context.Context) error {
	close(d.ready)
	<-ctx.Done()
	return nil
}
func (d *daemon) Ready() <-chan struct{}                      { return d.ready }
func (d *daemon) Reload(context.Context, config.Config) error { return nil }

func fakeDaemon(_ context.Context, o cli.DaemonOptions) (cli.Daemon, error) {
	d := &daemon{ready: make(chan struct{})}
	d.SetStatus(api.Status{State: api.Ready, Tunnels: o.Config.Tunnels, Uplink: api.Uplink{IPv4: o.Config.Uplink}})
	for _, a := range o.Config.Exclude.Apps {
		if _, err := d.Exclude(context.Background(), []string{a.Path}); err != nil {
			return nil, err
		}
	}
	if strings.HasSuffix(o.Config.State, "denied") {
		return nil, fmt.Errorf("load programs: %w", syscall.EPERM)
	}
	return d, nil
}

func fakeClean(_ context.Context, o cli.CleanOptions) ([]string, error) {
	switch filepath.Base(o.State) {
	case "dirty":
		return []string{"rule 4300", "table 28672"}, nil
	case "half":
		return []string{"rule 4300"}, errors.New("remove table 28672: device or resource busy")
	}
	return nil, nil
}

func fakeDemo(_ context.Context, o cli.DemoOptions) error {
	_, err := io.WriteString(o.Out, "0 packets on the wrong side\n")
	return err
}

type engineKey struct{}

// TestScripts runs the program against a server in this process, whose engine the scripts lead with the command
// "engine".
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Cmds:                map[string]func(*testscript.TestScript, bool, []string){"engine": lead, "serve": serve},
		Setup: func(e *testscript.Env) error {
			eng := &controltest.Engine{}
			e.Values[engineKey{}] = eng
			// Not below the work directory: a socket's path must be short.
			dir, err := os.MkdirTemp("", "sidestep")
			if err != nil {
				return err
			}
			e.Defer(func() { os.RemoveAll(dir) })
			e.Setenv("S", dir)
			e.Setenv("GORACE", "atexit_sleep_ms=0") // or each of a hundred programs takes a second to end
			e.Setenv("PID", strconv.Itoa(os.Getpid()))
			e.Setenv("SIDESTEP_SOCKET", dir+"/control.sock")
			return start(eng, dir+"/control.sock", e.Defer)
		},
	})
}

// serve starts one more server, on the socket that it is told.
func serve(ts *testscript.TestScript, _ bool, args []string) {
	ts.Check(start(ts.Value(engineKey{}).(*controltest.Engine), args[0], ts.Defer))
}

func start(eng *controltest.Engine, socket string, atEnd func(func())) error {
	l, err := control.Listen(context.Background(), socket)
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- control.Serve(ctx, l, eng, slog.New(slog.DiscardHandler)) }()
	atEnd(func() { stop(); <-done })
	return nil
}

// lead tells the engine how to be.
func lead(ts *testscript.TestScript, _ bool, args []string) {
	eng := ts.Value(engineKey{}).(*controltest.Engine)
	switch args[0] {
	case "state":
		eng.SetStatus(api.Status{State: api.State(args[1]), Tunnels: []string{"wg0"}, Uplink: api.Uplink{IPv4: "eth0"},
			Counters: map[string]uint64{"guard_drops": 3, "labels_full": 0}, Warnings: args[2:]})
	case "fail":
		eng.Fail(&api.Error{Code: api.ErrorCode(args[1]), Message: args[2], Hint: strings.Join(args[3:], " ")})
	case "work":
		eng.Fail(nil)
	case "processes":
		eng.SetProcesses(
			api.Process{PID: 11, Exe: "/usr/bin/x", Verdict: policy.Excluded, Cause: policy.Listed, App: "/usr/bin/x"},
			api.Process{PID: 12, Exe: "/tmp/a\nb", Verdict: policy.Excluded, Cause: policy.Inherited, App: "/usr/bin/x"},
			api.Process{PID: 13, Exe: "/usr/bin/z", Verdict: policy.Undecided},
			api.Process{PID: 14, Exe: "/usr/bin/in"})
	case "watched":
		<-eng.Watched()
	case "emit":
		eng.Emit(controltest.Classified(11, args[1], args[1]))
	case "end-events":
		eng.EndEvents()
	case "policy":
		if got := eng.Paths(); !slices.Equal(got, args[1:]) {
			ts.Fatalf("the policy is %q, want %q", got, args[1:])
		}
	case "launched":
		if got := strconv.Itoa(len(eng.Launched())); got != args[1] {
			ts.Fatalf("%s processes launched, want %s", got, args[1])
		}
	case "launched-pid":
		want := strings.TrimSpace(ts.ReadFile(args[1]))
		if all := eng.Launched(); len(all) == 0 || strconv.Itoa(all[len(all)-1]) != want {
			ts.Fatalf("launched %v, want %s last", all, want)
		}
	default:
		ts.Fatalf("engine: unknown word %q", args[0])
	}
}
