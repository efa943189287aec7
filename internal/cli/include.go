package cli

import (
	"context"
	"slices"
	"time"

	"github.com/spf13/cobra"
)

func newIncludeCommand(e *env) *cobra.Command {
	var o changeOptions
	cmd := &cobra.Command{
		Use:   "include PATH...",
		Short: "Take programs back into the tunnel",
		Long: `Include takes programs out of the policy. They and all that they started use the tunnel
for every socket that they make from the moment the command returns. Connections that are
open stay outside until they end: restart the program to be sure.

All paths are included, or, where there is an error, none. A path that is not in the policy
is an error.` + exits(exitDone, exitCould, exitUsage, exitNoDaemon, exitNotPermitted),
		Example:           `  sidestep include /usr/bin/firefox`,
		Args:              somePaths,
		ValidArgsFunction: e.completeApps,
		RunE:              func(cmd *cobra.Command, args []string) error { return runInclude(cmd.Context(), e, o, args) },
	}
	o.AddFlags(cmd)
	return cmd
}

func runInclude(ctx context.Context, e *env, o changeOptions, args []string) error {
	paths, err := parsePaths(args)
	if err != nil {
		return err
	}
	ch, err := e.client().Include(ctx, paths)
	if err != nil {
		return err
	}
	if o.json {
		return e.document(ch)
	}
	var lines []string
	for _, c := range ch.Changes {
		lines = append(lines, "included "+printable(c.Path))
	}
	return e.say(lines...)
}

// completeApps offers the paths of the policy that are not on the line yet.
func (e *env) completeApps(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	ctx, cancel := context.WithTimeout(cmd.Context(), time.Second)
	defer cancel()
	apps, err := e.client().Apps(ctx)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var paths []string
	for _, a := range apps.Apps {
		if !slices.Contains(args, a.Path) {
			paths = append(paths, a.Path)
		}
	}
	return paths, cobra.ShellCompDirectiveNoFileComp
}
