package leak_test

import (
	"context"
	"net/netip"
	"time"

	"sidestep/internal/lab"
	"sidestep/internal/lab/actor"
)

// A side is one of the two ways out of the machine.
type side bool

const (
	inside  side = false
	outside side = true
)

func (s side) String() string {
	if s == outside {
		return "outside"
	}
	return "inside"
}

func (r *rig) wire(s side) *lab.Wire {
	if s == outside {
		return r.world.Wires().Uplink
	}
	return r.world.Wires().Tunnel
}

// short is for what has either happened or will not. Where loops are cut short, what happens takes longer.
func (r *rig) short() context.Context {
	limit := 3 * time.Second
	if *loops < 1 {
		limit *= 10
	}
	ctx, cancel := context.WithTimeout(r.ctx, limit)
	r.t.Cleanup(cancel)
	return ctx
}

// wantSide fails unless exactly n packets to the port have left on one side, and none on the other.
func (r *rig) wantSide(what string, port uint16, want side, n int) {
	r.t.Helper()
	m := lab.Match{Direction: lab.Sent, DstPort: port}
	_ = r.wire(want).Wait(r.short(), m, uint64(n)) // how many came is counted below
	r.settle()
	right, err := r.wire(want).Count(m)
	r.ok(err)
	wrong, err := r.wire(!want).Count(m)
	r.ok(err)
	if right != uint64(n) || wrong != 0 {
		r.t.Errorf("%s: %d packets %v and %d %v, want %d and 0", what, right, want, wrong, !want, n)
	}
}

// settle returns when every packet that was sent before the call has been counted: it sends one more each way, in the
// name of nobody, and waits for them. A way that does not exist has nothing to wait for.
func (r *rig) settle() {
	r.t.Helper()
	r.marker(outside, lab.Mark(lab.Fwmark))
	r.marker(inside)
}

func (r *rig) marker(s side, opts ...lab.SocketOption) {
	r.t.Helper()
	port := r.port()
	conn, err := r.world.Machine.Dial(r.ctx, "udp", internet4(port).String(), opts...)
	if err != nil {
		return
	}
	defer conn.Close()
	local := netip.MustParseAddrPort(conn.LocalAddr().String()).Addr().String()
	if local != map[side]string{inside: lab.Tunnel4, outside: lab.Machine4}[s] {
		return
	}
	if _, err := conn.Write([]byte("marker")); err != nil {
		return
	}
	r.ok(r.wire(s).Wait(r.short(), lab.Match{Direction: lab.Sent, DstPort: port}, 1))
}

// each is how many datagrams goes sends over each family: the first may be special, so there is a second.
const each = 2

// goes has the actor send datagrams over both families, and fails unless all took the side.
func (r *rig) goes(a *actor.Actor, want side, what string) {
	r.t.Helper()
	port := r.port()
	r.ok(a.Send(r.ctx, internet4(port), each))
	r.ok(a.Send(r.ctx, internet6(port), each))
	r.wantSide(what, port, want, 2*each)
}

// ends is goes as the last thing that the actor does.
func (r *rig) ends(a *actor.Actor, want side, what string) {
	r.t.Helper()
	r.goes(a, want, what)
	r.ok(a.Kill(r.ctx))
}
