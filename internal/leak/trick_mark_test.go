package leak_test

import (
	"encoding/binary"
	"fmt"
	"testing"

	"golang.org/x/sys/unix"

	"sidestep/internal/lab"
	"sidestep/internal/lab/actor"
)

// TestMarkOfAUsedSocketLeadsNowhere is about a program that may set marks and takes away the one that leads its open
// sockets outside, or sets one that leads into the tunnel. What is local goes on.
func TestMarkOfAUsedSocketLeadsNowhere(t *testing.T) {
	t.Parallel()
	r := newRig(t, lab.Options{})
	r.allowTricks()
	r.run()
	excluded, included := r.bothSides()
	host, lan := r.elsewhere(r.world.Internet), r.elsewhere(r.world.Router)
	for _, mark := range []uint32{0, tunnelMark} {
		when := fmt.Sprintf("with mark %#x", mark)
		value := binary.NativeEndian.AppendUint32(nil, mark)
		sensors, flows := r.allFlows(included, inside, host), r.allFlows(excluded, outside, host)
		local := r.dial(excluded, lan, addrs(lab.LAN4, lab.LAN6)...)
		for _, f := range append(append(sensors, flows...), local...) {
			f.lives("before")
			r.ok(f.near.a.SetSocketOption(r.ctx, f.near.s, unix.SOL_SOCKET, unix.SO_MARK, value))
		}
		for _, f := range sensors {
			f.lives("of an included program, " + when)
			f.wantOn(inside, "of an included program, "+when)
		}
		for _, f := range flows {
			_ = f.near.a.SendOn(r.ctx, f.near.s, f.near.to) // a connection takes it, and cannot send it
			r.wantNothing(inside, f.port)
		}
		for _, f := range local {
			if mark == 0 { // the other leads what is local into the tunnel, too
				f.lives(when)
			}
			r.wantNothing(inside, f.port)
		}
	}
	r.wantNoMixture()
}

// allFlows opens flows of every kind to the internet.
func (r *rig) allFlows(near *actor.Actor, s side, far *actor.Actor) []*flow {
	r.t.Helper()
	flows := r.dial(near, far, internet...)
	for i, socket := range r.sockets(near, unix.SOCK_DGRAM) {
		flows = append(flows, r.unconnected(near, socket, far, internet[i], sources[s][i]))
	}
	return flows
}
