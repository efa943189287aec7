package leak_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"sidestep/api"
	"sidestep/internal/lab"
	"sidestep/internal/lab/actor"
)

// servicePort is one of those that the lab's services answer on.
const servicePort = 7000

// sources are the machine's addresses on each side.
var sources = map[side][2]netip.Addr{
	inside:  {netip.MustParseAddr(lab.Tunnel4), netip.MustParseAddr(lab.Tunnel6)},
	outside: {netip.MustParseAddr(lab.Machine4), netip.MustParseAddr(lab.Machine6)},
}

func TestConnectionsOfExcludedProgramsWorkBothWays(t *testing.T) {
	t.Parallel()
	r := engaged(t)
	listed := r.install("listed")
	a := r.start(listed)
	talk := func(want side) {
		t.Helper()
		for i, to := range []netip.AddrPort{internet4(servicePort), internet6(servicePort)} {
			for _, kind := range []actor.SocketKind{actor.TCP, actor.UDPConnected} {
				r.echo(a, kind, to, sources[want][i])
			}
			r.resolve(a, netip.AddrPortFrom(to.Addr(), 53), sources[want][i])
		}
	}
	talk(inside)
	r.wantNothing(outside, servicePort, 53)
	r.exclude(listed)
	r.ok(r.world.Wires().Tunnel.Reset())
	talk(outside)
	r.wantNothing(inside, servicePort, 53)
}

// wantNothing fails if a packet to or from one of these ports has passed on a side.
func (r *rig) wantNothing(s side, ports ...uint16) {
	r.t.Helper()
	r.settle()
	for _, p := range ports {
		for _, m := range []lab.Match{{DstPort: p}, {SrcPort: p}} {
			n, err := r.wire(s).Count(m)
			r.ok(err)
			if n != 0 {
				r.t.Errorf("%d packets %v with %+v, want none", n, s, m)
			}
		}
	}
}

// echo talks to a lab service, and fails unless both ends know the actor by the address from.
func (r *rig) echo(a *actor.Actor, kind actor.SocketKind, to netip.AddrPort, from netip.Addr) {
	r.t.Helper()
	s, err := a.Open(r.ctx, kind, to)
	r.ok(err)
	local, err := a.LocalAddr(r.ctx, s)
	r.ok(err)
	if local.Addr() != from {
		r.t.Errorf("getsockname of a socket to %v says %v, want %v", to, local.Addr(), from)
	}
	r.ok(a.SendOn(r.ctx, s, netip.AddrPort{}))
	var got []byte
	greeting := local.String() + "\n"
	for len(got) < len(greeting)+16 { // a datagram has 16 bytes
		b, err := a.Receive(r.ctx, s)
		r.ok(err)
		if len(b) == 0 {
			break
		}
		got = append(got, b...)
	}
	if !strings.HasPrefix(string(got), greeting) {
		r.t.Errorf("%v says %q, want %q and an echo", to, got, greeting)
	}
	r.ok(a.CloseSocket(r.ctx, s))
}

// resolve asks a name server who asks, and fails unless it is from.
func (r *rig) resolve(a *actor.Actor, server netip.AddrPort, from netip.Addr) {
	r.t.Helper()
	question, err := new(dns.Msg).SetQuestion("whoami.test.", dns.TypeTXT).Pack()
	r.ok(err)
	s, err := a.Open(r.ctx, actor.UDPConnected, server)
	r.ok(err)
	_, err = a.Syscall(r.ctx, unix.SYS_SENDTO, int(s), question, len(question), 0, 0, 0)
	r.ok(err)
	b, err := a.Receive(r.ctx, s)
	r.ok(err)
	var reply dns.Msg
	r.ok(reply.Unpack(b))
	if len(reply.Answer) != 1 || !strings.Contains(reply.Answer[0].String(), `"`+from.String()+`"`) {
		r.t.Errorf("the name server answers %v, want %v", reply.Answer, from)
	}
	r.ok(a.CloseSocket(r.ctx, s))
}

func TestWithoutIPv6UplinkExcludedProgramsFailAtOnce(t *testing.T) {
	t.Parallel()
	r := newRig(t, lab.Options{NoUplink6: true})
	r.run()
	listed := r.install("listed")
	a := r.start(listed)
	port := r.port()
	r.ok(a.Send(r.ctx, internet6(port), each))
	r.wantSide("IPv6 before it is excluded", port, inside, each)
	r.exclude(listed)
	r.wantUnreachable(a, internet6(r.port()))
	port = r.port()
	r.ok(a.Send(r.ctx, internet4(port), each))
	r.wantSide("IPv4", port, outside, each)
}

// wantUnreachable fails unless the network is unreachable at an address, at once, and nothing left.
func (r *rig) wantUnreachable(a *actor.Actor, to netip.AddrPort) {
	r.t.Helper()
	began := time.Now()
	if err := a.Send(r.ctx, to, 1); !errors.Is(err, unix.ENETUNREACH) {
		r.t.Errorf("a datagram to %v: got error %v, want %v", to, err, unix.ENETUNREACH)
	}
	if _, err := a.Connect(r.ctx, to); !errors.Is(err, unix.ENETUNREACH) {
		r.t.Errorf("a connection to %v: got error %v, want %v", to, err, unix.ENETUNREACH)
	}
	if took := time.Since(began); took > 2*time.Second {
		r.t.Errorf("it took %v to fail, want at once", took)
	}
	r.wantNothing(inside, to.Port())
	r.wantNothing(outside, to.Port())
}

func TestWithoutUplinkExcludedProgramsFail(t *testing.T) {
	t.Parallel()
	r := engaged(t)
	listed := r.install("listed")
	a := r.start(listed)
	r.goes(a, inside, "before it is excluded")
	r.exclude(listed)
	r.goes(a, outside, "with the uplink")
	r.ok(r.world.UplinkDown())
	for range 10 { // while the engine hears of it
		r.wantUnreachable(a, internet4(r.port()))
		r.wantUnreachable(a, internet6(r.port()))
	}
	r.wait("the engine to miss the uplink", func() bool { return r.status().Uplink == api.Uplink{} })
	r.wantUnreachable(a, internet4(r.port()))
	r.wantUnreachable(a, internet6(r.port()))
	r.ok(r.world.UplinkUp(r.ctx))
	r.wait("the engine to see the uplink", func() bool { return r.status().Uplink == api.Uplink{IPv4: "eth0", IPv6: "eth0"} })
	r.goes(a, outside, "with the uplink again")
}

func TestLoopbackJoinsExcludedAndIncludedPrograms(t *testing.T) {
	t.Parallel()
	r := engaged(t)
	listed, other := r.install("listed"), r.install("other")
	r.exclude(listed)
	x, n := r.start(listed), r.start(other)
	r.goes(x, outside, "an excluded program") // the sensor of both sides
	r.goes(n, inside, "an included program")
	for _, host := range []string{"127.0.0.1", "::1", lab.Machine4, lab.Machine6, lab.Tunnel4, lab.Tunnel6} {
		for _, pair := range []struct {
			name           string
			server, client *actor.Actor
		}{{"to an excluded one", x, n}, {"to an included one", n, x}, {"both excluded", x, x}} {
			if pair.server == x && slices.Contains([]string{lab.Tunnel4, lab.Tunnel6}, host) {
				continue // an excluded server can't have the tunnel's address
			}
			r.t.Run(fmt.Sprintf("%s %s", host, pair.name), func(t *testing.T) {
				r := r.sub(t)
				at := netip.AddrPortFrom(netip.MustParseAddr(host), r.port())
				r.joinTCP(pair.server, pair.client, at)
				r.joinUDP(pair.server, pair.client, at)
				r.wantNothing(inside, at.Port())
				r.wantNothing(outside, at.Port())
			})
		}
	}
}

// joinTCP has a client talk to a server over a connection, both ways.
func (r *rig) joinTCP(server, client *actor.Actor, at netip.AddrPort) {
	r.t.Helper()
	l, err := server.ListenTCP(r.ctx, at)
	r.ok(err)
	c, err := client.Open(r.ctx, actor.TCP, at)
	r.ok(err)
	s, err := server.Accept(r.ctx, l)
	r.ok(err)
	r.pass(client, c, server, s, netip.AddrPort{})
	r.pass(server, s, client, c, netip.AddrPort{})
	for _, end := range []actor.Socket{s, l} {
		r.ok(server.CloseSocket(r.ctx, end))
	}
	r.ok(client.CloseSocket(r.ctx, c))
}

// joinUDP has a client send a datagram to a server, and get one back.
func (r *rig) joinUDP(server, client *actor.Actor, at netip.AddrPort) {
	r.t.Helper()
	s, err := server.Open(r.ctx, actor.UDP, at)
	r.ok(err)
	r.ok(server.Bind(r.ctx, s, at))
	c, err := client.Open(r.ctx, actor.UDPConnected, at)
	r.ok(err)
	from, err := client.LocalAddr(r.ctx, c)
	r.ok(err)
	r.pass(client, c, server, s, netip.AddrPort{})
	r.pass(server, s, client, c, from)
	r.ok(server.CloseSocket(r.ctx, s))
	r.ok(client.CloseSocket(r.ctx, c))
}

// pass sends one datagram's worth of bytes from one socket to another.
func (r *rig) pass(from *actor.Actor, s actor.Socket, to *actor.Actor, d actor.Socket, addr netip.AddrPort) {
	r.t.Helper()
	r.ok(from.SendOn(r.ctx, s, addr))
	got, err := to.Receive(r.ctx, d)
	r.ok(err)
	if len(got) != 16 {
		r.t.Errorf("got %d bytes, want 16", len(got))
	}
}

func TestExcludedProgramsReachTheLAN(t *testing.T) {
	t.Parallel()
	r := engaged(t)
	listed := r.install("listed")
	a := r.start(listed)
	r.goes(a, inside, "before it is excluded")
	r.exclude(listed)
	for i, host := range []string{lab.LAN4, lab.LAN6} {
		to := netip.AddrPortFrom(netip.MustParseAddr(host), servicePort)
		r.echo(a, actor.TCP, to, sources[outside][i])
		r.echo(a, actor.UDPConnected, to, sources[outside][i])
	}
	r.wantNothing(inside, servicePort)
}

func TestExcludedServersAreReachedByTheUplink(t *testing.T) {
	t.Parallel()
	r := engaged(t)
	listed := r.install("listed")
	client, err := r.stage.Start(r.ctx, r.install("client"), actor.Options{Start: r.world.Internet.Start})
	r.ok(err)
	server := r.start(listed)
	for _, s := range []side{inside, outside} {
		for _, addr := range sources[s] {
			at := netip.AddrPortFrom(addr, r.port())
			r.joinTCP(server, client, at)
			r.joinUDP(server, client, at)
			r.wantNothing(!s, at.Port())
		}
		if s == inside {
			r.exclude(listed)
		}
	}
}

// TestConnectionsOutsideNeverHaveTheTunnelsAddress is about the moment in which the uplink has a route and no address: the
// kernel then takes whatever address the machine has.
func TestConnectionsOutsideNeverHaveTheTunnelsAddress(t *testing.T) {
	t.Parallel()
	r := engaged(t)
	listed := r.install("listed")
	r.exclude(listed)
	a := r.start(listed)
	r.goes(a, outside, "with an address")
	r.ok(r.world.Machine.Do(func() error {
		return onLink(lab.UplinkName, func(l netlink.Link) error {
			return errors.Join(dropGlobal(l), routeBy(l, "192.0.2.0/24", ""), routeBy(l, "2001:db8:1::/64", ""),
				routeBy(l, "0.0.0.0/0", lab.LAN4), routeBy(l, "::/0", lab.LAN6))
		})
	}))
	for i := range internet {
		r.wait("the sensor: a connection of the tunnel's transport", func() bool {
			return 0 < r.spoofed(i, func(to netip.AddrPort) {
				ctx, cancel := context.WithTimeout(r.ctx, 50*time.Millisecond)
				defer cancel()
				if conn, err := r.world.Machine.Dial(ctx, "tcp", to.String(), lab.Mark(lab.Fwmark)); err == nil {
					r.ok(conn.Close())
				}
			})
		})
		r.wait("the guard to stop a connection", func() bool {
			before := r.status().Counters["guard_dropped_source"]
			n := r.spoofed(i, func(to netip.AddrPort) { r.knock(a, to) })
			if n != 0 {
				t.Errorf("%d packets to %v have left by the uplink with the tunnel's address", n, internet[i])
			}
			return n != 0 || r.status().Counters["guard_dropped_source"] > before
		})
	}
}

// spoofed counts what leaves by the uplink with the tunnel's address when somebody connects to the internet.
func (r *rig) spoofed(family int, connect func(to netip.AddrPort)) uint64 {
	r.t.Helper()
	to := netip.AddrPortFrom(internet[family], r.port())
	connect(to)
	r.settle()
	n, err := r.wire(outside).Count(lab.Match{
		Direction: lab.Sent, Proto: lab.TCP, Src: sources[inside][family], DstPort: to.Port(),
	})
	r.ok(err)
	return n
}

// knock begins a connection, and does not wait for what becomes of it.
func (r *rig) knock(a *actor.Actor, to netip.AddrPort) {
	r.t.Helper()
	s, err := a.Socket(r.ctx, to, unix.SOCK_STREAM)
	r.ok(err)
	sa := actor.Sockaddr(to)
	_, _ = a.Syscall(r.ctx, unix.SYS_CONNECT, int(s), sa, len(sa)) // goes on by itself, and is counted
	r.ok(a.CloseSocket(r.ctx, s))
}

// dropGlobal takes a link its addresses, but those that belong to the link itself.
func dropGlobal(l netlink.Link) error {
	all, err := netlink.AddrList(l, netlink.FAMILY_ALL)
	for _, a := range all {
		if !a.IP.IsLinkLocalUnicast() {
			err = errors.Join(err, netlink.AddrDel(l, &a))
		}
	}
	return err
}

// routeBy sends a network to a link, or to a router there.
func routeBy(l netlink.Link, to, via string) error {
	_, dst, err := net.ParseCIDR(to)
	if err != nil {
		return err
	}
	r := &netlink.Route{Dst: dst, Gw: net.ParseIP(via), LinkIndex: l.Attrs().Index}
	if via == "" {
		r.Scope = netlink.SCOPE_LINK
	}
	if err := netlink.RouteReplace(r); err != nil {
		return fmt.Errorf("%v: %w", r, err)
	}
	return nil
}
