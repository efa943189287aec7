package leak_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"sidestep"
	"sidestep/api"
	"sidestep/internal/datapath"
	"sidestep/internal/doctor"
	"sidestep/internal/lab"
	"sidestep/internal/lab/actor"
	"sidestep/internal/lab/labtest"
)

// setStrict switches strict mode of a running engine.
func (r *rig) setStrict(e *sidestep.Engine, on bool) {
	r.t.Helper()
	err := e.Reload(r.ctx, sidestep.Options{State: r.state, Strict: on})
	if on {
		r.needStrict(err)
	}
	r.ok(err)
}

// needStrict skips the test where the kernel cannot do strict mode, and the engine has said so.
func (r *rig) needStrict(err error) {
	r.t.Helper()
	lacks := doctor.Offers("bpf_get_netns_cookie (guard)") != nil
	if refused := errors.Is(err, datapath.ErrStrict); refused != lacks {
		r.t.Fatalf("strict mode refused: %t (%v), though the kernel's lack of what it needs is: %t", refused, err, lacks)
	}
	if lacks {
		labtest.Skip(r.t, fmt.Sprintf("this kernel has no way to do it: %v", err))
	}
}

// byUplink are the ways to leave by the uplink that are not for the privileged alone.
func byUplink() []way {
	return slices.DeleteFunc(slices.Clone(ways), func(w way) bool { return strings.HasPrefix(w.name, "SO_MARK") })
}

// TestStrictModeKeepsIncludedProgramsOffTheUplink tries every way with every kind of socket, without strict mode and with
// it. Both that a packet leaves by the uplink and that one has its address in the tunnel is a leak.
func TestStrictModeKeepsIncludedProgramsOffTheUplink(t *testing.T) {
	t.Parallel()
	r := newRig(t, lab.Options{})
	r.allowTricks()
	e, _ := r.engage(sidestep.Options{})
	program, uplink := r.start(r.install("program")), r.door(lab.UplinkName, outside)
	leaks := func() map[string]uint64 {
		found := map[string]uint64{}
		for _, f := range speeches {
			for _, k := range kinds {
				for _, w := range byUplink() {
					if !w.applies(f, k) {
						continue
					}
					o := r.try(program, uplink, f, nowhere[f.i], k, w)
					found[f.name+", "+k.name+", "+w.name] = o.outside + o.mixed
				}
			}
		}
		return found
	}
	before := leaks()
	for _, f := range speeches {
		for _, k := range kinds {
			if before[f.name+", "+k.name+", SO_BINDTODEVICE"] == 0 && (k.mapped || !f.mapped) {
				t.Errorf("%s, %s: nothing leaves by the uplink without strict mode", f.name, k.name)
			}
		}
	}
	r.setStrict(e, true)
	for name, n := range leaks() {
		if n != 0 {
			t.Errorf("%s: %d packets leave by the uplink, or with its address, in strict mode", name, n)
		}
	}
}

// TestStrictModeLeavesEverybodyElseAlone is about what goes on as if there were no strict mode.
func TestStrictModeLeavesEverybodyElseAlone(t *testing.T) {
	t.Parallel()
	r := newRig(t, lab.Options{})
	r.engage(sidestep.Options{Strict: true})
	excluded, included := r.bothSides()
	for _, c := range []struct {
		name string
		a    *actor.Actor
		to   []netip.Addr
		from [2]netip.Addr
	}{
		{"an included program, through the tunnel", included, internet, sources[inside]},
		{"an included program on the LAN", included, addrs(lab.LAN4, lab.LAN6), sources[outside]},
		{"an included program in the tunnel", included, addrs(lab.TunnelHost4, lab.TunnelHost6), sources[inside]},
		{"an excluded program", excluded, internet, sources[outside]},
		{"an excluded program on the LAN", excluded, addrs(lab.LAN4, lab.LAN6), sources[outside]},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := r.sub(t)
			for i, to := range c.to {
				for _, kind := range []actor.SocketKind{actor.TCP, actor.UDPConnected} {
					r.echo(c.a, kind, netip.AddrPortFrom(to, servicePort), c.from[i])
				}
			}
		})
	}
	for _, f := range r.dial(included, excluded, addrs("127.0.0.1", "::1", lab.Machine4, lab.Machine6)...) {
		f.lives("on the machine")
	}
	for _, f := range r.dial(r.elsewhere(r.world.Router), included, addrs(lab.Machine4, lab.Machine6)...) {
		f.lives("from the LAN")
	}
}

// TestStrictModeKnowsWhoIsMeantToLeave is about a VPN's transport, which carries somebody's mark, and about a host that
// has a route of its own outside.
func TestStrictModeKnowsWhoIsMeantToLeave(t *testing.T) {
	t.Parallel()
	r := newRig(t, lab.Options{})
	e, _ := r.engage(sidestep.Options{})
	program, host := r.start(r.install("program")), r.elsewhere(r.world.Internet)
	marked := func(at netip.Addr) uint64 {
		return r.leave(program, unix.SO_MARK, binary.NativeEndian.AppendUint32(nil, lab.Fwmark), host, at)
	}
	bound := func(at netip.Addr) uint64 {
		return r.leave(program, unix.SO_BINDTODEVICE, []byte(lab.UplinkName), host, at)
	}
	for _, strict := range []bool{false, true} {
		r.setStrict(e, strict)
		for _, at := range internet {
			if marked(at) == 0 {
				t.Errorf("strict %v: nothing with the tunnel's mark leaves by the uplink to %v", strict, at)
			}
			if n := bound(at); strict == (n != 0) {
				t.Errorf("strict %v: %d packets of a socket that is bound to the uplink leave to %v", strict, n, at)
			}
		}
	}
	r.ok(r.world.Machine.Do(func() error {
		return onLink(lab.UplinkName, func(l netlink.Link) error {
			return errors.Join(addRoute(l, lab.Internet4+"/32", lab.LAN4), addRoute(l, lab.Internet6+"/128", lab.LAN6))
		})
	}))
	for _, at := range internet {
		r.wait("the engine to hear of the route", func() bool { return bound(at) != 0 })
		for _, f := range r.dial(program, host, at) {
			f.lives("to a host with a route of its own")
			f.wantOn(outside, "to a host with a route of its own")
		}
	}
}

// leave sends on a socket that has an option, and returns how many packets have left by the uplink.
func (r *rig) leave(a *actor.Actor, option int, value []byte, host *actor.Actor, at netip.Addr) uint64 {
	r.t.Helper()
	f := r.expect(actor.UDPConnected, host, at)
	s, err := a.Socket(r.ctx, f.at, unix.SOCK_DGRAM)
	r.ok(err)
	r.ok(a.SetSocketOption(r.ctx, s, unix.SOL_SOCKET, option, value))
	r.ok(f.connect(a, s))
	_ = a.SendOn(r.ctx, s, netip.AddrPort{}) // counted
	r.settle()
	n, _ := f.sent(outside)
	return n
}

// TestStrictModeCutsWhatWasOpenedBeforeTheTunnel lets a tunnel come up over open connections.
func TestStrictModeCutsWhatWasOpenedBeforeTheTunnel(t *testing.T) {
	t.Parallel()
	for name, strict := range map[string]bool{"sensor: not strict": false, "strict": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, lab.Options{NoTunnel: true})
			r.engage(sidestep.Options{Strict: strict})
			excluded, program := r.bothSides()
			host, lan := r.elsewhere(r.world.Internet), r.elsewhere(r.world.Router)
			flows, others := r.dial(program, host, internet...), r.dial(excluded, host, internet...)
			others = append(others, r.dial(program, lan, addrs(lab.LAN4, lab.LAN6)...)...)
			for _, f := range append(flows, others...) {
				f.lives("before the tunnel is there")
				f.wantOn(outside, "before the tunnel is there")
			}
			r.ok(r.world.TunnelUp(r.ctx))
			r.wait("the engine to be engaged", func() bool { return r.status().State == api.Engaged })
			for _, f := range flows {
				if strict {
					f.wantOver("once the tunnel is there")
					continue
				}
				r.ok(f.near.a.SendOn(r.ctx, f.near.s, f.near.to))
				r.ok(r.wire(inside).Wait(r.short(), lab.Match{Direction: lab.Sent, DstPort: f.port}, 1))
			}
			for _, f := range others {
				f.lives("once the tunnel is there")
				f.wantOn(outside, "once the tunnel is there")
			}
			if strict {
				r.wantNoMixture()
			}
		})
	}
}

// wantOver is wantAborted for a connection, whose other end strict mode does not let anybody tell; of datagrams, it is
// enough that none leaves.
func (f *flow) wantOver(when string) {
	f.t.Helper()
	if f.kind == actor.TCP {
		f.wantAborted(when)
		return
	}
	f.settle()
	was := f.both()
	_ = f.near.a.SendOn(f.ctx, f.near.s, f.near.to) // counted
	f.settle()
	if now := f.both(); now != was {
		f.t.Errorf("%s %s: packets that left inside and outside were %d, and are %d", f.name, when, was, now)
	}
}

// TestStrictModeThatIsSwitchedOnCutsWhatIsOpen is the same for a tunnel that was there.
func TestStrictModeThatIsSwitchedOnCutsWhatIsOpen(t *testing.T) {
	t.Parallel()
	r := newRig(t, lab.Options{})
	e, _ := r.engage(sidestep.Options{})
	program, host := r.start(r.install("program")), r.elsewhere(r.world.Internet)
	bound := func() []*flow {
		var flows []*flow
		for _, at := range internet {
			for _, kind := range []actor.SocketKind{actor.TCP, actor.UDPConnected} {
				f := r.expect(kind, host, at)
				s, err := program.Socket(r.ctx, f.at, f.socketType())
				r.ok(err)
				r.ok(program.SetSocketOption(r.ctx, s, unix.SOL_SOCKET, unix.SO_BINDTODEVICE, []byte(lab.UplinkName)))
				r.ok(f.connect(program, s))
				f.lives("without strict mode")
				f.wantOn(outside, "without strict mode")
				flows = append(flows, f)
			}
		}
		return flows
	}
	flows, tunnelled := bound(), r.dial(program, host, internet...)
	r.setStrict(e, true)
	for _, f := range flows {
		f.wantOver("in strict mode")
	}
	for _, f := range tunnelled {
		f.lives("through the tunnel, in strict mode")
		f.wantOn(inside, "through the tunnel, in strict mode")
	}
	r.setStrict(e, false)
	bound()
	r.setStrict(e, true)
	r.ok(r.world.TunnelDown())
	r.wait("the engine to miss the tunnel", func() bool { return r.status().State == api.Ready })
	for _, f := range r.dial(program, host, internet...) {
		f.lives("without a tunnel")
		f.wantOn(outside, "without a tunnel")
	}
}

// TestStrictModeKeepsTheInternetOffIncludedServers is about the other direction.
func TestStrictModeKeepsTheInternetOffIncludedServers(t *testing.T) {
	t.Parallel()
	r := newRig(t, lab.Options{})
	e, _ := r.engage(sidestep.Options{})
	server := r.start(r.install("server"))
	host, lan := r.elsewhere(r.world.Internet), r.elsewhere(r.world.Router)
	for i, anyone := range addrs("0.0.0.0", "::") {
		r.setStrict(e, false)
		l := r.serve(server, anyone)
		l.ask(host, sources[outside][i])
		if _, err := server.Receive(r.short(), l.s); err != nil {
			t.Errorf("%v: without strict mode the server receives error %v", anyone, err)
		}
		r.setStrict(e, true)
		l.ask(host, sources[outside][i])
		l.wantAnswer(lan, sources[outside][i]) // which came after
		l.wantAnswer(host, sources[inside][i])
		if got, err := r.peek(end{a: server, s: l.s}); !errors.Is(err, unix.EAGAIN) {
			t.Errorf("%v: in strict mode the server receives %q and error %v, want nothing", anyone, got, err)
		}
	}
	r.wantNoMixture()
}
