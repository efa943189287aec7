package leak_test

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"sidestep/internal/lab"
	"sidestep/internal/lab/actor"
)

// A handover is a socket's way from its maker to a process on the other side.
type handover struct {
	*rig
	maker, taker *actor.Actor
	from         side // the maker's
	give         func(h *handover, s actor.Socket) end
	host, lan    *actor.Actor
}

// forHandovers runs a test for each way to hand a socket over.
func forHandovers(t *testing.T, test func(h *handover)) {
	t.Helper()
	t.Parallel()
	r := engaged(t)
	listed, other := r.install("listed"), r.install("other")
	broker := r.start(r.install("broker"))
	pipe := make([]byte, 8)
	r.ok(r.call(broker, unix.SYS_SOCKETPAIR, unix.AF_UNIX, unix.SOCK_DGRAM, 0, pipe))
	r.ends(r.exec(broker, actor.Image{Path: listed}), inside, "before it is excluded")
	r.exclude(listed)
	hands := map[side]*actor.Actor{
		inside: r.exec(broker, actor.Image{Path: other}), outside: r.exec(broker, actor.Image{Path: listed}),
	}
	host, lan := r.elsewhere(r.world.Internet), r.elsewhere(r.world.Router)
	for s, a := range hands {
		r.goes(a, s, "a process that hands over")
	}
	inPipe := func(h *handover, s actor.Socket) end { return h.pass(s, pipe) }
	byExec := func(h *handover, s actor.Socket) end {
		return end{a: h.exec(h.maker, actor.Image{Path: listed}), s: s}
	}
	for _, c := range []struct {
		name string
		from side
		give func(h *handover, s actor.Socket) end
	}{
		{"SCM_RIGHTS to an excluded program", inside, inPipe},
		{"SCM_RIGHTS to an included program", outside, inPipe},
		{"pidfd_getfd by an excluded program", inside, (*handover).fetch},
		{"pidfd_getfd by an included program", outside, (*handover).fetch},
		{"exec of an excluded program", inside, byExec},
	} {
		t.Run(c.name, func(t *testing.T) {
			test(&handover{r.sub(t), hands[c.from], hands[!c.from], c.from, c.give, host, lan})
		})
	}
}

// pass sends a socket over a unix socket, which both processes have inherited.
func (h *handover) pass(s actor.Socket, pipe []byte) end {
	h.t.Helper()
	in, out := binary.NativeEndian.Uint32(pipe), binary.NativeEndian.Uint32(pipe[4:])
	message := func(control []byte) actor.Words {
		return actor.Words{0, 0, actor.Words{make([]byte, 1), 1}, 1, control, len(control), 0}
	}
	h.ok(h.call(h.maker, unix.SYS_SENDMSG, in, message(unix.UnixRights(int(s))), 0))
	control := make([]byte, unix.CmsgSpace(4))
	h.ok(h.call(h.taker, unix.SYS_RECVMSG, out, message(control), 0))
	messages, err := unix.ParseSocketControlMessage(control)
	h.ok(err)
	fds, err := unix.ParseUnixRights(&messages[0])
	h.ok(err)
	return end{a: h.taker, s: actor.Socket(fds[0])}
}

// fetch takes a socket out of the maker's hands.
func (h *handover) fetch(s actor.Socket) end {
	h.t.Helper()
	return end{a: h.taker, s: h.fetchSocket(h.taker, h.maker, s)}
}

// fetchSocket has a process take another's socket.
func (r *rig) fetchSocket(taker, maker *actor.Actor, s actor.Socket) actor.Socket {
	r.t.Helper()
	process, err := taker.Syscall(r.ctx, unix.SYS_PIDFD_OPEN, maker.PID(), 0)
	r.ok(err)
	fd, err := taker.Syscall(r.ctx, unix.SYS_PIDFD_GETFD, process, int(s), 0)
	r.ok(err)
	_, err = taker.Syscall(r.ctx, unix.SYS_FCNTL, fd, unix.F_SETFD, 0)
	r.ok(err)
	_, err = taker.Syscall(r.ctx, unix.SYS_CLOSE, process)
	r.ok(err)
	return actor.Socket(fd)
}

func TestFreshSocketTakesTheSideOfWhoeverConnectsIt(t *testing.T) {
	forHandovers(t, func(h *handover) {
		for _, at := range internet {
			for _, kind := range []actor.SocketKind{actor.TCP, actor.UDPConnected} {
				f := h.expect(kind, h.host, at)
				s, err := h.maker.Socket(h.ctx, f.at, f.socketType())
				h.ok(err)
				e := h.give(h, s)
				h.ok(f.connect(e.a, e.s))
				f.lives("in other hands")
				f.wantOn(!h.from, "in other hands")
			}
		}
	})
}

func TestUsedDatagramSocketIsBlockedInOtherHands(t *testing.T) {
	forHandovers(t, func(h *handover) {
		for i, s := range h.sockets(h.maker, unix.SOCK_DGRAM) {
			remote := h.unconnected(h.maker, s, h.host, internet[i], sources[h.from][i])
			local := h.unconnected(h.maker, s, h.lan, addrs(lab.LAN4, lab.LAN6)[i], sources[outside][i])
			remote.wantOn(h.from, "in its maker's hands")
			e := h.give(h, s)
			taken := *remote
			taken.near = end{a: e.a, s: e.s, to: remote.at}
			if err := taken.wantSilent("in other hands"); !errors.Is(err, unix.EPERM) {
				h.t.Errorf("%s: in other hands it sends with error %v, want EPERM", taken.name, err)
			}
			local.near = end{a: e.a, s: e.s, to: local.at}
			local.lives("in other hands")
			remote.lives("in its maker's hands again")
			remote.wantOn(h.from, "in its maker's hands again")
		}
	})
}

// TestConnectionStaysOnItsMakersSideInOtherHands states a limit: what is sent on a socket that is connected passes no hook
// that could tell who sends.
func TestConnectionStaysOnItsMakersSideInOtherHands(t *testing.T) {
	forHandovers(t, func(h *handover) {
		for _, f := range h.dial(h.maker, h.host, internet...) {
			f.lives("in its maker's hands")
			f.wantOn(h.from, "in its maker's hands")
			f.near = h.give(h, f.near.s)
			f.lives("in other hands")
			f.wantOn(h.from, "in other hands")
			if f.kind == actor.TCP {
				continue
			}
			again := h.expect(f.kind, h.host, f.at.Addr())
			if err := again.connect(f.near.a, f.near.s); !errors.Is(err, unix.EPERM) {
				h.t.Errorf("%s: in other hands it connects anew with error %v, want EPERM", f.name, err)
			}
			h.wantNothing(h.from, again.port)
		}
	})
}

// TestListenerStaysOnItsMakersSideInOtherHands is about servers that are started by others, as with socket activation.
func TestListenerStaysOnItsMakersSideInOtherHands(t *testing.T) {
	forHandovers(t, func(h *handover) {
		for i, anyone := range addrs("0.0.0.0", "::") {
			l := h.listen(h.maker, anyone)
			e := h.give(h, l.s)
			l.server, l.s = e.a, e.s
			f := l.accept(h.host, sources[h.from][i])
			f.lives("accepted by other hands")
			f.wantOn(h.from, "accepted by other hands")
			if h.from == outside {
				l.wantDeaf(h.host, sources[inside][i])
			}
		}
	})
}

func TestChildOfAnExcludedProgramInheritsItsSockets(t *testing.T) {
	t.Parallel()
	r := engaged(t)
	listed, other := r.install("listed"), r.install("other")
	parent, host := r.start(listed), r.elsewhere(r.world.Internet)
	r.goes(parent, inside, "before it is excluded")
	r.exclude(listed)
	flows := r.allFlows(parent, outside, host)
	child := r.exec(parent, actor.Image{Path: other})
	for _, f := range flows {
		f.near.a = child
		f.lives("inherited")
		f.wantOn(outside, "inherited")
	}
}

// TestIncludedProgramKeepsWhatItSharesWithAnExcludedOne is about a parent that is included, with a download through the
// tunnel, whose child is excluded and holds the same connection.
func TestIncludedProgramKeepsWhatItSharesWithAnExcludedOne(t *testing.T) {
	t.Parallel()
	r := engaged(t)
	listed := r.install("listed")
	parent, host := r.start(r.install("parent")), r.elsewhere(r.world.Internet)
	flows := r.allFlows(parent, inside, host)
	child := r.exec(parent, actor.Image{Path: listed})
	for _, to := range []side{outside, inside, outside} {
		r.move(listed, to)
		for range 10 {
			for _, f := range flows {
				f.lives("shared with a child that is " + to.String())
			}
		}
		for _, f := range flows {
			f.wantOn(inside, "shared with a child that is "+to.String())
		}
		r.goes(child, to, "the child's own")
	}
	r.wantNoMixture()
}

// TestWhatOnlyAnExcludedProgramHoldsIsCut is about connections that were made by somebody who does not hold them any more.
func TestWhatOnlyAnExcludedProgramHoldsIsCut(t *testing.T) {
	t.Parallel()
	r := engaged(t)
	listed := r.install("listed")
	parent, host := r.start(r.install("parent")), r.elsewhere(r.world.Internet)
	flows := r.dial(parent, host, internet...)
	child := r.exec(parent, actor.Image{Path: listed})
	for _, f := range flows {
		r.ok(parent.CloseSocket(r.ctx, f.near.s))
		f.near.a = child
		f.lives("before")
		f.wantOn(inside, "before")
	}
	r.exclude(listed)
	for _, f := range flows {
		f.wantCut("once its app is outside")
	}
	r.wantNoMixture()
}

// TestSocketsStayOutsideAsLongAsAnAppCoversWhoHoldsThem has the app go that the sockets were made for: that of a process
// that runs another program by now, and that of a parent that has ended.
func TestSocketsStayOutsideAsLongAsAnAppCoversWhoHoldsThem(t *testing.T) {
	t.Parallel()
	r := engaged(t)
	host := r.elsewhere(r.world.Internet)
	for name, become := range map[string]func(r *rig, a *actor.Actor, other string) *actor.Actor{
		"exec": func(r *rig, a *actor.Actor, other string) *actor.Actor {
			r.ok(a.Exec(r.ctx, other))
			return a
		},
		"child of a parent that has ended": func(r *rig, a *actor.Actor, other string) *actor.Actor {
			child := r.exec(a, actor.Image{Path: other})
			r.ok(a.Kill(r.ctx))
			return child
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := r.sub(t)
			first, second := r.install("first"), r.install("second")
			a := r.start(first)
			r.goes(a, inside, "before it is excluded")
			r.exclude(first, second)
			flows, l := r.allFlows(a, outside, host), r.listen(a, netip.IPv4Unspecified())
			a = become(r, a, second)
			l.server = a
			r.include(first)
			flows = append(flows, l.accept(host, sources[outside][0]))
			for _, f := range flows {
				f.near.a = a
				f.lives("once the app of its maker is included")
				f.wantOn(outside, "once the app of its maker is included")
			}
			l.wantDeaf(host, sources[inside][0])
			r.include(second)
			for _, f := range flows {
				if f.kind == actor.UDP {
					f.wantBlocked("once the other app is included, too", outside)
				} else {
					f.wantCut("once the other app is included, too")
				}
			}
		})
	}
}
