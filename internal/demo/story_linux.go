package demo

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"time"

	"sidestep/api"
	"sidestep/internal/lab"
	"sidestep/internal/lab/actor"
	"sidestep/policy"
)

// settleLimit is how long packets may take to the wires.
const settleLimit = 3 * time.Second

// A step is a part of the story that succeeds or fails as a whole.
type step struct {
	name string
	run  func(context.Context) error
}

func (s *scene) story() []step {
	return []step{
		{"build the world", s.tellWorld},
		{"without sidestep", s.tellControl},
		{"start the daemon", s.tellDaemon},
		{"exclude a running program", s.tellExclude},
		{"start an excluded program", s.tellFreshStarts},
		{"start a child", s.tellChild},
		{"include it and exclude it again", s.tellFlip},
		{"kill the daemon", s.tellKill},
		{"go on without a daemon", s.tellAlone},
		{"start another daemon", s.tellAdoption},
		{"stop the daemon", s.tellEnd},
	}
}

func (s *scene) tellWorld(ctx context.Context) error {
	if err := s.build(ctx); err != nil {
		return err
	}
	s.fact("The world is there: uplink %s (%s), tunnel %s (%s, real WireGuard).",
		lab.UplinkName, lab.Machine4, lab.TunnelName, lab.Tunnel4)
	s.header()
	return nil
}

func (s *scene) tellControl(ctx context.Context) error {
	return errors.Join(
		s.talking(ctx, "bank, without sidestep: TCP, UDP, DNS over IPv4 and IPv6", "bank, before it was excluded", s.bank, tunnel),
		s.talking(ctx, "browser, likewise", "browser", s.browser, tunnel))
}

func (s *scene) tellDaemon(ctx context.Context) error {
	s.command("sidestep daemon")
	if err := s.startDaemon(ctx); err != nil {
		return err
	}
	s.fact("The daemon is engaged: tunnel %s, uplink %s.", lab.TunnelName, lab.UplinkName)
	return nil
}

func (s *scene) tellExclude(ctx context.Context) error {
	p := s.open("bank, before it was excluded", tunnel)
	old, err := p.connect(ctx, s.bank)
	if err != nil {
		return err
	}
	if err := s.typed(ctx, "exclude", s.program("bank")); err != nil {
		return err
	}
	return errors.Join(
		s.prove(ctx, "bank, on a connection that was open: it is closed", p, 1, p.overWith(ctx, s.bank, old)),
		s.talking(ctx, "bank, running all the while: its new sockets", "bank", s.bank, uplink),
		s.talking(ctx, "browser", "browser", s.browser, tunnel))
}

// tellFreshStarts replaces the program, as an upgrade does, by one that sends from its first instructions.
func (s *scene) tellFreshStarts(ctx context.Context) error {
	if err := actor.InstallProbe(s.program("bank")); err != nil {
		return err
	}
	text := fmt.Sprintf("bank, upgraded and started %d times: each one's first packet", freshStarts)
	return s.fresh(ctx, text)
}

func (s *scene) tellChild(ctx context.Context) (err error) {
	s.viewer, err = s.bank.ForkExec(ctx, actor.ByVfork, actor.Image{Path: s.program("viewer")})
	if err != nil {
		return err
	}
	return s.talking(ctx, "viewer, named by no rule, started by bank", "viewer, started by bank", s.viewer, uplink)
}

func (s *scene) tellFlip(ctx context.Context) error {
	if err := s.typed(ctx, "include", s.program("bank")); err != nil {
		return err
	}
	err := errors.Join(
		s.talking(ctx, "bank, still the same process", "bank, while it was included", s.bank, tunnel),
		s.talking(ctx, "viewer", "viewer, while bank was included", s.viewer, tunnel))
	if err != nil {
		return err
	}
	if err := s.typed(ctx, "exclude", s.program("bank")); err != nil {
		return err
	}
	return errors.Join(
		s.talking(ctx, "bank", "bank", s.bank, uplink),
		s.talking(ctx, "viewer", "viewer, started by bank", s.viewer, uplink))
}

func (s *scene) tellKill(context.Context) error {
	s.command("kill -9", s.daemon.pid())
	s.daemon.kill()
	return nil
}

func (s *scene) tellAlone(ctx context.Context) error {
	child, err := s.bank.Fork(ctx)
	if err != nil {
		return err
	}
	return errors.Join(
		s.talking(ctx, "bank, with no daemon there", "bank", s.bank, uplink),
		s.talking(ctx, "a child of bank, born with no daemon there", "bank's child, born without a daemon", child, uplink),
		s.fresh(ctx, fmt.Sprintf("bank, started %d times with no daemon there", freshStarts)),
		s.talking(ctx, "browser", "browser", s.browser, tunnel))
}

func (s *scene) tellAdoption(ctx context.Context) error {
	before, err := labelsMap()
	if err != nil {
		return err
	}
	s.command("sidestep daemon")
	if err := s.startDaemon(ctx); err != nil {
		return err
	}
	after, err := labelsMap()
	if err != nil {
		return err
	}
	if before != after {
		return fmt.Errorf("the new daemon has not taken over what was in force: %w", errWrong)
	}
	if err := s.listed(ctx); err != nil {
		return err
	}
	s.fact("A new daemon has taken over. It lists bank (listed) and viewer (inherited).")
	return errors.Join(
		s.talking(ctx, "bank", "bank", s.bank, uplink),
		s.talking(ctx, "viewer", "viewer, started by bank", s.viewer, uplink))
}

// listed sees to it that the daemon knows what runs, and why it is where it is.
func (s *scene) listed(ctx context.Context) error {
	ps, err := s.client.Processes(ctx, false)
	if err != nil {
		return err
	}
	for a, cause := range map[*actor.Actor]policy.Cause{s.bank: policy.Listed, s.viewer: policy.Inherited} {
		if !slices.ContainsFunc(ps.Processes, func(p api.Process) bool {
			return p.PID == a.PID() && p.Verdict == policy.Excluded && p.Cause == cause && p.App == s.program("bank")
		}) {
			return fmt.Errorf("the new daemon does not list process %d as excluded and %v, but %+v: %w",
				a.PID(), cause, ps.Processes, errWrong)
		}
	}
	return nil
}

func (s *scene) tellEnd(ctx context.Context) error {
	links, err := linksOf()
	if err != nil {
		return err
	}
	s.command("kill -TERM", s.daemon.pid())
	if err := s.daemon.stop(ctx); err != nil {
		return err
	}
	after, err := remainsOf(s.world.Machine)
	if err != nil {
		return err
	}
	if err := after.beyond(s.before); err != nil {
		return err
	}
	if err := awaitGone(ctx, links); err != nil {
		return err
	}
	s.fact("Everything is removed: 0 rules, 0 routes, 0 pins and 0 BPF links are left.")
	return s.talking(ctx, "bank", "bank, after the end of sidestep", s.bank, tunnel)
}

// talking proves that a program talks on one side only.
func (s *scene) talking(ctx context.Context, text, row string, a *actor.Actor, sd side) error {
	p := s.open(row, sd)
	return s.prove(ctx, text, p, 1, p.talk(ctx, a))
}

// fresh proves that bank is excluded from its first instruction.
func (s *scene) fresh(ctx context.Context, text string) error {
	p := s.openDeaf(fmt.Sprintf("bank, %d starts each", freshStarts), uplink)
	return s.prove(ctx, text, p, freshStarts, p.startAfresh(ctx, s.desktop, s.program("bank")))
}

// prove looks at both wires for what a part sent: at least n packets, all on its side. said is how the sending went.
// A packet on the wrong side comes first, for it may well be why the sending failed.
func (s *scene) prove(ctx context.Context, text string, p part, n uint64, said error) error {
	c, err := s.settled(ctx, p, n)
	if err != nil {
		return errors.Join(said, err)
	}
	found := c.count(p)
	if said != nil && found[p.side.other()] == 0 && !errors.Is(said, errWrong) {
		return said
	}
	s.proof(text, p, found)
	if found[p.side.other()] > 0 {
		return fmt.Errorf("%s: in the %v, where nothing of it belongs: %v: %w",
			text, p.side.other(), c.of(p, p.side.other())[0], errWrong)
	}
	if found[p.side] < n {
		return fmt.Errorf("%s: %d packets on the %v, expected %d: %w", text, found[p.side], p.side, n, errWrong)
	}
	return said
}

// settled takes a census once a part's packets have reached the wires, n at least, and whatever was sent before now.
func (s *scene) settled(ctx context.Context, p part, n uint64) (c census, err error) {
	settling, cancel := context.WithTimeout(ctx, settleLimit)
	defer cancel()
	err = lab.Poll(settling, func() (bool, error) {
		c, err = takeCensus(s.world.Wires())
		found := c.count(p)
		return found[uplink]+found[tunnel] >= n, err
	})
	if err != nil && settling.Err() == nil {
		return c, err
	}
	// A packet is counted in the tunnel before the sender goes on, on the uplink a moment later. A marker that went
	// there and back has had it overtaken by nothing.
	to := net.JoinHostPort(lab.Internet4, strconv.Itoa(markerPort))
	if _, err := s.world.Machine.Source(ctx, "udp", to, lab.Mark(lab.Fwmark)); err != nil {
		return c, fmt.Errorf("send a marker: %w", err)
	}
	return takeCensus(s.world.Wires())
}
