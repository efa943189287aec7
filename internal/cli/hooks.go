package cli

import (
	"context"
	"errors"
	"io"
	"log/slog"

	"sidestep/internal/config"
	"sidestep/internal/control"
)

// errNotBuilt: the hook of a command is nil.
var errNotBuilt = errors.New("not part of this build")

// Hooks do what needs the engine itself. A hook that is nil belongs to no part of this build, and its command
// says so. An error that wraps fs.ErrPermission exits 77, a *config.Error 78, any other 1.
type Hooks struct {
	// Daemon makes the engine of `sidestep daemon`. The command has read the configuration and holds the socket by
	// then; it serves the socket, drives the engine and tells the service manager.
	Daemon func(ctx context.Context, o DaemonOptions) (Daemon, error)
	// Clean removes what a dead daemon left, and returns one line for each thing removed.
	Clean func(ctx context.Context, o CleanOptions) ([]string, error)
	// Demo and Doctor write their whole answer to Out. An error is one more line on stderr.
	Demo   func(ctx context.Context, o DemoOptions) error
	Doctor func(ctx context.Context, o DoctorOptions) error
}

// A Daemon is the engine as `sidestep daemon` drives it.
type Daemon interface {
	control.Engine
	// Run enforces the policy until ctx ends, then removes everything in the safe order and returns nil. The
	// socket is served until it has returned, so that whoever finds no daemon finds no rules either.
	Run(ctx context.Context) error
	// Ready is closed once the policy is in force.
	Ready() <-chan struct{}
	// Reload takes over a changed configuration, or says why not and leaves everything as it was.
	Reload(ctx context.Context, c config.Config) error
}

// DaemonOptions are for Hooks.Daemon.
type DaemonOptions struct {
	// Config is the file with the flags laid over it. State is never empty.
	Config config.Config
	// Socket is where the daemon listens.
	Socket string
	Log    *slog.Logger
}

// CleanOptions are for Hooks.Clean.
type CleanOptions struct {
	State string
	Log   *slog.Logger
}

// DemoOptions are for Hooks.Demo.
type DemoOptions struct {
	Out io.Writer
}

// DoctorOptions are for Hooks.Doctor.
type DoctorOptions struct {
	Out    io.Writer
	JSON   bool
	Socket string
}
