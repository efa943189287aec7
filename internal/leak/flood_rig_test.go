package leak_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"sidestep/internal/lab"
	"sidestep/internal/lab/actor"
)

// A flood is a program that never stops to send, and whose every socket has a peer of its own.
type flood struct {
	*rig
	*actor.Flood
	path   string
	peers  [2]netip.Prefix // the addresses of the peers, in each family
	stray  trail           // what proves has sent on both sides
	closed map[trail]bool  // connections inside that were nobody's when the flood was excluded, each time
	pardon bool            // resets by nobody's socket are let pass, with the tunnel's address
	probes []probe
	stop   func()
}

// floodPorts are what the kinds of sockets send to. Somebody listens for connections only.
var floodPorts = map[actor.FloodKind]uint16{actor.FloodTCP: servicePort, actor.FloodUDP: 9, actor.FloodSendTo: 10}

// spells calls fn with a number, and with a download that runs meanwhile: once, or with -long five times, 0 to 4. In
// between it forgets what was on the wires: to read them takes the longer the more there was.
func (r *rig) spells(fn func(number int, d *download)) {
	r.t.Helper()
	n := 1
	if *long {
		n = 5
	}
	for i := range n {
		var cancel context.CancelFunc
		r.ctx, cancel = context.WithTimeout(r.t.Context(), 3*limit)
		d := r.download()
		fn(i, d)
		d.finish()
		cancel()
		r.ok(r.wire(inside).Reset())
		r.ok(r.wire(outside).Reset())
	}
}

// flood starts a flood that it installs at a name in the rig's directory, and shows that it is seen on the wires. The
// number tells the floods of a world apart.
func (r *rig) flood(name string, number int) *flood {
	r.t.Helper()
	f := &flood{rig: r, path: r.at(name), probes: r.probes(), closed: map[trail]bool{}}
	f.peers[0] = netip.MustParsePrefix(fmt.Sprintf("%d.0.0.0/8", 11+number%100))
	f.peers[1] = netip.MustParsePrefix(fmt.Sprintf("2001:db8:f%03x::/48", number%100))
	var lines []actor.FloodLine
	for i, p := range f.peers {
		r.internetHas(p, []string{lab.Internet4, lab.Internet6}[i], []string{"198.18.0.2", "2001:db8:98::2"}[i])
		for kind, port := range floodPorts {
			lines = append(lines, actor.FloodLine{Kind: kind, To: netip.AddrPortFrom(p.Addr(), port)})
		}
	}
	r.ok(actor.InstallFlood(f.path))
	var err error
	f.Flood, err = actor.StartFlood(f.path, lines, r.world.Machine.Start)
	r.ok(err)
	f.stop = sync.OnceFunc(func() { r.ok(f.Stop()) })
	r.t.Cleanup(f.stop)
	f.proves()
	return f
}

// internetHas makes a whole network addresses of the host on the internet, and has the router and the VPN server send
// it there.
func (r *rig) internetHas(p netip.Prefix, router, server string) {
	r.t.Helper()
	to := &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
	for via, n := range map[string]*lab.Namespace{router: r.world.Router, server: r.world.VPN} {
		r.ok(n.Do(func() error { return netlink.RouteReplace(&netlink.Route{Dst: to, Gw: net.ParseIP(via)}) }))
	}
	r.ok(r.world.Internet.Do(func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		local := &netlink.Route{Dst: to, LinkIndex: lo.Attrs().Index, Type: unix.RTN_LOCAL, Table: unix.RT_TABLE_LOCAL}
		local.Scope = netlink.SCOPE_HOST
		return netlink.RouteReplace(local)
	}))
}

// proves shows that the sensors work: the flood is seen inside, of each kind and over both families, and a socket that
// sends on both sides is found.
func (f *flood) proves() {
	f.t.Helper()
	f.appears(inside)
	f.wantNoMore(outside, nil, "a flood that nobody has excluded")
	last := f.peers[0].Addr().As4()
	last[1], last[2], last[3] = 255, 255, 255
	f.stray = trail{lab.UDP, netip.AddrPortFrom(netip.AddrFrom4(last), 9)}
	f.ok(f.world.Machine.Do(func() error { return sendBothWays(f.stray.peer) }))
	if in, out := f.crossed(); len(in) != 1 || in[f.stray].packets != 1 || out[f.stray].packets != 1 {
		f.t.Errorf("one socket has sent a datagram on each side, and the sensor sees %v inside and %v outside", in, out)
	}
	f.provesClosed()
}

// provesClosed shows that a connection whose peer does not answer is let pass once nobody holds it, and not before.
func (f *flood) provesClosed() {
	f.t.Helper()
	peer := trail{lab.TCP, netip.AddrPortFrom(f.stray.peer.Addr(), servicePort)}
	conn, err := f.world.Machine.Dial(f.ctx, "tcp", peer.peer.String())
	f.ok(err)
	_, err = bufio.NewReader(conn).ReadString('\n') // closed with something to read, it would be reset
	f.ok(err)
	to := &net.IPNet{IP: peer.peer.Addr().AsSlice(), Mask: net.CIDRMask(32, 32)}
	nowhere := &netlink.Route{Dst: to, Type: unix.RTN_BLACKHOLE}
	f.ok(f.world.VPN.Do(func() error { return netlink.RouteAdd(nowhere) }))
	before := f.sentInside()
	_, err = io.WriteString(conn, "unanswered")
	f.ok(err)
	f.wait("a connection that is held to be seen", func() bool { return f.more(inside, before)[peer] != load{} })
	f.ok(conn.Close())
	f.wait("the connection to be nobody's", func() bool { // children of other tests hold it until they execute something
		before = f.sentInside()
		return f.closed[peer]
	})
	f.ok(f.world.VPN.Do(func() error { return netlink.RouteDel(nowhere) }))
	f.wait("a connection that is closed to go on", func() bool { return counted(f.sent(inside).Since(before))[peer] != load{} })
	if got := f.more(inside, before)[peer]; got != (load{}) {
		f.t.Errorf("the sensor finds %+v of a connection that is nobody's", got)
	}
}

// sentInside returns what a flood that has just been excluded has sent inside so far. From here on it sends no more there.
// What it had closed before is nobody's: such connections end in the tunnel (docs/limits.md), and are not looked for.
func (f *flood) sentInside() lab.Flows {
	f.t.Helper()
	f.ok(f.world.Machine.Do(func() error {
		for i, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
			sockets, err := netlink.SocketDiagTCP(family)
			if err != nil {
				return fmt.Errorf("list connections: %w", err)
			}
			for _, s := range sockets {
				if s.INode == 0 && s.ID.Source.Equal(sources[inside][i].AsSlice()) {
					peer, _ := netip.AddrFromSlice(s.ID.Destination)
					f.closed[trail{lab.TCP, netip.AddrPortFrom(peer.Unmap(), s.ID.DestinationPort)}] = true
				}
			}
		}
		return nil
	}))
	f.drain()
	return f.sent(inside)
}

// appears waits until the flood is seen on a side, of each kind and over both families.
func (f *flood) appears(s side) {
	f.t.Helper()
	before := f.sent(s)
	f.wait(fmt.Sprintf("the flood to be seen %v", s), func() bool {
		kinds := map[netip.AddrPort]bool{}
		for t := range f.more(s, before) {
			family := netip.IPv4Unspecified()
			if t.peer.Addr().Is6() {
				family = netip.IPv6Unspecified()
			}
			kinds[netip.AddrPortFrom(family, t.peer.Port())] = true
		}
		return len(kinds) == 2*len(floodPorts)
	})
}

// sendBothWays sends a datagram inside, and another one outside from the same socket.
func sendBothWays(to netip.AddrPort) error {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(s)
	for _, mark := range []int{0, lab.Fwmark} {
		err := unix.SetsockoptInt(s, unix.SOL_SOCKET, unix.SO_MARK, mark)
		if err == nil {
			err = unix.Sendto(s, []byte("stray"), 0, &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()})
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// wantNoMore fails if anything has left on a side since an earlier look.
func (f *flood) wantNoMore(s side, earlier lab.Flows, what string) bool {
	f.t.Helper()
	f.drain()
	c := f.more(s, earlier)
	if len(c) != 0 {
		f.t.Errorf("%s is %v: %v", what, s, c)
	}
	return len(c) == 0
}

// end stops the flood, and fails if a flow has ever left on both sides.
func (f *flood) end() {
	f.t.Helper()
	f.wantNoneCrossed("at the end")
	f.stop()
}

// wantNoneCrossed fails if a flow has left on both sides so far.
func (f *flood) wantNoneCrossed(when string) {
	f.t.Helper()
	in, out := f.crossed()
	maps.DeleteFunc(in, func(t trail, _ load) bool { return t == f.stray || f.closed[t] })
	if len(in) != 0 {
		f.t.Fatalf("%s: flows on both sides; inside: %v; outside: %v", when, in, out)
	}
}

// rounds waits until every thread of the flood has tried all its sockets n times.
func (f *flood) rounds(n uint64) {
	f.t.Helper()
	before, err := f.Tallies()
	f.ok(err)
	f.wait("the flood to go on", func() bool {
		now, err := f.Tallies()
		f.ok(err)
		for i := range now {
			if now[i].Rounds <= before[i].Rounds+n { // the first was under way
				return false
			}
		}
		return true
	})
}
