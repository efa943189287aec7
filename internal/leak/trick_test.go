package leak_test

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"sidestep/internal/lab"
	"sidestep/internal/lab/actor"
)

// A door is a link that a program may try to leave by.
type door struct {
	link  string
	index int
	addrs [2]netip.Addr // the machine's, on it
	mark  uint32        // that leads there, by somebody's rule
}

// tunnelMark is a mark that a rule of the user leads to the tunnel.
const tunnelMark = 0x77

// A speech is how a program speaks IP.
type speech struct {
	name   string
	domain int
	i      int  // in a door's addresses
	mapped bool // IPv4, on a socket for IPv6
}

var speeches = []speech{
	{"IPv4", unix.AF_INET, 0, false},
	{"IPv6", unix.AF_INET6, 1, false},
	{"IPv4 on an IPv6 socket", unix.AF_INET6, 0, true},
}

// nowhere are addresses where nobody is, on the internet. Only tries go there.
var nowhere = addrs("203.0.113.77", "2001:db8:99::77")

// A try is a program's attempt to have a socket's packets leave by a door.
type try struct {
	*rig
	speech
	by      door
	kind    kind
	a       *actor.Actor
	s       actor.Socket
	to      netip.AddrPort
	control []byte // goes with every datagram
}

// addr is an address as the try's sockets know it.
func (t *try) addr(a netip.Addr, port uint16) netip.AddrPort {
	if t.mapped {
		a = netip.AddrFrom16(a.As16())
	}
	return netip.AddrPortFrom(a, port)
}

// An outcome is what came of a try.
type outcome struct {
	err             error
	inside, outside uint64 // packets that left
	mixed           uint64 // those that left by one link with the address of the other
}

// try has an actor try to send to an address by a door.
func (r *rig) try(a *actor.Actor, d door, f speech, to netip.Addr, k kind, w way) outcome {
	r.t.Helper()
	t := &try{rig: r, speech: f, by: d, kind: k, a: a}
	t.to = t.addr(to, r.port())
	s, err := a.Syscall(r.ctx, unix.SYS_SOCKET, f.domain, k.typ|unix.SOCK_NONBLOCK, k.protocol[f.i])
	if err != nil {
		return outcome{err: err}
	}
	t.s = actor.Socket(s)
	err = w.prepare(t)
	if err != nil {
		r.ok(a.CloseSocket(r.ctx, t.s))
		return outcome{err: err}
	}
	o := t.sends()
	r.ok(a.CloseSocket(r.ctx, t.s))
	return o
}

// sends has the program send, and returns its error and what has left for the address.
func (t *try) sends() outcome {
	t.t.Helper()
	t.settle()
	before := t.seen(t.to.Addr())
	err := t.kind.send(t)
	t.settle()
	o := t.seen(t.to.Addr())
	return outcome{err, o.inside - before.inside, o.outside - before.outside, o.mixed - before.mixed}
}

// seen counts the packets that have left for an address.
func (r *rig) seen(to netip.Addr) (o outcome) {
	r.t.Helper()
	to = to.Unmap().WithZone("")
	for s, n := range map[side]*uint64{inside: &o.inside, outside: &o.outside} {
		flows, err := r.wire(s).Flows()
		r.ok(err)
		*n = flows.Count(lab.Match{Direction: lab.Sent, Dst: to})
		for _, src := range sources[!s] {
			o.mixed += flows.Count(lab.Match{Direction: lab.Sent, Dst: to, Src: src})
		}
	}
	return o
}

// door finds a link of the machine.
func (r *rig) door(link string, s side) door {
	r.t.Helper()
	return door{link, r.index(link), sources[s], tunnelMark}
}

// allowTricks lets everybody ping, and leads a mark to the tunnel.
func (r *rig) allowTricks() {
	r.t.Helper()
	r.ok(r.world.Machine.Do(func() error {
		var errs []error
		for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
			rule := netlink.NewRule()
			rule.Family, rule.Mark, rule.Table, rule.Priority = family, tunnelMark, lab.Fwmark, 50
			errs = append(errs, netlink.RuleAdd(rule))
		}
		return errors.Join(append(errs, setSysctl("ipv4/ping_group_range", "0 2147483647"))...)
	}))
}

// TestNoSocketOfAnExcludedProgramIsLedIntoTheTunnel tries every way to name a link or an address with every kind of
// socket. An included program goes into the tunnel with it, which shows that the try is one.
func TestNoSocketOfAnExcludedProgramIsLedIntoTheTunnel(t *testing.T) {
	t.Parallel()
	r := newRig(t, lab.Options{})
	r.allowTricks()
	r.run()
	excluded, included := r.bothSides()
	tunnel := r.door(lab.TunnelName, inside)
	for _, f := range speeches {
		for _, k := range kinds {
			for _, w := range ways {
				if !w.applies(f, k) {
					continue
				}
				t.Run(f.name+", "+k.name+", "+w.name, func(t *testing.T) {
					r := r.sub(t)
					sensor := r.try(included, tunnel, f, nowhere[f.i], k, w)
					sensor.wantInside(t, k)
					o := r.try(excluded, tunnel, f, nowhere[f.i], k, w)
					o.wantNotInside(t)
					if w.refusal != nil && w.refusal(k) != nil && !errors.Is(o.err, w.refusal(k)) {
						t.Errorf("an excluded program gets error %v, want %v", o.err, w.refusal(k))
					}
				})
			}
		}
	}
}

// bothSides starts a program that is excluded, and one that is not.
func (r *rig) bothSides() (excluded, included *actor.Actor) {
	r.t.Helper()
	listed := r.install("listed")
	r.exclude(listed)
	return r.start(listed), r.start(r.install("other"))
}

// wantInside fails unless an included program has sent into the tunnel: that is the sensor.
func (o outcome) wantInside(t *testing.T, k kind) {
	t.Helper()
	if errors.Is(o.err, unix.EPROTONOSUPPORT) {
		t.Skipf("this kernel has no %s", k.name)
	}
	if o.err != nil || o.inside == 0 {
		t.Errorf("an included program sends %d packets inside, with error %v, want some and none", o.inside, o.err)
	}
}

// wantNotInside fails if an excluded program has.
func (o outcome) wantNotInside(t *testing.T) {
	t.Helper()
	if o.inside != 0 || o.mixed != 0 {
		t.Errorf("an excluded program sends %d packets inside, %d with the tunnel's address, want none", o.inside, o.mixed)
	}
}

func TestExcludedProgramsGetNoMPTCP(t *testing.T) {
	t.Parallel()
	r := engaged(t)
	excluded, included := r.bothSides()
	k := kind{name: "MPTCP", typ: unix.SOCK_STREAM, protocol: twice(unix.IPPROTO_MPTCP), send: (*try).connect}
	for _, f := range speeches {
		t.Run(f.name, func(t *testing.T) {
			r := r.sub(t)
			r.try(included, door{}, f, nowhere[f.i], k, plain).wantInside(t, k)
			o := r.try(excluded, door{}, f, nowhere[f.i], k, plain)
			o.wantNotInside(t)
			if !errors.Is(o.err, unix.EPROTONOSUPPORT) {
				t.Errorf("an excluded program gets error %v, want EPROTONOSUPPORT", o.err)
			}
		})
	}
}
