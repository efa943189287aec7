package cli

import (
	"fmt"

	"github.com/spf13/cobra"
)

func newDoctorCommand(e *env) *cobra.Command {
	var o readOptions
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Look for what is missing or in the way",
		Long: `Doctor says what this kernel and this machine offer and what is missing, and which other VPN
software is present and whether its marks, rules or firewall collide with these.` +
			exits(exitDone, exitCould, exitUsage, exitNotPermitted),
		Example: `  sidestep doctor`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if e.Hooks.Doctor == nil {
				return fmt.Errorf("doctor: %w", errNotBuilt)
			}
			return e.Hooks.Doctor(cmd.Context(), DoctorOptions{Out: e.Stdout, JSON: o.json, Socket: e.socket()})
		},
	}
	o.AddFlags(cmd)
	return cmd
}
