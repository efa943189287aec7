package leak_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sidestep/internal/lab/actor"
)

// A listener is a socket of a server on the machine.
type listener struct {
	*rig
	server *actor.Actor
	s      actor.Socket
	port   uint16
}

// listen has a server listen at an address.
func (r *rig) listen(server *actor.Actor, at netip.Addr) *listener {
	r.t.Helper()
	l := &listener{rig: r, server: server, port: r.port()}
	var err error
	l.s, err = server.ListenTCP(r.ctx, netip.AddrPortFrom(at, l.port))
	r.ok(err)
	return l
}

// call connects a client, and leaves the connection in the queue of the listener.
func (l *listener) call(client *actor.Actor, at netip.Addr) *flow {
	l.t.Helper()
	to := netip.AddrPortFrom(at, l.port)
	s, err := client.Socket(l.ctx, to, unix.SOCK_STREAM)
	l.ok(err)
	from := netip.AddrPortFrom(netip.IPv4Unspecified(), l.rig.port())
	if at.Is6() {
		from = netip.AddrPortFrom(netip.IPv6Unspecified(), from.Port())
	}
	l.ok(client.Bind(l.ctx, s, from)) // the kernel's choice may be that of a client elsewhere
	l.ok(client.ConnectSocket(l.short(), s, to))
	local, err := client.LocalAddr(l.ctx, s)
	l.ok(err)
	name := fmt.Sprintf("%v to %v", local, to)
	return &flow{rig: l.rig, name: name, kind: actor.TCP, at: to, far: end{a: client, s: s}, port: local.Port()}
}

// accept connects a client.
func (l *listener) accept(client *actor.Actor, at netip.Addr) *flow {
	l.t.Helper()
	f := l.call(client, at)
	s, err := l.server.Accept(l.short(), l.s)
	l.ok(err)
	f.near = end{a: l.server, s: s}
	return f
}

// take accepts what is in the queue, without waiting.
func (l *listener) take() (actor.Socket, error) {
	s, err := l.server.Syscall(l.ctx, unix.SYS_ACCEPT4, int(l.s), 0, 0, unix.SOCK_NONBLOCK)
	return actor.Socket(s), err
}

// wantDeaf fails if a client can connect, or the server sees that one tried.
func (l *listener) wantDeaf(client *actor.Actor, at netip.Addr) {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(l.ctx, 200*time.Millisecond)
	defer cancel()
	to := netip.AddrPortFrom(at, l.port)
	if _, err := client.Connect(ctx, to); err == nil {
		l.t.Errorf("a client can connect to %v", to)
	}
	if _, err := l.take(); !errors.Is(err, unix.EAGAIN) {
		l.t.Errorf("there is a connection to %v: %v", to, err)
	}
}

func TestAcceptedConnectionsAreCutAndTheirListenerChangesSides(t *testing.T) {
	t.Parallel()
	r := engaged(t)
	listed := r.install("listed")
	server, host, vpn := r.start(listed), r.elsewhere(r.world.Internet), r.elsewhere(r.world.VPN)
	for i, anyone := range []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()} {
		l := r.listen(server, anyone)
		for _, from := range []side{inside, outside, inside, outside} {
			when := fmt.Sprintf("once its app is %v", !from)
			at := sources[from][i]
			flows := []*flow{l.accept(host, at)}
			if from == inside {
				flows = append(flows, l.accept(vpn, at))
			} else {
				l.wantDeaf(host, sources[inside][i])
			}
			for _, f := range flows {
				f.lives("before")
				f.wantOn(from, "before")
			}
			r.move(listed, !from)
			for _, f := range flows {
				f.wantCut(when)
				f.knock()
			}
		}
	}
	r.wantNoMixture()
}

func TestConnectionsThatNobodyHasAcceptedYetAreCut(t *testing.T) {
	t.Parallel()
	r := engaged(t)
	listed := r.install("listed")
	server, host := r.start(listed), r.elsewhere(r.world.Internet)
	for i, anyone := range []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()} {
		l := r.listen(server, anyone)
		for _, from := range []side{inside, outside} {
			when := fmt.Sprintf("once its app is %v", !from)
			f := l.call(host, sources[from][i])
			f.wantOn(from, "before")
			r.move(listed, !from)
			if s, err := l.take(); err == nil {
				f.near = end{a: server, s: s}
				f.wantSilent(when)
			} else if !errors.Is(err, unix.EAGAIN) { // which says that it is not in the queue any more
				t.Errorf("%s %s: accept: %v", f.name, when, err)
			}
			l.accept(host, sources[!from][i]).lives("after a connection that had waited")
		}
	}
	r.wantNoMixture()
}
