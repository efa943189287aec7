package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

func newRunCommand(e *env) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "run -- CMD [ARG...]",
		Short: "Run one command outside the tunnel",
		Long: `Run becomes CMD, excluded. It runs as you, in this directory and with this environment, and
what it starts is excluded too. The policy does not change. CMD never starts inside the
tunnel: where the daemon can't exclude it, it does not start at all.

Its exit status is the command's, or one of these:` +
			exits(exitCould, exitUsage, exitNoDaemon, exitNotPermitted, exitNotExecutable, exitNotFound),
		Example: `  sidestep run -- curl https://example.org
  sidestep run -- sh -c 'ping -c 1 example.org'`,
		Args: someCommand,
		RunE: func(cmd *cobra.Command, args []string) error { return runRun(cmd.Context(), e, args) },
	}
	cmd.Flags().SetInterspersed(false) // what follows CMD is the command's
	return cmd
}

func someCommand(_ *cobra.Command, args []string) error {
	if len(args) == 0 || args[0] == "" {
		return errors.New("no command given")
	}
	return nil
}

func runRun(ctx context.Context, e *env, args []string) error {
	path, err := lookPath(args[0], e.Getenv("PATH"))
	if err != nil {
		return notRun(args[0], err)
	}
	if err := e.client().Launch(ctx); err != nil {
		return err
	}
	// This process is excluded now, and stays so whatever it becomes.
	return notRun(args[0], e.Exec(path, args, e.Environ()))
}

// notRun says why a command did not start, as shells count it.
func notRun(name string, err error) error {
	code := exitNotExecutable
	if errors.Is(err, fs.ErrNotExist) {
		code = exitNotFound
	}
	return &exitError{code: code, err: fmt.Errorf("run %s: %w", printable(name), err)}
}

// lookPath finds a command as execvp(3) does. A file that is there and can't be run is remembered as the reason.
func lookPath(name, path string) (string, error) {
	if strings.Contains(name, "/") {
		return name, executable(name)
	}
	reason := error(syscall.ENOENT)
	for _, dir := range filepath.SplitList(path) {
		if dir == "" {
			dir = "."
		}
		file := filepath.Join(dir, name)
		err := executable(file)
		if err == nil {
			return file, nil
		}
		if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENOTDIR) {
			reason = err
		}
	}
	return "", reason
}

// executable says why file can't be run, if it can't.
func executable(file string) error {
	st, err := os.Stat(file)
	if err != nil {
		return unpath(err)
	}
	if !st.Mode().IsRegular() {
		return syscall.EACCES
	}
	return unix.Faccessat(unix.AT_FDCWD, file, unix.X_OK, unix.AT_EACCESS)
}

// unpath takes the path off an error: it is said once.
func unpath(err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Err
	}
	return err
}
