package leak_test

import (
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"sidestep/internal/lab/actor"
)

// TestMPTCPConnectionsAreCut is about connections whose packets the kernel's own sockets carry, to a host that speaks
// MPTCP and to one that does not.
func TestMPTCPConnectionsAreCut(t *testing.T) {
	t.Parallel()
	r := engaged(t)
	listed := r.install("listed")
	app, host := r.start(listed), r.elsewhere(r.world.Internet)
	var flows []*flow
	for _, protocol := range []int{unix.IPPROTO_TCP, unix.IPPROTO_MPTCP} {
		for i, at := range internet {
			f := r.expectBy(host, at, protocol)
			r.ok(f.connect(app, r.stream(app, speeches[i].domain, unix.IPPROTO_MPTCP)))
			f.lives("before")
			f.wantOn(inside, "before")
			flows = append(flows, f)
		}
	}
	r.exclude(listed)
	for _, f := range flows {
		r.settle()
		was := f.both()
		_ = app.SendOn(r.ctx, f.near.s, netip.AddrPort{}) // MPTCP may keep it, for a path that will not come
		r.settle()
		if now := f.both(); now != was {
			t.Errorf("%s: packets that left inside and outside were %d, and are %d", f.name, was, now)
		}
	}
	r.wantNoMixture()
}

// expectBy is expect for a listener of another protocol than TCP.
func (r *rig) expectBy(far *actor.Actor, host netip.Addr, protocol int) *flow {
	r.t.Helper()
	f := r.expect(actor.TCP, far, host)
	if protocol == unix.IPPROTO_TCP {
		return f
	}
	r.ok(far.CloseSocket(r.ctx, f.far.s))
	f.name = "MP" + f.name
	domain := unix.AF_INET6
	if host.Is4() {
		domain = unix.AF_INET
	}
	f.far.s = r.stream(far, domain, protocol)
	r.ok(far.Bind(r.ctx, f.far.s, f.at))
	r.ok(r.call(far, unix.SYS_LISTEN, int(f.far.s), 1))
	return f
}

// stream makes a socket for connections by some protocol.
func (r *rig) stream(a *actor.Actor, domain, protocol int) actor.Socket {
	r.t.Helper()
	s, err := a.Syscall(r.ctx, unix.SYS_SOCKET, domain, unix.SOCK_STREAM|unix.SOCK_NONBLOCK, protocol)
	r.ok(err)
	return actor.Socket(s)
}
