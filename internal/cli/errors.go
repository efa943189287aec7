package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"sidestep/api"
	"sidestep/internal/config"
	"sidestep/policy"
)

// Exit codes. They never change their meaning; 2 belongs to Go's panics.
const (
	exitDone         = 0
	exitCould        = 1
	exitUsage        = 64
	exitNoDaemon     = 69
	exitNotPermitted = 77
	exitConfig       = 78
	// `sidestep run` only, as shells and env(1) have it.
	exitNotExecutable = 126
	exitNotFound      = 127
)

// exits is the EXIT STATUS section of a command's help.
func exits(codes ...int) string {
	words := map[int]string{
		exitDone:          "done",
		exitCould:         "could not",
		exitUsage:         "the command line is wrong",
		exitNoDaemon:      "no daemon answers on the socket",
		exitNotPermitted:  "not permitted",
		exitConfig:        "the configuration is wrong",
		exitNotExecutable: "the command is there and can't be run",
		exitNotFound:      "there is no such command",
	}
	var b strings.Builder
	b.WriteString("\n\nEXIT STATUS\n")
	for _, c := range codes {
		fmt.Fprintf(&b, "  %-4d%s\n", c, words[c])
	}
	return strings.TrimRight(b.String(), "\n")
}

// An exitError is an error with a code and a hint of its own.
type exitError struct {
	code int
	hint string
	err  error
}

func (e *exitError) Error() string { return e.err.Error() }
func (e *exitError) Unwrap() error { return e.err }

// usage marks an error of how the command line is written.
func usage(cmd *cobra.Command, err error) error {
	var e *exitError
	if errors.As(err, &e) {
		return err
	}
	return &exitError{exitUsage, cmd.CommandPath() + " --help says how it is written", err}
}

func usagef(cmd *cobra.Command, format string, args ...any) error {
	return usage(cmd, fmt.Errorf(format, args...))
}

// report prints an error and returns its exit code.
func (e *env) report(ctx context.Context, err error) int {
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		err = errors.New("interrupted")
	}
	code, hint := classify(err)
	fmt.Fprintf(e.Stderr, "sidestep: %s\n", oneLine(err.Error()))
	if hint != "" {
		fmt.Fprintf(e.Stderr, "hint: %s\n", oneLine(hint))
	}
	return code
}

// classify returns an error's exit code, and what may help.
func classify(err error) (code int, hint string) {
	var own *exitError
	var bad *config.Error
	var refused *api.Error
	switch {
	case errors.As(err, &own):
		return own.code, own.hint
	case errors.As(err, &bad):
		return exitConfig, bad.Hint
	case errors.Is(err, api.ErrNoDaemon):
		return exitNoDaemon, "start it with `sidestep daemon` as root, or say where it is with --socket"
	case errors.As(err, &refused):
		return codeOf(refused.Code), refused.Hint
	case errors.Is(err, api.ErrNotPermitted):
		return exitNotPermitted, "be root or a member of the group \"sidestep\""
	case errors.Is(err, fs.ErrPermission):
		return exitNotPermitted, ""
	}
	return exitCould, ""
}

func codeOf(c api.ErrorCode) int {
	switch c {
	case api.CodeBadPath, api.CodeBadRequest:
		return exitUsage
	case api.CodeForbidden:
		return exitNotPermitted
	}
	return exitCould
}

// badPath is the error for a path that no policy can hold, with the path that was meant, where that can be told.
func badPath(path string, err error) error {
	e := &exitError{code: exitUsage, err: err}
	if !errors.Is(err, policy.ErrRelativePath) {
		return e
	}
	if found, err := exec.LookPath(path); err == nil {
		path = found
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return e
	}
	if st, err := os.Stat(abs); err == nil {
		if st.IsDir() {
			abs += "/"
		}
		e.hint = fmt.Sprintf("did you mean %s?", printable(abs))
	}
	return e
}

// oneLine keeps errors to one line, whatever they quote.
func oneLine(s string) string {
	return strings.Join(strings.FieldsFunc(s, func(r rune) bool { return r == '\n' || r == '\r' }), "; ")
}
