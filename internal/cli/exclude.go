package cli

import (
	"context"
	"errors"
	"fmt"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"sidestep/api"
	"sidestep/policy"
)

// changeOptions are for exclude and include.
type changeOptions struct{ json bool }

// AddFlags makes the options flags of cmd.
func (o *changeOptions) AddFlags(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&o.json, "json", false, "print what was done as one JSON document")
}

func newExcludeCommand(e *env) *cobra.Command {
	var o changeOptions
	cmd := &cobra.Command{
		Use:   "exclude PATH...",
		Short: "Let programs use the network outside the tunnel",
		Long: `Exclude adds programs to the policy. Running or yet to start, they and all that they start
use the ordinary network connection for every socket that they make from the moment the
command returns. Connections that are open stay in the tunnel until they end.

A path that ends in "/" is a directory and stands for every program below it. A path where
nothing is yet is accepted: what appears there is excluded from its first start.

All paths are excluded, or, where there is an error, none.` +
			exits(exitDone, exitCould, exitUsage, exitNoDaemon, exitNotPermitted),
		Example: `  sidestep exclude /usr/bin/firefox
  sidestep exclude /opt/games/ /usr/bin/steam`,
		Args: somePaths,
		RunE: func(cmd *cobra.Command, args []string) error { return runExclude(cmd.Context(), e, o, args) },
	}
	o.AddFlags(cmd)
	return cmd
}

func runExclude(ctx context.Context, e *env, o changeOptions, args []string) error {
	paths, err := parsePaths(args)
	if err != nil {
		return err
	}
	ch, err := e.client().Exclude(ctx, paths)
	if err != nil {
		return err
	}
	if o.json {
		return e.document(ch)
	}
	var lines []string
	for _, c := range ch.Changes {
		lines = append(lines, excluded(c))
	}
	return e.say(lines...)
}

// excluded says in words what became of one path.
func excluded(c api.Change) string {
	line := "excluded " + printable(c.Path)
	if c.Result == "unchanged" {
		line = "already excluded: " + printable(c.Path)
	}
	switch {
	case c.State == api.Missing:
		line += " (missing: nothing is there yet)"
	case c.Script:
		line += " (a script: excluded when it is run by this path)"
	}
	return line
}

// somePaths wants at least one argument.
func somePaths(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return errors.New("no path given")
	}
	return nil
}

// parsePaths checks every path before the daemon hears of any.
func parsePaths(args []string) ([]string, error) {
	var paths []string
	for _, a := range args {
		app, err := policy.ParsePath(a)
		if err != nil {
			return nil, badPath(a, err)
		}
		if !utf8.ValidString(app.Path) {
			return nil, &exitError{code: exitUsage, err: fmt.Errorf("%q: path is not valid UTF-8", a)}
		}
		paths = append(paths, app.Path)
	}
	return paths, nil
}
