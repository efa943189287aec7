package cli

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"sidestep/internal/check"
)

// checkOptions are for check.
type checkOptions struct {
	readOptions
	to []string
}

// AddFlags makes the options flags of cmd.
func (o *checkOptions) AddFlags(cmd *cobra.Command) {
	o.readOptions.AddFlags(cmd)
	cmd.Flags().StringSliceVar(&o.to, "to", nil, "send UDP and TCP to `ADDR`, or to one IPv4 and one IPv6 address")
}

const checkHelp = `Check starts two processes, one of them as sidestep run does, so that it is excluded. Each
sends a UDP datagram, the first packet of a TCP connection and a question to each name
server, over IPv4 and IPv6. Check shows by which interface each of these left.

As root it sees the packets themselves on the interfaces. Otherwise it goes by the source
addresses that the kernel chose. It says which.

Nothing of value leaves the machine. The probes hold 16 digits, half of them random, and go to
addresses that are kept for documentation and belong to nobody, or to those that you name with
--to. Name servers are asked for a name of 16 digits that does not exist. No answer is needed.

An included probe belongs in the tunnel, if there is one. An excluded one belongs on the
uplink; where there is none it is refused. What goes to this machine or a private network is
local: it may leave by any interface, but nothing excluded by the tunnel.

  ok        it is where it belongs
  wrong     it was on the wrong side
  stopped   it did not leave; a fault only if it is excluded and has an uplink
  unknown   the evidence does not tell

Check fails if a probe was wrong or unknown, or stopped and that is a fault.`

func newCheckCommand(e *env) *cobra.Command {
	var o checkOptions
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Send probes and show which side they leave by",
		Long:  checkHelp + exits(exitDone, exitCould, exitUsage, exitNoDaemon, exitNotPermitted),
		Example: `  sudo sidestep check
  sidestep check --to 1.1.1.1,2606:4700:4700::1111
  sidestep check --json | jq '.probes[] | select(.verdict == "wrong")'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if e.Getenv(check.SenderEnv) != "" {
				return check.Send(os.Stdin, e.Stdout)
			}
			to, err := o.targets(cmd)
			if err != nil {
				return err
			}
			return runCheck(cmd.Context(), e, o, to)
		},
	}
	o.AddFlags(cmd)
	return cmd
}

// targets reads the addresses of --to.
func (o *checkOptions) targets(cmd *cobra.Command) ([]netip.Addr, error) {
	if cmd.Flags().Changed("to") && len(o.to) == 0 {
		return nil, usagef(cmd, "--to: address is empty")
	}
	var all []netip.Addr
	for _, text := range o.to {
		a, err := check.Target(text)
		if err != nil {
			return nil, usagef(cmd, "--to: %w", err)
		}
		for _, other := range all {
			if other.Is4() == a.Is4() {
				return nil, usagef(cmd, "--to: %v and %v are of one family", other, a)
			}
		}
		all = append(all, a)
	}
	return all, nil
}

func runCheck(ctx context.Context, e *env, o checkOptions, to []netip.Addr) error {
	r, err := check.Run(ctx, check.Options{Socket: e.socket(), To: to})
	if err != nil {
		return err
	}
	if o.json {
		err = e.document(r)
	} else {
		err = e.showCheck(r)
	}
	if err == nil && r.Err() != nil {
		err = &exitError{code: exitCould, hint: r.Hint(), err: r.Err()}
	}
	return err
}

// showCheck writes the probes as a table, and on stderr what else there is to say.
func (e *env) showCheck(r check.Report) error {
	rows := [][]string{{"PROGRAM", "FAMILY", "KIND", "LEFT BY", "SIDE", "VERDICT"}}
	for _, p := range r.Probes {
		kind := strings.ToUpper(string(p.Kind))
		if p.Kind == check.DNS {
			kind += " " + p.To.Addr().String()
		}
		verdict := string(p.Verdict)
		if p.Detail != "" {
			verdict += ": " + p.Detail
		}
		rows = append(rows, []string{string(p.Program), strings.Replace(p.Family, "ip", "IP", 1), kind,
			dash(strings.Join(p.LeftBy, ", ")), string(p.Side), printable(verdict)})
	}
	if err := e.table(rows); err != nil {
		return err
	}
	for _, n := range r.Notes {
		fmt.Fprintf(e.Stderr, "note: %s\n", oneLine(n))
	}
	return nil
}
