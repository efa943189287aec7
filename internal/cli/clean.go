package cli

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"sidestep/internal/config"
)

func newCleanCommand(e *env) *cobra.Command {
	o := CleanOptions{State: config.DefaultState}
	cmd := &cobra.Command{
		Use:   "clean",
		Short: "Remove what a dead daemon left",
		Long: `Clean removes what a daemon that was killed left in force: pinned programs and maps, rules, routes
and system settings. It prints a line for each. While a daemon lives it removes nothing of
that daemon's. The policy itself stays.` + exits(exitDone, exitCould, exitUsage, exitNotPermitted),
		Example: `  sidestep clean`,
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return runClean(cmd, e, o) },
	}
	cmd.Flags().StringVar(&o.State, "state", o.State, "the dead daemon's state directory `DIR`")
	return cmd
}

func runClean(cmd *cobra.Command, e *env, o CleanOptions) error {
	if e.Hooks.Clean == nil {
		return fmt.Errorf("clean: %w", errNotBuilt)
	}
	state, err := stateDir(cmd, o.State)
	if err != nil {
		return err
	}
	o.State, o.Log = state, e.newLog(false)
	removed, err := e.Hooks.Clean(cmd.Context(), o)
	if len(removed) == 0 && err == nil {
		removed = []string{"nothing to remove"}
	}
	return errors.Join(err, e.say(removed...))
}
