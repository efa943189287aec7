package leak_test

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"sidestep/api"
	"sidestep/internal/lab/actor"
)

// A member is an actor with a name that is the same whenever its history is played.
type member struct {
	*actor.Actor
	name string
	key  uint64
}

const (
	membersMax = 12
	socksMax   = 40
)

// steps are what can happen, and how often.
var steps = []struct {
	weight int
	do     func(h *history) error
}{
	{3, (*history).enter}, {8, (*history).bear}, {8, (*history).exec}, {4, (*history).exit},
	{6, (*history).change}, {1, (*history).replace}, {1, (*history).endDaemon}, {1, (*history).endTunnel},
	{16, (*history).open}, {16, (*history).connect}, {24, (*history).send}, {10, (*history).sendTo},
	{4, (*history).sendNew}, {4, (*history).bind}, {3, (*history).listen}, {6, (*history).accept}, {4, (*history).hear},
	{3, (*history).disconnect}, {8, (*history).close}, {3, (*history).fetch},
}

// next plays one step. What is not possible at the moment is left out.
func (h *history) next() error {
	switch {
	case len(h.actors) == 0:
		return h.enter()
	case h.d == nil && h.chance(15):
		return h.startDaemon()
	case h.down && h.chance(15):
		return h.startTunnel()
	}
	n := 0
	for _, s := range steps {
		n += s.weight
	}
	n = h.rng.IntN(n)
	for _, s := range steps {
		if n -= s.weight; n < 0 {
			return s.do(h)
		}
	}
	return nil
}

func (h *history) chance(of int) bool { return h.rng.IntN(of) == 0 }

// pick returns one of all, and the same one if some others are missing.
func pick[T any](rng *rand.Rand, all []T, key func(T) uint64) T {
	at := rng.Uint64()
	return slices.MinFunc(all, func(a, b T) int { return cmp.Compare(key(a)-at, key(b)-at) })
}

// any returns a member.
func (h *history) any() *member {
	return pick(h.rng, h.actors, func(m *member) uint64 { return m.key })
}

// one returns a socket that is such, and a process that holds it; nil if there is none.
func (h *history) one(such func(*sock) bool) (*member, *sock) {
	socks := slices.DeleteFunc(slices.Clone(h.rules.socks), func(s *sock) bool { return !such(s) })
	if len(socks) == 0 {
		return nil, nil
	}
	s := pick(h.rng, socks, func(s *sock) uint64 { return s.key })
	holders := slices.DeleteFunc(slices.Clone(h.actors), func(m *member) bool { return !s.isHeldBy(m.PID()) })
	return pick(h.rng, holders, func(m *member) uint64 { return m.key }), s
}

func (h *history) member() *member {
	return &member{name: fmt.Sprintf("p%d", h.step), key: h.rng.Uint64()}
}

func (h *history) file() string          { return h.files[h.rng.IntN(len(h.files))] }
func (h *history) brief(p string) string { return strings.ReplaceAll(p, h.dir+"/", "") }

// enter starts an actor as nobody's child.
func (h *history) enter() error {
	if len(h.actors) >= membersMax {
		return nil
	}
	m, file := h.member(), h.file()
	h.does("%s starts as %s", m.name, h.brief(file))
	m.Actor = h.start(file)
	h.rules.Start(os.Getpid(), m.PID(), file)
	h.actors = append(h.actors, m)
	return nil
}

// bear has a process make another one.
func (h *history) bear() (err error) {
	if len(h.actors) >= membersMax {
		return nil
	}
	m, child := h.any(), h.member()
	ways := []actor.Birth{actor.ByFork, actor.ByFork, actor.ByClone3, actor.ByCloneVM, actor.ByCloneParent, actor.ByDoubleFork}
	by := ways[h.rng.IntN(len(ways))]
	h.does("%s makes the process %s by %s", m.name, child.name, by)
	child.Actor, err = m.ForkBy(h.ctx, by)
	h.ok(err)
	h.rules.born(m.PID(), child.PID(), by)
	h.actors = append(h.actors, child)
	return nil
}

func (h *history) exec() error {
	m, file := h.any(), h.file()
	h.does("%s executes %s", m.name, h.brief(file))
	h.ok(m.Exec(h.ctx, file))
	h.rules.Exec(m.PID(), file)
	return nil
}

func (h *history) exit() error {
	m := h.any()
	h.does("%s ends", m.name)
	h.ok(m.Kill(h.ctx))
	h.rules.exit(m.PID())
	h.actors = slices.DeleteFunc(h.actors, func(o *member) bool { return o == m })
	return nil
}

// change has the policy gain or lose an app or two.
func (h *history) change() error {
	var in, out []string
	p := h.paths[h.rng.IntN(len(h.paths))]
	for _, p := range slices.Compact([]string{p, h.paths[h.rng.IntN(len(h.paths))]}) {
		if slices.Contains(h.rules.apps, p) {
			out = append(out, p)
		} else {
			in = append(in, p)
		}
	}
	if len(in) == 0 || len(out) > 0 && h.chance(2) {
		return h.changes(nil, out)
	}
	return h.changes(in, nil)
}

// replace makes a new policy.
func (h *history) replace() error {
	var in, out []string
	for _, p := range h.paths {
		switch had, has := slices.Contains(h.rules.apps, p), h.chance(2); {
		case has && !had:
			in = append(in, p)
		case had && !has:
			out = append(out, p)
		}
	}
	return h.changes(in, out)
}

func (h *history) changes(in, out []string) error {
	if h.d == nil || len(in)+len(out) == 0 {
		return nil
	}
	h.does("the policy changes: exclude %s, include %s", h.brief(strings.Join(in, " ")), h.brief(strings.Join(out, " ")))
	h.ok(h.govern(in, out))
	return h.areCut(h.rules.change(in, out))
}

// tell tells the daemon of a change.
func (h *history) tell(in, out []string) (err error) {
	switch {
	case len(in) > 0 && len(out) > 0:
		whole := slices.DeleteFunc(slices.Concat(h.rules.apps, in), func(p string) bool { return slices.Contains(out, p) })
		_, err = h.engine.(*api.Client).Replace(h.ctx, whole)
	case len(in) > 0:
		_, err = h.engine.Exclude(h.ctx, in)
	case len(out) > 0:
		_, err = h.engine.Include(h.ctx, out)
	}
	return err
}

// areCut says which of the sockets have not been told that they are cut.
func (h *history) areCut(cut []*sock) error {
	for _, s := range cut {
		if s.stream {
			s.peer.trace.ending = true
			h.due = append(h.due, s.peer.trace)
		}
		m := h.actors[slices.IndexFunc(h.actors, func(m *member) bool { return s.isHeldBy(m.PID()) })]
		failed, err := m.SocketOption(h.ctx, s.holders[m.PID()], unix.SOL_SOCKET, unix.SO_ERROR)
		h.ok(err)
		if unix.Errno(failed) != unix.ECONNABORTED {
			return fmt.Errorf("%v has error %v, want it to be cut: %s", s, unix.Errno(failed), h.state(m, s))
		}
	}
	return nil
}

// state says what a socket is that is not what it should be: its mark, what comes of sending, and who is excluded of those
// that hold it.
func (h *history) state(m *member, s *sock) string {
	fd := s.holders[m.PID()]
	mark, err := m.SocketOption(h.ctx, fd, unix.SOL_SOCKET, unix.SO_MARK)
	h.ok(err)
	sent := m.SendOn(h.ctx, fd, netip.AddrPort{})
	late, err := m.SocketOption(h.ctx, fd, unix.SOL_SOCKET, unix.SO_ERROR)
	h.ok(err)
	said := fmt.Sprintf("mark %#x, error %v from sending and %v then", mark, sent, unix.Errno(late))
	if h.d == nil {
		return said
	}
	excluded, err := h.engine.Processes(h.ctx, false)
	h.ok(err)
	return fmt.Sprintf("%s, held by %d, made by %d, apps %q, excluded: %+v", said, s.heldBy(), s.maker, s.apps, excluded.Processes)
}

// endDaemon kills the daemon, or has it take everything back.
func (h *history) endDaemon() error {
	if h.d == nil || h.down || !h.chance(4) {
		return nil
	}
	d := h.d
	h.d = nil
	if h.chance(2) {
		h.does("the daemon is killed")
		d.kill()
		return nil
	}
	h.does("the daemon is stopped")
	h.stopped = true
	d.stop()
	return h.areCut(h.rules.stop())
}

func (h *history) startDaemon() error {
	h.does("the daemon starts")
	h.d = h.daemon()
	if !h.stopped {
		return nil
	}
	h.stopped = false
	return h.areCut(h.rules.start())
}

// endTunnel takes the tunnel down.
func (h *history) endTunnel() error {
	if h.d == nil || h.down || !h.chance(4) {
		return nil
	}
	if err := h.leaveTunnel(); err != nil {
		return err
	}
	h.does("the tunnel goes down")
	h.ok(h.world.TunnelDown())
	h.wait("the daemon to miss the tunnel", func() bool { return h.status().State == api.Ready })
	h.down = true
	return nil
}

func (h *history) startTunnel() error {
	if err := h.leaveTunnel(); err != nil {
		return err
	}
	h.does("the tunnel comes up")
	h.ok(h.world.TunnelUp(h.ctx))
	h.wait("the daemon to be engaged", func() bool { return h.status().State == api.Engaged })
	h.wait("the daemon's rules to come first", h.leads)
	h.down = false
	return nil
}

// leaveTunnel has every process close what the tunnel's coming or going would take along to the other link: that is the
// system's doing.
func (h *history) leaveTunnel() error {
	err := h.compare()
	for _, s := range slices.Clone(h.rules.socks) {
		if s.peer == nil || s.peer.local() || s.side == outside {
			continue
		}
		for _, m := range h.actors {
			if s.isHeldBy(m.PID()) {
				err = errors.Join(err, h.closes(m, s))
			}
		}
	}
	maps.DeleteFunc(h.traces, func(_ netip.Addr, t *trace) bool { return t.follows })
	return err
}

// leads reports whether the daemon's rules come before those of the tunnel, which come before all others when they are made.
func (h *history) leads() (leads bool) {
	h.ok(h.world.Machine.Do(func() error {
		leads = true
		for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
			rules, err := netlink.RuleList(family)
			if err != nil {
				return err
			}
			rules = slices.DeleteFunc(rules, func(r netlink.Rule) bool { return r.Table == unix.RT_TABLE_LOCAL })
			leads = leads && rules[0].Mask != nil
		}
		return nil
	}))
	return leads
}
