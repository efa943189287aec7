package cli

import (
	"context"
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	"sidestep/api"
)

func newWatchCommand(e *env) *cobra.Command {
	var o readOptions
	cmd := &cobra.Command{
		Use:   "watch",
		Short: "Follow what happens",
		Long: `Watch prints a line for everything that happens until it is interrupted: processes that become
excluded or end, apps added and taken out, connections cut because their app has changed
sides, sockets refused, packets stopped by the guard (one line for each socket in a second),
changes of the network and of the state, and how many events were lost, if any. The first
line is the state as it is.` +
			exits(exitDone, exitCould, exitUsage, exitNoDaemon, exitNotPermitted),
		Example: `  sidestep watch
  sidestep watch --json | jq -r 'select(.kind == "classified") | .exe'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runWatch(cmd.Context(), e, o) },
	}
	cmd.Flags().BoolVar(&o.json, "json", false, "print one JSON document per line")
	return cmd
}

func runWatch(ctx context.Context, e *env, o readOptions) error {
	for ev, err := range e.client().Events(ctx) {
		switch {
		case ctx.Err() != nil: // interrupted, as it should be
			return nil
		case err != nil:
			return err
		case o.json:
			err = e.document(ev)
		default:
			err = e.say(eventLine(ev))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// eventLine says an event in words.
func eventLine(ev api.Event) string {
	line := fmt.Sprintf("%s  %-10s", ev.Time.Local().Format("15:04:05.000"), printable(string(ev.Kind)))
	if ev.PID != 0 {
		line += "  " + strconv.Itoa(ev.PID)
	}
	if ev.Exe != "" {
		line += "  " + printable(ev.Exe)
	}
	if ev.Cause != nil {
		line += "  " + ev.Cause.String()
	}
	if ev.App != "" {
		line += "  app " + printable(ev.App)
	}
	if ev.Flow != nil {
		line += "  " + ev.Flow.String()
	}
	if ev.Lost != 0 {
		line += fmt.Sprintf("  %d events", ev.Lost)
	}
	if ev.Text != "" {
		line += "  " + printable(ev.Text)
	}
	return line
}
