package leak_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"sidestep/internal/lab"
	"sidestep/internal/lab/actor"
)

// discard is a port where nobody is.
const discard = 9

// promptly is for what happens at once, or never.
const promptly = 3 * time.Second

// differs says how a call's error is not what the rules say; nil wants none.
func differs(err, want error) error {
	if errors.Is(err, want) {
		return nil
	}
	return fmt.Errorf("error %v, want %v", err, want)
}

func (h *history) sock(stream bool) *sock {
	s := &sock{name: fmt.Sprintf("s%d", h.step), key: h.rng.Uint64(), stream: stream, holders: map[int]actor.Socket{}}
	s.v6 = h.chance(2)
	s.mapped = s.v6 && h.chance(3)
	return s
}

func (s *sock) String() string {
	kind := "UDP"
	if s.stream {
		kind = "TCP"
	}
	if s.v6 {
		kind += " over IPv6"
	}
	return s.name + " (" + kind + ")"
}

// anybody is the address that means all of the machine's.
func (s *sock) anybody(port uint16) netip.AddrPort {
	if s.v6 {
		return netip.AddrPortFrom(netip.IPv6Unspecified(), port)
	}
	return netip.AddrPortFrom(netip.IPv4Unspecified(), port)
}

// family picks one that the socket speaks.
func (h *history) family(s *sock) int {
	if s.v6 && !h.chance(3) {
		return 1
	}
	return 0
}

func (h *history) place() place {
	return []place{abroad, abroad, abroad, nearby, loopback}[h.rng.IntN(5)]
}

// The kernel chooses ports above those that programs choose, of which there are enough for an hour. Then they come again.
const (
	portsChosen = 40_000
	portsAny    = "60000 65535"
)

func (h *history) port() uint16 { return 20_000 + uint16(h.ports.Add(1)%portsChosen) }

// judged has a process make a socket, so that the kernel knows who it is: one that has no app and has made none since the
// policy changed is taken for the maker of whatever socket it uses.
func (h *history) judged(m *member) {
	h.t.Helper()
	if h.rules.sideOf(m.PID()) == inside {
		s, err := m.Socket(h.ctx, internet4(0), unix.SOCK_DGRAM)
		h.ok(err)
		h.ok(m.CloseSocket(h.ctx, s))
	}
}

// open makes a socket, and does nothing with it.
func (h *history) open() error {
	if len(h.rules.socks) >= socksMax {
		return nil
	}
	m, s := h.any(), h.sock(h.chance(3))
	h.does("%s makes the socket %v", m.name, s)
	typ := unix.SOCK_DGRAM
	if s.stream {
		typ = unix.SOCK_STREAM
	}
	fd, err := m.Socket(h.ctx, s.anybody(0), typ)
	s.holders[m.PID()] = fd
	h.rules.made(m.PID(), s)
	return differs(err, nil)
}

// connect connects a socket, or connects it anew.
func (h *history) connect() error {
	m, s := h.one(func(s *sock) bool { return !s.listens && !s.cut && !(s.stream && s.peer != nil) })
	if s == nil {
		return nil
	}
	where, family := h.place(), 0
	if s.v6 && !s.mapped {
		family = 1
	}
	if s.peer != nil { // the socket's own address stays, so it must suit
		where = s.peer.place
	}
	p := h.newPeer(s, family, where, servicePort)
	p.trace.what = h.does("%s connects %v to %v", m.name, s, p)
	want := h.rules.connect(m.PID(), s, p)
	if want == nil && s.stream {
		h.expect(p, s.side)
	}
	h.judged(m)
	ctx, cancel := context.WithTimeout(h.ctx, promptly)
	defer cancel()
	err := differs(m.ConnectSocket(ctx, s.holders[m.PID()], p.at), want)
	if err == nil && want == nil && s.stream {
		err = h.greeted(m, s, p)
	}
	return err
}

// send sends on a socket to where it is connected.
func (h *history) send() error {
	connected := !h.chance(10)
	m, s := h.one(func(s *sock) bool { return !s.listens && (s.peer != nil) == connected && (connected || !s.stream) })
	if s == nil {
		return nil
	}
	h.does("%s sends on %v", m.name, s)
	want := h.rules.send(m.PID(), s, nil)
	if want == nil {
		h.expect(s.peer, s.side)
	}
	h.judged(m)
	err := differs(m.SendOn(h.ctx, s.holders[m.PID()], netip.AddrPort{}), want)
	if err == nil && want == nil {
		err = h.echoed(m, s, s.peer)
	}
	return err
}

// sendTo sends on a datagram socket to a new peer.
func (h *history) sendTo() error {
	m, s := h.one(func(s *sock) bool { return !s.stream })
	if s == nil {
		return nil
	}
	where, family, port := h.place(), h.family(s), uint16(servicePort)
	if s.peer != nil { // the socket's own address stays
		where, family = s.peer.place, s.peer.family()
	}
	hears := s.peer == nil && !(s.numb && family == 1)
	if !hears {
		port = discard
	}
	p := h.newPeer(s, family, where, port)
	p.trace.what = h.does("%s sends on %v to %v", m.name, s, p)
	want := h.rules.send(m.PID(), s, p)
	if want == nil {
		h.expect(p, s.side)
	}
	h.judged(m)
	err := differs(m.SendOn(h.ctx, s.holders[m.PID()], p.at), want)
	if err == nil && want == nil && hears {
		err = h.echoed(m, s, p)
	}
	return err
}

// sendNew sends from a socket that is made for it.
func (h *history) sendNew() error {
	m, s := h.any(), h.sock(false)
	p := h.newPeer(s, h.family(s), []place{abroad, nearby}[h.rng.IntN(2)], discard)
	p.trace.what = h.does("%s sends from a new socket to %v", m.name, p)
	h.expect(p, h.rules.sideOf(m.PID()))
	return differs(m.Send(h.ctx, p.at, 1), nil)
}

// bind gives a socket a port.
func (h *history) bind() error {
	m, s := h.one(func(s *sock) bool { return !s.port && !s.cut })
	if s == nil {
		return nil
	}
	port := uint16(0)
	if h.chance(2) {
		port = h.port()
	}
	h.does("%s binds %v to port %d", m.name, s, port)
	h.rules.bind(m.PID(), s, port != 0)
	h.judged(m)
	return differs(m.Bind(h.ctx, s.holders[m.PID()], s.anybody(port)), nil)
}

// disconnect takes the peer of a datagram socket away.
func (h *history) disconnect() error {
	m, s := h.one(func(s *sock) bool { return !s.stream && s.peer != nil })
	if s == nil {
		return nil
	}
	h.does("%s disconnects %v", m.name, s)
	s.peer, s.port = nil, s.chosen
	nobody := make([]byte, unix.SizeofSockaddrInet6)
	_, err := m.Syscall(h.ctx, unix.SYS_CONNECT, int(s.holders[m.PID()]), nobody, len(nobody))
	return differs(err, nil)
}

func (h *history) close() error {
	m, s := h.one(func(*sock) bool { return true })
	if s == nil {
		return nil
	}
	return h.closes(m, s)
}

func (h *history) closes(m *member, s *sock) error {
	h.does("%s closes %v", m.name, s)
	fd := s.holders[m.PID()]
	h.rules.released(m.PID(), s)
	return differs(m.CloseSocket(h.ctx, fd), nil)
}

// fetch gives a socket to another process.
func (h *history) fetch() error {
	from, s := h.one(func(*sock) bool { return true })
	if s == nil {
		return nil
	}
	m := h.any()
	if s.isHeldBy(m.PID()) {
		return nil
	}
	h.does("%s gets %v from %s", m.name, s, from.name)
	s.holders[m.PID()] = h.fetchSocket(m.Actor, from.Actor, s.holders[from.PID()])
	return nil
}

// listen makes a server.
func (h *history) listen() error {
	if len(h.rules.socks) >= socksMax {
		return nil
	}
	m, s := h.any(), h.sock(true)
	s.port, s.chosen, s.listens, s.number = true, true, true, h.port()
	h.does("%s listens on %v, port %d", m.name, s, s.number)
	fd, err := m.ListenTCP(h.ctx, s.anybody(s.number))
	s.holders[m.PID()] = fd
	h.rules.made(m.PID(), s)
	return differs(err, nil)
}

// accept has somebody connect to a server.
func (h *history) accept() error {
	m, l := h.one(func(s *sock) bool { return s.listens })
	if l == nil || len(h.rules.socks) >= socksMax {
		return nil
	}
	s := h.sock(true)
	s.v6, s.port, s.chosen, s.holders = l.v6, true, true, map[int]actor.Socket{}
	from, by, family := []place{abroad, nearby}[h.rng.IntN(2)], l.side, h.family(l)
	deaf := from == abroad && l.side == outside && !h.down && h.chance(4)
	if deaf {
		by = inside
	}
	p := h.newPeer(s, family, from, 0)
	to := netip.AddrPortFrom(sources[h.way(by, from)][family], l.number)
	p.trace.what = h.does("%v calls %v, where %s accepts %v by %s", p, to, m.name, s, l.name)
	if deaf {
		return h.isDeaf(m, l, p, to)
	}
	h.expect(p, l.side)
	if err := h.call(p, to, promptly); err != nil {
		return err
	}
	fd, err := m.Accept(h.ctx, l.holders[m.PID()])
	s.holders[m.PID()], s.peer = fd, p
	h.rules.accepted(l, s)
	return differs(err, nil)
}

// isDeaf says whether a server can be reached by an address that must not reach it.
func (h *history) isDeaf(m *member, l *sock, p *peer, to netip.AddrPort) error {
	if err := h.call(p, to, 20*time.Millisecond); err == nil {
		return fmt.Errorf("%s is reached by %v", l.name, to)
	}
	_, err := m.Syscall(h.ctx, unix.SYS_ACCEPT4, int(l.holders[m.PID()]), 0, 0, 0)
	return differs(err, unix.EAGAIN)
}

// hear has somebody send a datagram to a socket that has a port.
func (h *history) hear() error {
	m, s := h.one(func(s *sock) bool { return !s.stream && s.port && s.peer == nil && !s.numb })
	if s == nil {
		return nil
	}
	from, by, family := []place{abroad, nearby}[h.rng.IntN(2)], side(h.chance(2)), h.family(s)
	p := h.newPeer(s, family, from, 0)
	fd := s.holders[m.PID()]
	local, err := m.LocalAddr(h.ctx, fd)
	h.ok(err)
	by = h.way(by, from)
	to := netip.AddrPortFrom(sources[by][family], local.Port())
	p.trace.what = h.does("%v sends to %v, where %s has %v", p, to, m.name, s)
	h.ok(h.whisper(p, to))
	if s.hears(from, by) {
		_, err = h.receive(m, fd)
		return err
	}
	came := lab.Match{Direction: lab.Received, Src: p.at.Addr().Unmap()}
	h.ok(h.wire(by).Wait(h.ctx, came, 1))
	h.settle()
	_, err = m.Syscall(h.ctx, unix.SYS_RECVFROM, int(fd), make([]byte, 64), 64, unix.MSG_DONTWAIT, 0, 0)
	return differs(err, unix.EAGAIN)
}

func (h *history) receive(m *member, fd actor.Socket) ([]byte, error) {
	ctx, cancel := context.WithTimeout(h.ctx, promptly)
	defer cancel()
	got, err := m.Receive(ctx, fd)
	if err == nil && len(got) == 0 {
		err = errors.New("the other end has closed")
	}
	return got, err
}

// greeted reads what a service says first: where it sees the connection come from.
func (h *history) greeted(m *member, s *sock, p *peer) error {
	got, err := h.receive(m, s.holders[m.PID()])
	if err != nil {
		return err
	}
	return h.isFrom(string(got), s, p)
}

// isFrom says whether a peer sees a socket come from another address than that of its side.
func (h *history) isFrom(greeting string, s *sock, p *peer) error {
	line, _, _ := strings.Cut(greeting, "\n")
	from, err := netip.ParseAddrPort(line)
	if err != nil {
		return err
	}
	want := networks[loopback][p.family()].Addr()
	if p.place != loopback {
		want = sources[h.way(s.side, p.place)][p.family()]
	}
	if from.Addr().Unmap() != want {
		return fmt.Errorf("the peer sees %v, want %v", from, want)
	}
	return nil
}

// echoed reads what a peer returns of a datagram's worth of bytes.
func (h *history) echoed(m *member, s *sock, p *peer) error {
	const size = 16
	var all []byte
	for len(all) < size {
		got, err := h.receive(m, s.holders[m.PID()])
		if errors.Is(err, unix.ETIMEDOUT) && !s.stream && h.isLost(p) {
			return nil
		}
		if err != nil {
			return err
		}
		if !s.stream {
			if err := h.isFrom(string(got), s, p); err != nil {
				return err
			}
			got = got[slices.Index(got, '\n')+1:]
		}
		all = append(all, got...)
	}
	if len(all) != size {
		return fmt.Errorf("%d bytes come back, want %d", len(all), size)
	}
	return nil
}
