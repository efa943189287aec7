package check

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"sidestep/api"
)

// notes says what the verdicts don't: how it is known, and what it means. Blind is why no packets were seen, if so.
func (s sides) notes(facts []fact, blind error) []string {
	all := []string{"the interfaces are those that the packets were seen on"}
	if blind != nil {
		all[0] = "the interfaces are those that have the source addresses; as root, check sees the packets themselves"
		if !errors.Is(blind, fs.ErrPermission) {
			all[0] = fmt.Sprintf("the interfaces are those that have the source addresses, for packets can't be seen: %v", blind)
		}
	}
	var to []string
	asked := false
	for _, f := range facts {
		asked = asked || f.Kind == DNS
		if text := f.To.Addr().String(); f.Kind == UDP && !slices.Contains(to, text) {
			to = append(to, text)
		}
	}
	all = append(all, fmt.Sprintf("UDP and TCP went to port %d of %s", probePort, strings.Join(to, " and ")))
	if len(s.tunnels) == 0 {
		all = append(all, "there is no tunnel: included programs use the system's routes")
	}
	if !asked {
		all = append(all, resolvConf+" names no name server")
	}
	for _, f := range facts {
		if text := s.aboutServer(f, facts, blind == nil); text != "" && !slices.Contains(all, text) {
			all = append(all, text)
		}
	}
	return all
}

// aboutServer says what kind of name server a question went to, where that matters.
func (s sides) aboutServer(f fact, facts []fact, seeing bool) string {
	server := f.To.Addr()
	switch {
	case f.Kind != DNS:
		return ""
	case s.network.here(server):
		return s.aboutResolver(f, facts, seeing)
	case f.Program == Included && len(s.tunnels) > 0 && len(f.left) > 0 && s.side(f.Probe, f.left[0]) == Local:
		return fmt.Sprintf("the name server %v is on a private network: included programs ask it by %s, beside the tunnel",
			server, f.left[0])
	}
	return ""
}

// aboutResolver says by which interface a resolver on this machine asks, as far as that was seen.
func (s sides) aboutResolver(f fact, facts []fact, seeing bool) string {
	server := f.To.Addr()
	own := fmt.Sprintf("the resolver at %v is on this machine and asks in its own name, whoever asked it", server)
	var answered bool
	var by []string
	for _, other := range facts {
		if other.To != f.To {
			continue
		}
		answered = answered || other.Answered
		for _, name := range other.passedOn {
			if text := fmt.Sprintf("%s (%s)", name, s.leads(name)); !slices.Contains(by, text) {
				by = append(by, text)
			}
		}
	}
	switch {
	case len(by) > 0:
		return own + ": by " + strings.Join(by, " and ")
	case !answered:
		return fmt.Sprintf("no resolver answers at %v", server)
	case !seeing:
		return own + "; only root sees by which interface"
	}
	return own + "; it was not seen to ask"
}

// daemonNotes says what the daemon knows of the time between two answers.
func daemonNotes(before, after api.Status) []string {
	var all []string
	if after.State == api.Degraded {
		all = append(all, "the daemon is degraded: `sidestep status` says why")
	}
	const stopped = "guard_dropped_sent"
	if n := after.Counters[stopped] - before.Counters[stopped]; n > 0 {
		all = append(all, fmt.Sprintf("the guard stopped %d packets of excluded programs meanwhile", n))
	}
	return all
}
