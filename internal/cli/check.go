package cli

import (
	"fmt"

	"github.com/spf13/cobra"
)

func newCheckCommand(e *env) *cobra.Command {
	var o readOptions
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Send probes and see which side they take",
		Long: `Check sends probes from an included and from an excluded process, over IPv4 and IPv6, by TCP, UDP
and DNS, and reports which side each used. It fails if any was on the wrong side.` +
			exits(exitDone, exitCould, exitUsage, exitNoDaemon, exitNotPermitted),
		Example: `  sidestep check`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if e.Hooks.Check == nil {
				return fmt.Errorf("check: %w", errNotBuilt)
			}
			return e.Hooks.Check(cmd.Context(), CheckOptions{Out: e.Stdout, JSON: o.json, Socket: e.socket()})
		},
	}
	o.AddFlags(cmd)
	return cmd
}
