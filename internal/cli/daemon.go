package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/pprof"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"sidestep/internal/config"
	"sidestep/internal/control"
	"sidestep/internal/sdnotify"
)

// stopLimit is how long the engine may take to remove everything. A shutdown never hangs in silence.
const stopLimit = 30 * time.Second

// daemonFlags are for daemon.
type daemonFlags struct {
	config, state, uplink string
	tunnels               []string
	verbose               bool
}

// AddFlags makes the options flags of cmd.
func (f *daemonFlags) AddFlags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.config, "config", config.DefaultFile, "configuration `FILE`")
	cmd.Flags().StringVar(&f.state, "state", config.DefaultState, "state directory `DIR`")
	cmd.Flags().StringSliceVar(&f.tunnels, "tunnel", nil, "the VPN's interfaces `IF[,IF]` (default: find them)")
	cmd.Flags().StringVar(&f.uplink, "uplink", "", "interface `IF` that excluded programs leave by (default: find it)")
	cmd.Flags().BoolVarP(&f.verbose, "verbose", "v", false, "log every detail")
}

func newDaemonCommand(e *env) *cobra.Command {
	var f daemonFlags
	cmd := &cobra.Command{
		Use:   "daemon",
		Short: "Enforce the policy, in the foreground",
		Long: `Daemon enforces the policy in the network namespace that it is started in, and answers on the
socket. SIGHUP makes it read its configuration again. SIGTERM and SIGINT make it remove all
that it put in force, in the safe order, and end.

If it is killed, what is in force stays in force: the next daemon takes it over, and
sidestep clean removes it. Daemons in several network namespaces need a state directory and
a socket each.` + exits(exitDone, exitCould, exitUsage, exitNotPermitted, exitConfig),
		Example: `  sidestep daemon --tunnel wg0
  sidestep --socket /run/b.sock daemon --state /var/lib/b`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runDaemon(cmd.Context(), e, cmd, f) },
	}
	f.AddFlags(cmd)
	return cmd
}

// runDaemon starts from the outside in: configuration, socket, engine. It ends from the inside out.
func runDaemon(ctx context.Context, e *env, cmd *cobra.Command, f daemonFlags) error {
	if e.Hooks.Daemon == nil {
		return fmt.Errorf("daemon: %w", errNotBuilt)
	}
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	defer signal.Stop(hangups)
	log := e.newLog(f.verbose)
	load := func() (config.Config, error) { return f.load(cmd) }
	cfg, err := load()
	if err != nil {
		return err
	}
	socket := e.daemonSocket(cfg)
	l, err := control.Listen(ctx, socket)
	if err != nil {
		return err
	}
	d, err := e.Hooks.Daemon(ctx, DaemonOptions{Config: cfg, Socket: socket, Log: log})
	if err != nil {
		return errors.Join(err, l.Close())
	}
	s := &supervisor{
		daemon:  d,
		load:    load,
		hangups: hangups,
		notify:  sdnotify.New(e.Getenv, os.Getpid()),
		log:     log,
	}
	return s.run(ctx, l, e.Stderr)
}

// load reads the configuration and lays the flags over it.
func (f *daemonFlags) load(cmd *cobra.Command) (config.Config, error) {
	read := config.LoadDefault
	if cmd.Flags().Changed("config") {
		read = config.Load
	}
	c, err := read(f.config)
	if err != nil {
		return c, err
	}
	if c.State == "" || cmd.Flags().Changed("state") {
		if c.State, err = stateDir(cmd, f.state); err != nil {
			return c, err
		}
	}
	if cmd.Flags().Changed("tunnel") {
		if len(f.tunnels) == 0 {
			return c, usagef(cmd, "--tunnel: no interface named")
		}
		if c.Tunnels, err = config.Devices(f.tunnels); err != nil {
			return c, usagef(cmd, "--tunnel: %w", err)
		}
	}
	if cmd.Flags().Changed("uplink") {
		if _, err := config.Devices([]string{f.uplink}); err != nil {
			return c, usagef(cmd, "--uplink: %w", err)
		}
		c.Uplink = f.uplink
	}
	return c, nil
}

// stateDir makes a --state absolute.
func stateDir(cmd *cobra.Command, dir string) (string, error) {
	if dir == "" {
		return "", usagef(cmd, "--state: path is empty")
	}
	return filepath.Abs(dir)
}

// daemonSocket prefers the command line and the environment to the configuration.
func (e *env) daemonSocket(c config.Config) string {
	if c.Socket != "" && e.socketFlag == "" && e.Getenv("SIDESTEP_SOCKET") == "" {
		return c.Socket
	}
	return e.socket()
}

// A supervisor drives one daemon from its start to its end.
type supervisor struct {
	daemon  Daemon
	load    func() (config.Config, error)
	hangups <-chan os.Signal
	notify  sdnotify.Notifier
	log     *slog.Logger
}

// run returns when ctx has ended and everything is removed, when a part fails, or when the end takes too long.
func (s *supervisor) run(ctx context.Context, l *control.Listener, dump io.Writer) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	serving, stopServing := context.WithCancel(context.WithoutCancel(ctx))
	defer stopServing()
	var g errgroup.Group
	g.Go(func() error {
		defer cancel()
		defer stopServing()
		return s.daemon.Run(ctx)
	})
	g.Go(func() error {
		defer cancel()
		return control.Serve(serving, l, s.daemon, s.log)
	})
	g.Go(func() error {
		s.attend(ctx)
		return nil
	})
	done := make(chan error, 1)
	go func() { done <- g.Wait() }()
	return within(ctx, done, dump)
}

// within waits for done, after the end of ctx no longer than stopLimit.
func within(ctx context.Context, done <-chan error, dump io.Writer) error {
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	late := time.NewTimer(stopLimit)
	defer late.Stop()
	select {
	case err := <-done:
		return err
	case <-late.C:
	}
	pprof.Lookup("goroutine").WriteTo(dump, 2)
	return fmt.Errorf("stop the engine: not done after %v; what is in force stays in force", stopLimit)
}

// attend answers signals and keeps the service manager informed until ctx ends.
func (s *supervisor) attend(ctx context.Context) {
	ready := s.daemon.Ready()
	var hangups <-chan os.Signal // not before it is ready: a reload would end with READY=1
	var beat <-chan time.Time
	if every := s.notify.Interval(); every > 0 {
		t := time.NewTicker(every)
		defer t.Stop()
		beat = t.C
	}
	for {
		select {
		case <-ready:
			ready, hangups = nil, s.hangups
			s.log.Info("ready")
			s.tell(s.notify.Ready("the policy is in force"))
		case <-hangups:
			s.reload(ctx)
		case <-beat:
			s.beat(ctx)
		case <-ctx.Done():
			s.log.Info("stopping")
			s.tell(s.notify.Stopping())
			return
		}
	}
}

// reload takes over the configuration as it is now. A bad one changes nothing.
func (s *supervisor) reload(ctx context.Context) {
	s.tell(s.notify.Reloading())
	cfg, err := s.load()
	if err == nil {
		err = s.daemon.Reload(ctx, cfg)
	}
	if err != nil {
		s.log.Error("configuration not reloaded, the old one stays in force", "err", err)
		s.tell(s.notify.Ready("the policy is in force; the last reload was refused: " + err.Error()))
		return
	}
	s.log.Info("configuration reloaded")
	s.tell(s.notify.Ready("the policy is in force"))
}

// beat tells the watchdog that the engine answers, not merely that this loop runs.
func (s *supervisor) beat(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, s.notify.Interval()/2)
	defer cancel()
	if _, err := s.daemon.Status(ctx); err != nil {
		s.log.Error("engine does not answer, the watchdog is not told", "err", err)
		return
	}
	s.tell(s.notify.Watchdog())
}

func (s *supervisor) tell(err error) {
	if err != nil {
		s.log.Warn("service manager not told", "err", err)
	}
}
