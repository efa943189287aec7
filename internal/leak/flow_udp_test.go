package leak_test

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"sidestep/internal/lab"
	"sidestep/internal/lab/actor"
)

// TestUnconnectedSocketIsBlockedWhileItsAppIsOnTheOtherSide is about UDP sockets that talk to many. They are not cut:
// what is local goes on, and everything does when the app comes back.
func TestUnconnectedSocketIsBlockedWhileItsAppIsOnTheOtherSide(t *testing.T) {
	t.Parallel()
	r := engaged(t)
	listed := r.install("listed")
	app, other := r.start(listed), r.start(r.install("other"))
	host, lan := r.elsewhere(r.world.Internet), r.elsewhere(r.world.Router)
	for _, from := range []side{inside, outside} {
		var remote, local []*flow
		for i, s := range r.sockets(app, unix.SOCK_DGRAM) {
			remote = append(remote, r.unconnected(app, s, host, internet[i], sources[from][i]))
			local = append(local,
				r.unconnected(app, s, lan, addrs(lab.LAN4, lab.LAN6)[i], sources[outside][i]),
				r.unconnected(app, s, other, addrs("127.0.0.1", "::1")[i], addrs("127.0.0.1", "::1")[i]))
		}
		for _, f := range append(remote, local...) {
			f.lives("before")
		}
		r.move(listed, !from)
		when := fmt.Sprintf("while its app is %v", !from)
		for _, f := range remote {
			f.wantBlocked(when, from)
		}
		for _, f := range local {
			f.lives(when)
			r.wantNothing(inside, f.port)
		}
		r.move(listed, from)
		for _, f := range append(remote, local...) {
			f.lives("when its app is back")
		}
		for _, f := range remote {
			f.wantOn(from, "when its app is back")
		}
		if from == inside {
			r.exclude(listed)
		}
	}
	r.wantNoMixture()
}

// sockets makes a socket of each family.
func (r *rig) sockets(a *actor.Actor, typ int) []actor.Socket {
	r.t.Helper()
	var made []actor.Socket
	for _, host := range internet {
		s, err := a.Socket(r.ctx, netip.AddrPortFrom(host, 0), typ)
		r.ok(err)
		made = append(made, s)
	}
	return made
}

// unconnected begins a flow on a socket that is not connected: it sends, and far gets to know its port. The address
// is what far must see.
func (r *rig) unconnected(near *actor.Actor, s actor.Socket, far *actor.Actor, host, from netip.Addr) *flow {
	r.t.Helper()
	f := r.expect(actor.UDP, far, host)
	f.near = end{a: near, s: s, to: f.at}
	r.ok(near.SendOn(r.ctx, s, f.at))
	local, err := near.LocalAddr(r.ctx, s)
	r.ok(err)
	f.far.to = netip.AddrPortFrom(from, local.Port())
	_, err = far.Receive(r.short(), f.far.s)
	r.ok(err)
	return f
}

// wantBlocked fails unless the program is not permitted to send, and does not get what is sent to it.
func (f *flow) wantBlocked(when string, from side) {
	f.t.Helper()
	if err := f.wantSilent(when); !errors.Is(err, unix.EPERM) {
		f.t.Errorf("%s %s: the program sends with error %v, want EPERM", f.name, when, err)
	}
	answers := lab.Match{Direction: lab.Received, SrcPort: f.port}
	n, err := f.wire(from).Count(answers)
	f.ok(err)
	f.ok(f.far.a.SendOn(f.ctx, f.far.s, f.far.to))
	f.ok(f.wire(from).Wait(f.short(), answers, n+1))
	f.settle()
	if got, err := f.peek(f.near); !errors.Is(err, unix.EAGAIN) {
		f.t.Errorf("%s %s: the program receives %q and error %v, want EAGAIN", f.name, when, got, err)
	}
}

// TestFreshSocketIsOnTheSideOfItsFirstUse is about sockets that were made before their app moved, and first used after.
func TestFreshSocketIsOnTheSideOfItsFirstUse(t *testing.T) {
	t.Parallel()
	r := engaged(t)
	listed := r.install("listed")
	app, host := r.start(listed), r.elsewhere(r.world.Internet)
	for _, from := range []side{inside, outside} {
		for _, f := range r.dial(app, host, internet...) {
			f.lives("before")
			f.wantOn(from, "before")
		}
		streams, datagrams := r.sockets(app, unix.SOCK_STREAM), r.sockets(app, unix.SOCK_DGRAM)
		unconnected := r.sockets(app, unix.SOCK_DGRAM)
		r.move(listed, !from)
		for i, at := range internet {
			tcp, udp := r.expect(actor.TCP, host, at), r.expect(actor.UDPConnected, host, at)
			r.ok(tcp.connect(app, streams[i]))
			r.ok(udp.connect(app, datagrams[i]))
			// Routing comes before the hook that moves the socket, so the first datagram is lost.
			if err := app.SendOn(r.ctx, unconnected[i], netip.AddrPortFrom(at, r.port())); !errors.Is(err, unix.EPERM) {
				t.Errorf("the first datagram of a socket made before: %v, want EPERM", err)
			}
			for _, f := range []*flow{tcp, udp, r.unconnected(app, unconnected[i], host, at, sources[!from][i])} {
				f.lives("on a socket made before")
				f.wantOn(!from, "on a socket made before")
			}
		}
	}
	r.wantNoMixture()
}

// TestBoundSocketStaysOnTheSideItWasMadeFor is about sockets that have a port, but no destination yet.
func TestBoundSocketStaysOnTheSideItWasMadeFor(t *testing.T) {
	t.Parallel()
	r := engaged(t)
	listed := r.install("listed")
	app, host, lan := r.start(listed), r.elsewhere(r.world.Internet), r.elsewhere(r.world.Router)
	kinds := map[actor.SocketKind]int{actor.TCP: unix.SOCK_STREAM, actor.UDPConnected: unix.SOCK_DGRAM}
	for _, from := range []side{inside, outside} {
		for kind, typ := range kinds {
			sensors, remote, local := r.bound(app, typ), r.bound(app, typ), r.bound(app, typ)
			for i, at := range internet {
				f := r.expect(kind, host, at)
				r.ok(f.connect(app, sensors[i]))
				f.lives("before")
				f.wantOn(from, "before")
			}
			r.move(listed, !from)
			for i, at := range internet {
				f := r.expect(kind, host, at)
				if err := f.connect(app, remote[i]); !errors.Is(err, unix.EPERM) {
					t.Errorf("%s: connect fails with %v, want EPERM", f.name, err)
				}
				r.wantNothing(inside, f.port)
				r.wantNothing(outside, f.port)
				f = r.expect(kind, lan, addrs(lab.LAN4, lab.LAN6)[i])
				r.ok(f.connect(app, local[i]))
				f.lives("to the LAN")
			}
			r.move(listed, from)
		}
		if from == inside {
			r.exclude(listed)
		}
	}
	r.wantNoMixture()
}

// bound makes a socket of each family that has a port.
func (r *rig) bound(a *actor.Actor, typ int) []actor.Socket {
	r.t.Helper()
	made := r.sockets(a, typ)
	for i, anyone := range addrs("0.0.0.0", "::") {
		r.ok(a.Bind(r.ctx, made[i], netip.AddrPortFrom(anyone, 0)))
	}
	return made
}

func TestDatagramSocketThatWasCutIsFreshAgain(t *testing.T) {
	t.Parallel()
	r := engaged(t)
	listed := r.install("listed")
	app, host := r.start(listed), r.elsewhere(r.world.Internet)
	sockets := r.sockets(app, unix.SOCK_DGRAM)
	for _, want := range []side{inside, outside, inside} {
		var flows []*flow
		for i, at := range internet {
			f := r.expect(actor.UDPConnected, host, at)
			r.ok(f.connect(app, sockets[i]))
			flows = append(flows, f)
			f.lives("on a socket that may have been cut before")
			f.wantOn(want, "on a socket that may have been cut before")
		}
		r.move(listed, !want)
		for _, f := range flows {
			f.wantCut(fmt.Sprintf("once its app is %v", !want))
		}
	}
	r.wantNoMixture()
}
