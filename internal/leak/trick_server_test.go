package leak_test

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"sidestep/internal/lab"
	"sidestep/internal/lab/actor"
)

// TestDatagramServersOfExcludedProgramsAnswerOnTheUplinkAlone is about servers that listen on every address.
func TestDatagramServersOfExcludedProgramsAnswerOnTheUplinkAlone(t *testing.T) {
	t.Parallel()
	r := engaged(t)
	excluded, included := r.bothSides()
	host, lan := r.elsewhere(r.world.Internet), r.elsewhere(r.world.Router)
	for _, c := range []struct {
		anyone netip.Addr
		i      int // of the clients' family
	}{{netip.IPv4Unspecified(), 0}, {netip.IPv6Unspecified(), 1}, {netip.IPv6Unspecified(), 0}} {
		t.Run(fmt.Sprintf("%v, for clients by %s", c.anyone, speeches[c.i].name), func(t *testing.T) {
			r := r.sub(t)
			sensor := r.serve(included, c.anyone)
			sensor.wantAnswer(host, sources[inside][c.i])
			s := r.serve(excluded, c.anyone)
			s.wantAnswer(host, sources[outside][c.i])
			s.wantAnswer(lan, sources[outside][c.i])
			s.wantUnreached(host, sources[inside][c.i])
			s.wantAnswer(host, sources[outside][c.i])
			r.wantNothing(outside, sensor.port)
		})
	}
	r.wantNoMixture()
}

// serve has a server listen for datagrams.
func (r *rig) serve(server *actor.Actor, at netip.Addr) *listener {
	r.t.Helper()
	l := &listener{rig: r, server: server, port: r.port()}
	bound := netip.AddrPortFrom(at, l.port)
	var err error
	l.s, err = server.Open(r.ctx, actor.UDP, bound)
	r.ok(err)
	r.ok(server.Bind(r.ctx, l.s, bound))
	return l
}

// ask sends a question from a client.
func (l *listener) ask(client *actor.Actor, at netip.Addr) end {
	l.t.Helper()
	s, err := client.Open(l.ctx, actor.UDPConnected, netip.AddrPortFrom(at, l.port))
	l.ok(err)
	l.ok(client.SendOn(l.ctx, s, netip.AddrPort{}))
	return end{a: client, s: s}
}

// wantAnswer fails unless the server can answer a question.
func (l *listener) wantAnswer(client *actor.Actor, at netip.Addr) {
	l.t.Helper()
	e := l.ask(client, at)
	l.ok(l.server.Poll(l.short(), l.s, unix.POLLIN))
	from := make([]byte, unix.SizeofSockaddrInet6)
	length := []byte{byte(len(from)), 0, 0, 0}
	_, err := l.server.Syscall(l.ctx, unix.SYS_RECVFROM, int(l.s), make([]byte, 64), 64, unix.MSG_DONTWAIT, from, length)
	l.ok(err)
	_, err = l.server.Syscall(l.ctx, unix.SYS_SENDTO, int(l.s), []byte("answer"), 6, 0, from, int(length[0]))
	l.ok(err)
	if got, err := client.Receive(l.short(), e.s); err != nil || string(got) != "answer" {
		l.t.Errorf("a client of %v receives %q and error %v, want the answer", at, got, err)
	}
}

// wantUnreached fails if a question gets to the server.
func (l *listener) wantUnreached(client *actor.Actor, at netip.Addr) {
	l.t.Helper()
	l.ask(client, at)
	l.ok(l.wire(inside).Wait(l.short(), lab.Match{Direction: lab.Received, DstPort: l.port}, 1))
	l.settle()
	if got, err := l.peek(end{a: l.server, s: l.s}); !errors.Is(err, unix.EAGAIN) {
		l.t.Errorf("the server receives %q and error %v through the tunnel, want nothing", got, err)
	}
}

// TestLoopbackIsNotReachedFromTheLAN is about servers that are bound to a loopback address, and about a host of the LAN
// that sends to it all the same.
func TestLoopbackIsNotReachedFromTheLAN(t *testing.T) {
	t.Parallel()
	r := engaged(t)
	excluded, included := r.bothSides()
	lan := r.elsewhere(r.world.Router)
	for name, server := range map[string]*actor.Actor{"excluded": excluded, "included": included} {
		for i, loopback := range addrs("127.0.0.1", "::1") {
			t.Run(name+", "+speeches[i].name, func(t *testing.T) {
				r := r.sub(t)
				own, sensor := sources[outside][i], addrs("0.0.0.0", "::")[i]
				public, private := r.serve(server, sensor), r.serve(server, loopback)
				r.frame(lan, i, netip.AddrPortFrom(own, public.port))
				_, err := server.Receive(r.short(), public.s)
				r.ok(err)
				for _, to := range []netip.Addr{own, loopback} {
					r.frame(lan, i, netip.AddrPortFrom(to, private.port))
					r.frame(lan, i, netip.AddrPortFrom(own, public.port))
					_, err := server.Receive(r.short(), public.s) // what was sent before has come, too
					r.ok(err)
				}
				if got, err := r.peek(end{a: server, s: private.s}); !errors.Is(err, unix.EAGAIN) {
					t.Errorf("a server on %v receives %q and error %v from the LAN, want nothing", loopback, got, err)
				}
				r.wantRefused(server, lan, loopback, own)
			})
		}
	}
}

// wantRefused fails if a client on the LAN can connect to a server that listens on a loopback address.
func (r *rig) wantRefused(server, lan *actor.Actor, loopback, own netip.Addr) {
	r.t.Helper()
	l := r.listen(server, loopback)
	if _, err := server.Connect(r.short(), netip.AddrPortFrom(loopback, l.port)); err != nil {
		r.t.Errorf("the server cannot connect to itself: %v", err)
	}
	if _, err := l.take(); err != nil {
		r.t.Errorf("the server accepts nothing of itself: %v", err)
	}
	l.wantDeaf(lan, own)
}

// frame has a host of the LAN send a datagram to the machine's network card, whatever its address.
func (r *rig) frame(lan *actor.Actor, i int, to netip.AddrPort) {
	r.t.Helper()
	var hardware []byte
	r.ok(r.world.Machine.Do(func() error {
		return onLink(lab.UplinkName, func(l netlink.Link) error {
			hardware = l.Attrs().HardwareAddr
			return nil
		})
	}))
	var index int
	r.ok(r.world.Router.Do(func() error {
		return onLink("lan0", func(l netlink.Link) error {
			index = l.Attrs().Index
			return nil
		})
	}))
	packet := datagram(netip.AddrPortFrom(addrs(lab.LAN4, lab.LAN6)[i], 9), to)
	sa := linkAddr(index, etherTypes[i], hardware)
	s := r.packetSocket(lan, unix.SOCK_DGRAM)
	_, err := lan.Syscall(r.ctx, unix.SYS_SENDTO, int(s), packet, len(packet), 0, sa, len(sa))
	r.ok(err)
	r.ok(lan.CloseSocket(r.ctx, s))
}
