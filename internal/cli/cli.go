// Package cli is the command line: one file per command, and around them a world that tests can replace.
//
// The rules that hold everywhere: stdout is the answer and stderr everything else; errors are one line; exit
// codes are those of errors.go. Commands that read are nouns, commands that change something are verbs.
package cli

import (
	"context"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"sidestep/api"
)

// An Env is the world that a command runs in.
type Env struct {
	// Args are the arguments after the program's name.
	Args           []string
	Stdout, Stderr io.Writer
	Getenv         func(string) string
	// Environ is what `sidestep run` hands to its command.
	Environ func() []string
	// Exec becomes another program, as execve does: it returns only with an error.
	Exec func(path string, argv, environ []string) error
	// Hooks do what needs the engine itself and not only the daemon's socket.
	Hooks Hooks
}

// OS returns the world of this process. It is called before the process handles any signal: what was ignored then
// is ignored again by the program that Exec becomes.
func OS(hooks Hooks) Env {
	var ignored []os.Signal
	for _, s := range []os.Signal{syscall.SIGINT, syscall.SIGTERM} {
		if signal.Ignored(s) {
			ignored = append(ignored, s)
		}
	}
	return Env{
		Args:    os.Args[1:],
		Stdout:  os.Stdout,
		Stderr:  os.Stderr,
		Getenv:  os.Getenv,
		Environ: os.Environ,
		Exec: func(path string, argv, environ []string) error {
			for _, s := range ignored {
				signal.Ignore(s)
			}
			return syscall.Exec(path, argv, environ)
		},
		Hooks: hooks,
	}
}

// Main runs the command that e.Args spell and returns its exit code.
func Main(ctx context.Context, e Env) int {
	s := &env{Env: e}
	root := newRootCommand(s)
	root.SetArgs(append([]string{}, e.Args...))
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return exitDone
	}
	if !s.started {
		err = usage(cmd, err)
	}
	return s.report(ctx, err)
}

// env is one run of the command line.
type env struct {
	Env
	socketFlag string
	// started tells errors of a command from errors of how it was written.
	started bool
}

// socket returns where the daemon is: the flag, the environment, or the default.
func (e *env) socket() string {
	for _, s := range []string{e.socketFlag, e.Getenv("SIDESTEP_SOCKET")} {
		switch {
		case strings.HasPrefix(s, "@"): // a file's name, never an abstract socket: those have no owner
			return "./" + s
		case s != "":
			return s
		}
	}
	return api.DefaultSocket
}

func (e *env) client() *api.Client { return &api.Client{Socket: e.socket()} }

const (
	groupPolicy = "policy"
	groupLook   = "look"
	groupDaemon = "daemon"
	groupProve  = "prove"
)

// newRootCommand is the whole tree.
func newRootCommand(e *env) *cobra.Command {
	root := &cobra.Command{
		Use:   "sidestep [--socket PATH] COMMAND [ARG...]",
		Short: "Leak-free split tunneling: chosen programs use the network outside the VPN",
		Long: `Sidestep lets the programs you choose use the ordinary network connection while every
other program stays in the VPN tunnel, and sees to it that no packet is on the wrong side.

A program is chosen by its path. What it starts is on its side too. The daemon keeps the
choice over restarts; these commands talk to it.`,
		Example: `  sidestep exclude /usr/bin/firefox    this program leaves the tunnel, running or not
  sidestep ps                          which processes are outside now
  sidestep explain /usr/bin/firefox    why it is on its side
  sidestep run -- curl example.org     one command, outside, this time only
  sidestep include /usr/bin/firefox    and back into the tunnel`,
		Args:                       oneCommand,
		SilenceErrors:              true,
		SilenceUsage:               true,
		DisableAutoGenTag:          true,
		SuggestionsMinimumDistance: 2,
		DisableFlagsInUseLine:      true,
		CompletionOptions:          cobra.CompletionOptions{DisableDefaultCmd: true},
		PersistentPreRunE:          e.start,
		RunE:                       e.noCommand,
	}
	root.Long += exits(exitDone, exitCould, exitUsage, exitNoDaemon, exitNotPermitted, exitConfig)
	root.SetOut(e.Stdout)
	root.SetErr(e.Stderr)
	root.SetFlagErrorFunc(usage)
	root.PersistentFlags().StringVar(&e.socketFlag, "socket", "",
		"daemon's socket `PATH` (default $SIDESTEP_SOCKET, else "+api.DefaultSocket+")")
	root.AddGroup(
		&cobra.Group{ID: groupPolicy, Title: "Choose programs:"},
		&cobra.Group{ID: groupLook, Title: "Look:"},
		&cobra.Group{ID: groupDaemon, Title: "Run the daemon:"},
		&cobra.Group{ID: groupProve, Title: "Make sure:"},
	)
	addGroup(root, groupPolicy, newExcludeCommand(e), newIncludeCommand(e), newAppsCommand(e), newRunCommand(e))
	addGroup(root, groupLook, newStatusCommand(e), newPsCommand(e), newExplainCommand(e), newWatchCommand(e))
	addGroup(root, groupDaemon, newDaemonCommand(e), newCleanCommand(e))
	addGroup(root, groupProve, newCheckCommand(e), newDoctorCommand(e), newDemoCommand(e))
	root.AddCommand(newVersionCommand(e), newCompletionCommand(e))
	root.SetHelpCommand(newHelpCommand(e))
	return root
}

func addGroup(root *cobra.Command, id string, cmds ...*cobra.Command) {
	for _, c := range cmds {
		c.GroupID = id
	}
	root.AddCommand(cmds...)
}

// start notes that the command line was read without error.
func (e *env) start(cmd *cobra.Command, _ []string) error {
	if f := cmd.Flag("socket"); f != nil && f.Changed && e.socketFlag == "" {
		return usagef(cmd, "--socket: path is empty")
	}
	e.started = true
	return nil
}
