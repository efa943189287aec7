package cli

import (
	"context"
	"strconv"

	"github.com/spf13/cobra"
)

// psOptions are for ps.
type psOptions struct {
	readOptions
	all bool
}

// AddFlags makes the options flags of cmd.
func (o *psOptions) AddFlags(cmd *cobra.Command) {
	o.readOptions.AddFlags(cmd)
	cmd.Flags().BoolVar(&o.all, "all", false, "show included processes too")
}

func newPsCommand(e *env) *cobra.Command {
	var o psOptions
	cmd := &cobra.Command{
		Use:   "ps",
		Short: "List the processes outside the tunnel",
		Long: `Ps lists the live processes that are not simply included: those that are excluded, and those
that are undecided and may not communicate. The cause says why: listed (the policy names its
program), inherited (it descends from such a process), launched (sidestep run started it) or
default (nothing speaks of it).` + exits(exitDone, exitCould, exitUsage, exitNoDaemon, exitNotPermitted),
		Example: `  sidestep ps
  sidestep ps --all --json | jq '.processes[] | select(.cause == "inherited")'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runPs(cmd.Context(), e, o) },
	}
	o.AddFlags(cmd)
	return cmd
}

func runPs(ctx context.Context, e *env, o psOptions) error {
	ps, err := e.client().Processes(ctx, o.all)
	if err != nil {
		return err
	}
	if o.json {
		return e.document(ps)
	}
	if len(ps.Processes) == 0 {
		return e.say("no process is excluded")
	}
	rows := [][]string{{"PID", "VERDICT", "CAUSE", "EXE", "APP"}}
	for _, p := range ps.Processes {
		rows = append(rows,
			[]string{strconv.Itoa(p.PID), p.Verdict.String(), p.Cause.String(), dash(p.Exe), dash(p.App)})
	}
	return e.table(rows)
}
