package cli

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"sidestep/api"
)

// pollEvery is how often `status --wait` looks.
const pollEvery = 100 * time.Millisecond

// statusOptions are for status.
type statusOptions struct {
	readOptions
	wait    duration
	waiting bool
}

// AddFlags makes the options flags of cmd.
func (o *statusOptions) AddFlags(cmd *cobra.Command) {
	o.readOptions.AddFlags(cmd)
	cmd.Flags().Var(&o.wait, "wait", "wait so long for the policy to be in force, as in 10s")
}

func newStatusCommand(e *env) *cobra.Command {
	var o statusOptions
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show what the daemon is doing",
		Long: `Status shows the state, the tunnels, the uplink of each address family, warnings, and the counters
that are not zero (with --json: all).

  starting   the policy is not in force yet
  ready      the policy is in force, and there is no tunnel to step aside from
  engaged    the policy is in force and a tunnel exists
  degraded   something of the policy can't be enforced; the warnings say what

With --wait the command returns as soon as the daemon is ready or engaged, and fails when the
time is over. It waits for the daemon itself, too.` +
			exits(exitDone, exitCould, exitUsage, exitNoDaemon, exitNotPermitted),
		Example: `  sidestep status
  sidestep status --wait 10s && curl https://example.org`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.waiting = cmd.Flags().Changed("wait")
			return runStatus(cmd.Context(), e, o)
		},
	}
	o.AddFlags(cmd)
	return cmd
}

func runStatus(ctx context.Context, e *env, o statusOptions) error {
	get := e.client().Status
	if o.waiting {
		get = func(ctx context.Context) (api.Status, error) { return await(ctx, e.client(), time.Duration(o.wait)) }
	}
	st, err := get(ctx)
	if err != nil {
		return err
	}
	if o.json {
		return e.document(st)
	}
	return e.showStatus(st)
}

// await asks until the policy is in force.
func await(ctx context.Context, c *api.Client, limit time.Duration) (api.Status, error) {
	// At least one question is asked and answered, however short the wait.
	within, cancel := context.WithTimeout(ctx, max(limit, pollEvery))
	defer cancel()
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	last := errors.New("no answer")
	for {
		st, err := c.Status(within)
		switch {
		case err == nil && (st.State == api.Ready || st.State == api.Engaged):
			return st, nil
		case err == nil:
			last = fmt.Errorf("the state is %s", st.State)
		case errors.Is(err, api.ErrNotPermitted):
			return st, err
		case within.Err() == nil:
			last = err
		}
		select {
		case <-tick.C:
		case <-within.Done():
		}
		if ctx.Err() != nil {
			return st, ctx.Err()
		}
		if within.Err() != nil {
			return st, &exitError{code: exitCould, err: fmt.Errorf("waited %v: %w", limit, last)}
		}
	}
}

func (e *env) showStatus(st api.Status) error {
	rows := [][]string{
		{"state", string(st.State)},
		{"tunnel", dash(strings.Join(st.Tunnels, ", "))},
		{"uplink", "IPv4 " + dash(st.Uplink.IPv4) + ", IPv6 " + dash(st.Uplink.IPv6)},
	}
	for _, w := range st.Warnings {
		rows = append(rows, []string{"warning", printable(w)})
	}
	for _, name := range slices.Sorted(maps.Keys(st.Counters)) {
		if n := st.Counters[name]; n > 0 {
			rows = append(rows, []string{printable(name), strconv.FormatUint(n, 10)})
		}
	}
	return e.table(rows)
}

// A duration is a flag that takes Go's spelling, and plain seconds.
type duration time.Duration

// String is for pflag.
func (d *duration) String() string { return time.Duration(*d).String() }

// Type is for pflag.
func (d *duration) Type() string { return "DURATION" }

// Set is for pflag.
func (d *duration) Set(s string) error {
	v, err := time.ParseDuration(s)
	if n, serr := strconv.ParseUint(s, 10, 31); serr == nil {
		v, err = time.Duration(n)*time.Second, nil
	}
	if err != nil || v < 0 {
		return fmt.Errorf("%q is not a time to wait, as in 10s or 1m30s", s)
	}
	*d = duration(v)
	return nil
}
