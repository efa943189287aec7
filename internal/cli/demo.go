package cli

import (
	"fmt"

	"github.com/spf13/cobra"
)

func newDemoCommand(e *env) *cobra.Command {
	return &cobra.Command{
		Use:   "demo",
		Short: "Show it all in a world of its own",
		Long: `Demo builds a small world of network namespaces on this machine: a computer, its router, a VPN
server and a bit of internet, with a real tunnel. It runs the engine in it, excludes and
includes programs, counts every packet on both sides, and ends with a table of them.

It needs root, installs nothing and leaves nothing behind. It fails if any packet was on the
wrong side.` + exits(exitDone, exitCould, exitUsage, exitNotPermitted),
		Example: `  sudo sidestep demo`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if e.Hooks.Demo == nil {
				return fmt.Errorf("demo: %w", errNotBuilt)
			}
			return e.Hooks.Demo(cmd.Context(), DemoOptions{Out: e.Stdout})
		},
	}
}
