package check

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"time"

	"sidestep/api"
	"sidestep/internal/netmon"
	"sidestep/policy"
)

const (
	// checkLimit is how long all of it may take.
	checkLimit = 10 * time.Second
	// leaveLimit is how long a packet may take to leave: a neighbour may have to be found first.
	leaveLimit = 2 * time.Second
	resolvConf = "/etc/resolv.conf"
)

// Options say what to check.
type Options struct {
	// Socket is where the daemon is.
	Socket string
	// To are addresses to send to, of [Target], at most one of a family; nobody's are taken for the others.
	To []netip.Addr
}

// Run lets two processes send and says which sides they used. It fails if it can't find out; what it finds, good or
// bad, is in the report. The two are this program again, which must come to [Send] for the command `check` when
// [SenderEnv] is set, and must know `--socket S run -- CMD`.
func Run(ctx context.Context, o Options) (Report, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, checkLimit, fmt.Errorf("no end after %v", checkLimit))
	defer cancel()
	client := &api.Client{Socket: o.Socket}
	before, err := client.Status(ctx)
	if err != nil {
		return Report{}, err
	}
	if before.State == api.Starting {
		return Report{}, errors.New("the policy is not in force yet: `sidestep status --wait 10s` waits for it")
	}
	if err := included(ctx, client); err != nil {
		return Report{}, err
	}
	r, err := examine(ctx, o, before)
	if err != nil {
		return Report{}, err
	}
	after, err := client.Status(ctx)
	if err != nil {
		return Report{}, err
	}
	if !slices.Equal(before.Tunnels, after.Tunnels) || before.Uplink != after.Uplink {
		return Report{}, errors.New("tunnels or uplinks changed meanwhile: try again")
	}
	r.Notes = append(r.Notes, daemonNotes(before, after)...)
	return r, nil
}

// included fails if this process is excluded, for then all that it starts is.
func included(ctx context.Context, c *api.Client) error {
	x, err := c.ExplainPID(ctx, os.Getpid())
	var refused *api.Error
	if errors.As(err, &refused) && refused.Code == api.CodeNotFound { // another pid namespace: its numbers say nothing
		return nil
	}
	if err != nil {
		return err
	}
	if exe, err := os.Readlink(self); err != nil || exe != x.Exe || x.Verdict == policy.Included {
		return nil
	}
	return fmt.Errorf("this process is %s itself (%s, %q), so it can't start an included one", x.Verdict, x.Cause, x.App)
}

// examine sends all probes, and judges what became of them.
func examine(ctx context.Context, o Options, st api.Status) (Report, error) {
	n, err := look()
	if err != nil {
		return Report{}, err
	}
	run := fmt.Sprintf("%08d", rand.N(100_000_000))
	w, blind := openWitness(run)
	if w != nil {
		defer w.Close()
	}
	facts, stop, err := sendAll(ctx, o, n, run)
	defer stop()
	if err != nil {
		return Report{}, err
	}
	r := Report{Version: api.Version, Evidence: SourceAddress, Tunnels: st.Tunnels, Uplink: st.Uplink}
	if w == nil {
		n.attribute(facts)
	} else {
		r.Evidence = Packets
		err = w.find(ctx, n, facts)
	}
	s := sides{st.Tunnels, st.Uplink, n}
	for _, f := range facts {
		r.Probes = append(r.Probes, s.judge(f))
	}
	r.Notes = s.notes(facts, blind)
	return r, err
}

// sendAll has an included and an excluded process send. They keep their sockets until stop is called.
func sendAll(ctx context.Context, o Options, n network, run string) (facts []fact, stop func(), err error) {
	var senders []*sender
	stop = func() {
		for _, s := range senders {
			_ = s.end() // it has done its work
		}
	}
	conf, err := os.ReadFile(resolvConf)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, stop, fmt.Errorf("read name servers: %w", err)
	}
	targets, servers := n.targets(o.To), servers(string(conf))
	for _, p := range []Program{Included, Excluded} {
		s, err := startSender(ctx, p, o.Socket)
		if err != nil {
			return nil, stop, err
		}
		senders = append(senders, s)
		ps := probes(p, run, len(facts), targets, servers)
		replies, err := s.send(ps, n)
		switch {
		case ctx.Err() != nil:
			return nil, stop, fmt.Errorf("let an %s process send: %w", p, context.Cause(ctx))
		case err != nil:
			return nil, stop, err
		}
		for i := range ps {
			facts = append(facts, fact{Probe: ps[i], reply: replies[i]})
		}
	}
	return facts, stop, nil
}

// look reads the network of this namespace.
func look() (network, error) {
	r, err := netmon.OpenReader()
	if err != nil {
		return network{}, err
	}
	defer r.Close()
	s, err := r.Snapshot()
	return network(s), err
}
