package cli

import (
	"context"
	"strconv"

	"github.com/spf13/cobra"

	"sidestep/api"
)

// readOptions are for commands that only read.
type readOptions struct{ json bool }

// AddFlags makes the options flags of cmd.
func (o *readOptions) AddFlags(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&o.json, "json", false, "print the answer as one JSON document")
}

func newAppsCommand(e *env) *cobra.Command {
	var o readOptions
	cmd := &cobra.Command{
		Use:   "apps",
		Short: "List the excluded programs",
		Long: `Apps prints the policy: every excluded path, what it leads to where that is another path,
whether a program is there now (active) or not yet (missing), and how many live processes
it excludes.` + exits(exitDone, exitCould, exitUsage, exitNoDaemon, exitNotPermitted),
		Example: `  sidestep apps
  sidestep apps --json | jq -r '.apps[].path'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runApps(cmd.Context(), e, o) },
	}
	o.AddFlags(cmd)
	return cmd
}

func runApps(ctx context.Context, e *env, o readOptions) error {
	apps, err := e.client().Apps(ctx)
	if err != nil {
		return err
	}
	if o.json {
		return e.document(apps)
	}
	if len(apps.Apps) == 0 {
		return e.say("nothing is excluded")
	}
	rows := [][]string{{"PATH", "STATE", "PROCESSES", "LEADS TO"}}
	for _, a := range apps.Apps {
		rows = append(rows, []string{printable(a.Path), string(a.State), strconv.Itoa(a.Processes), leadsTo(a)})
	}
	return e.table(rows)
}

func leadsTo(a api.App) string {
	switch {
	case a.Resolved != "" && a.Script:
		return printable(a.Resolved) + " (script)"
	case a.Script:
		return "(script)"
	}
	return printable(a.Resolved)
}
