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

// A flow is an open socket of an actor on the machine, and whoever is at the other end.
type flow struct {
	*rig
	name      string
	kind      actor.SocketKind
	at        netip.AddrPort // where near connects to
	near, far end
	port      uint16 // at one of the ends; no other flow has it
}

// An end is a socket of an actor.
type end struct {
	a  *actor.Actor
	s  actor.Socket
	to netip.AddrPort // the other end, for a datagram socket that is not connected
}

// internet are the addresses of the host on the internet.
var internet = []netip.Addr{netip.MustParseAddr(lab.Internet4), netip.MustParseAddr(lab.Internet6)}

// elsewhere starts an actor in another namespace than the machine's.
func (r *rig) elsewhere(n *lab.Namespace) *actor.Actor {
	r.t.Helper()
	a, err := r.stage.Start(r.ctx, r.install("elsewhere"), actor.Options{Start: n.Start})
	r.ok(err)
	return a
}

// dial opens a flow from near to a new port of far's, at each of far's addresses, by TCP and by UDP.
func (r *rig) dial(near, far *actor.Actor, hosts ...netip.Addr) []*flow {
	r.t.Helper()
	var flows []*flow
	for _, host := range hosts {
		flows = append(flows, r.open(actor.TCP, near, far, host), r.open(actor.UDPConnected, near, far, host))
	}
	return flows
}

// open opens one flow from near to far.
func (r *rig) open(kind actor.SocketKind, near, far *actor.Actor, host netip.Addr) *flow {
	r.t.Helper()
	return r.openScoped(kind, near, far, host, host)
}

// openScoped is open for an address that has a zone: to as near knows it, at as far does.
func (r *rig) openScoped(kind actor.SocketKind, near, far *actor.Actor, to, at netip.Addr) *flow {
	r.t.Helper()
	f := r.expect(kind, far, at)
	f.at = netip.AddrPortFrom(to, f.port)
	s, err := near.Socket(r.ctx, f.at, f.socketType())
	r.ok(err)
	r.ok(f.connect(near, s))
	return f
}

// expect makes the far end of a flow, which waits for the near one.
func (r *rig) expect(kind actor.SocketKind, far *actor.Actor, host netip.Addr) *flow {
	r.t.Helper()
	at := netip.AddrPortFrom(host, r.port())
	f := &flow{rig: r, kind: kind, at: at, port: at.Port(), far: end{a: far}}
	var err error
	if kind == actor.TCP {
		f.name = fmt.Sprint("TCP to ", at)
		f.far.s, err = far.ListenTCP(r.ctx, at)
		r.ok(err)
		return f
	}
	f.name = fmt.Sprint("UDP to ", at)
	f.far.s, err = far.Open(r.ctx, actor.UDP, at)
	r.ok(err)
	r.ok(far.Bind(r.ctx, f.far.s, at))
	return f
}

func (f *flow) socketType() int {
	if f.kind == actor.TCP {
		return unix.SOCK_STREAM
	}
	return unix.SOCK_DGRAM
}

// connect connects a socket of near to the far end that waits.
func (f *flow) connect(near *actor.Actor, s actor.Socket) error {
	f.t.Helper()
	err := near.ConnectSocket(f.short(), s, f.at)
	if err == nil {
		f.meet(near, s)
	}
	return err
}

// meet is for a socket of near that is connected to the far end.
func (f *flow) meet(near *actor.Actor, s actor.Socket) {
	f.t.Helper()
	f.near = end{a: near, s: s}
	if f.kind == actor.TCP {
		accepted, err := f.far.a.Accept(f.short(), f.far.s)
		f.ok(err)
		f.ok(f.far.a.CloseSocket(f.ctx, f.far.s))
		f.far.s = accepted
		return
	}
	local, err := near.LocalAddr(f.ctx, s)
	f.ok(err)
	at, err := f.far.a.LocalAddr(f.ctx, f.far.s)
	f.ok(err)
	f.far.to = netip.AddrPortFrom(local.Addr().WithZone(at.Addr().Zone()), local.Port())
}

// move excludes the app, or includes it.
func (r *rig) move(app string, to side) {
	r.t.Helper()
	if to == outside {
		r.exclude(app)
	} else {
		r.include(app)
	}
}

// lives fails unless bytes pass both ways.
func (f *flow) lives(when string) {
	f.t.Helper()
	for _, way := range [][2]end{{f.near, f.far}, {f.far, f.near}} {
		if err := f.carry(way[0], way[1]); err != nil {
			f.t.Errorf("%s %s: %v", f.name, when, err)
		}
	}
}

// carry sends bytes from one end to another.
func (r *rig) carry(from, to end) error {
	ctx := r.short()
	if err := from.a.SendOn(ctx, from.s, from.to); err != nil {
		return err
	}
	got, err := to.a.Receive(ctx, to.s)
	if err == nil && len(got) == 0 {
		err = errors.New("the other end has closed")
	}
	return err
}

// peek receives what is there, without waiting.
func (r *rig) peek(e end) ([]byte, error) {
	b := make([]byte, 8<<10)
	n, err := e.a.Syscall(r.ctx, unix.SYS_RECVFROM, int(e.s), b, len(b), unix.MSG_DONTWAIT, 0, 0)
	if err != nil {
		return nil, err
	}
	return b[:n], nil
}

// sent is what has left the machine on a side to or from the flow's port.
func (f *flow) sent(s side) (packets, bytes uint64) {
	f.t.Helper()
	flows, err := f.wire(s).Flows()
	f.ok(err)
	for _, w := range flows {
		if w.Direction == lab.Sent && (w.DstPort == f.port || w.SrcPort == f.port) {
			packets += w.Packets
			bytes += w.Bytes
		}
	}
	return packets, bytes
}

// wantOn fails unless the flow's packets have left on one side, and none on the other.
func (f *flow) wantOn(want side, when string) {
	f.t.Helper()
	f.settle()
	right, _ := f.sent(want)
	wrong, _ := f.sent(!want)
	if right == 0 || wrong != 0 {
		f.t.Errorf("%s %s: %d packets %v and %d %v, want some and none", f.name, when, right, want, wrong, !want)
	}
}

// wantCut fails unless the flow is over, and the other end of a connection has been told.
func (f *flow) wantCut(when string) {
	f.t.Helper()
	f.wantAborted(when)
	if f.kind != actor.TCP {
		return
	}
	if got, err := f.far.a.Receive(f.short(), f.far.s); !errors.Is(err, unix.ECONNRESET) {
		f.t.Errorf("%s %s: the other end receives %q and error %v, want ECONNRESET", f.name, when, got, err)
	}
}

// wantAborted fails unless the program has been told that the flow is over, and nothing that it sends leaves any more.
func (f *flow) wantAborted(when string) {
	f.t.Helper()
	if got, err := f.peek(f.near); !errors.Is(err, unix.ECONNABORTED) {
		f.t.Errorf("%s %s: the program receives %q and error %v, want ECONNABORTED", f.name, when, got, err)
	}
	f.wantSilent(when)
}

// knock has the other end send on a flow that is over: the kernel answers, and whose address it answers with is for
// wantNoMixture.
func (f *flow) knock() {
	f.t.Helper()
	_ = f.far.a.SendOn(f.ctx, f.far.s, f.far.to) // it may have heard of the end
	f.settle()
}

// wantSilent fails if the program can send, or if a packet leaves when it tries. It returns what the program is told.
func (f *flow) wantSilent(when string) error {
	f.t.Helper()
	f.settle()
	was := f.both()
	err := f.near.a.SendOn(f.ctx, f.near.s, f.near.to)
	if err == nil {
		f.t.Errorf("%s %s: the program can send", f.name, when)
	}
	f.settle()
	if now := f.both(); now != was {
		f.t.Errorf("%s %s: packets that left inside and outside were %d, and are %d", f.name, when, was, now)
	}
	return err
}

// both is how many of the flow's packets have left inside, and outside.
func (f *flow) both() (n [2]uint64) {
	f.t.Helper()
	n[0], _ = f.sent(inside)
	n[1], _ = f.sent(outside)
	return n
}

// wantNoMixture fails if one of the machine's addresses has been seen on the other's side.
func (r *rig) wantNoMixture() {
	r.t.Helper()
	r.settle()
	for _, s := range []side{inside, outside} {
		for _, addr := range sources[!s] {
			n, err := r.wire(s).Count(lab.Match{Direction: lab.Sent, Src: addr})
			r.ok(err)
			if n != 0 {
				r.t.Errorf("%d packets left %v with the address %v, want none", n, s, addr)
			}
		}
	}
}

func TestOpenFlowsAreCutWhenTheirAppChangesSides(t *testing.T) {
	t.Parallel()
	r := engaged(t)
	listed, always := r.install("listed"), r.install("always")
	r.exclude(always)
	near, far := r.start(listed), r.elsewhere(r.world.Internet)
	others := map[side][]*flow{
		inside:  r.dial(r.start(r.install("never")), far, internet...),
		outside: r.dial(r.start(always), far, internet...),
	}
	for _, from := range []side{inside, outside, inside, outside} {
		flows := r.dial(near, far, internet...)
		for _, f := range flows {
			f.lives("before")
			f.wantOn(from, "before")
		}
		r.move(listed, !from)
		for _, f := range flows {
			f.wantCut(fmt.Sprintf("once its app is %v", !from))
			f.knock()
		}
		for s, flows := range others {
			for _, f := range flows {
				f.lives("of another app")
				f.wantOn(s, "of another app")
			}
		}
	}
	r.wantNoMixture()
}

func TestIdleFlowsAreCutWhenTheirAppChangesSides(t *testing.T) {
	t.Parallel()
	r := engaged(t)
	listed := r.install("listed")
	near, far := r.start(listed), r.elsewhere(r.world.Internet)
	for _, from := range []side{inside, outside} {
		flows := r.dial(near, far, internet...)
		used := r.open(actor.TCP, near, far, internet[0])
		used.lives("before")
		used.wantOn(from, "before")
		r.move(listed, !from)
		for _, f := range flows {
			f.wantCut(fmt.Sprintf("once its app is %v", !from))
		}
	}
	r.wantNoMixture()
}

// TestFlowsOfAllTheProcessesOfAnAppAreCut has descendants of every sort, and many sockets.
func TestFlowsOfAllTheProcessesOfAnAppAreCut(t *testing.T) {
	t.Parallel()
	r := engaged(t)
	listed := r.install("listed")
	kin := r.kin(listed, r.install("other"))
	crowd, far := r.start(listed), r.elsewhere(r.world.Internet)
	for _, from := range []side{inside, outside} {
		var flows []*flow
		for name, a := range kin {
			for _, f := range r.dial(a, far, internet...) {
				f.name = name + ": " + f.name
				f.lives("before")
				f.wantOn(from, "before")
				flows = append(flows, f)
			}
		}
		many := r.many(crowd, 100)
		r.move(listed, !from)
		for i, s := range many {
			err, get := crowd.SocketOption(r.ctx, s, unix.SOL_SOCKET, unix.SO_ERROR)
			if r.ok(get); unix.Errno(err) != unix.ECONNABORTED {
				t.Errorf("socket %d of many: error %v, want ECONNABORTED", i, unix.Errno(err))
			}
			r.ok(crowd.CloseSocket(r.ctx, s))
		}
		for _, f := range flows {
			f.wantCut(fmt.Sprintf("once its app is %v", !from))
		}
	}
	r.wantNoMixture()
}

// many opens n sockets of each sort.
func (r *rig) many(a *actor.Actor, n int) []actor.Socket {
	r.t.Helper()
	var sockets []actor.Socket
	for _, host := range internet {
		for _, kind := range []actor.SocketKind{actor.TCP, actor.UDPConnected} {
			for range n {
				s, err := a.Open(r.ctx, kind, netip.AddrPortFrom(host, servicePort))
				r.ok(err)
				sockets = append(sockets, s)
			}
		}
	}
	return sockets
}
