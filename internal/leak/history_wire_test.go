package leak_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"sidestep/internal/lab"
)

// A place is where a peer is.
type place int

const (
	abroad   place = iota // on the internet
	nearby                // in a private network behind the machine's router
	loopback              // on the machine
)

func (p place) String() string { return [...]string{"the internet", "the LAN", "loopback"}[p] }

func (p place) local() bool { return p != abroad }

// A peer is the other end of a flow. But for loopback it has an address that no other flow has.
type peer struct {
	place
	at    netip.AddrPort
	trace *trace
}

func (p *peer) String() string { return fmt.Sprintf("%v on %v", p.at, p.place) }

// networks are the networks of peers in each place, by family.
var networks = map[place][2]netip.Prefix{
	abroad:   {netip.MustParsePrefix("11.0.0.0/8"), netip.MustParsePrefix("2001:db8:f000::/48")},
	nearby:   {netip.MustParsePrefix("10.128.0.0/9"), netip.MustParsePrefix("fd09:8::/48")},
	loopback: {netip.MustParsePrefix("127.0.0.1/32"), netip.MustParsePrefix("::1/128")},
}

// A trace is what the wires must show of a peer, and what they have shown.
type trace struct {
	what   string // the step it comes from
	wire   side
	proto  uint8
	want   uint64 // packets to it: of datagrams exactly so many, of a connection at least
	seen   uint64
	ending bool // it was cut since the wires were read
	over   bool // it was cut before that: nothing may come

	follows bool // it goes where the system's routes lead
}

// addNetworks makes whole networks addresses of the host on the internet, and of the router.
func (h *history) addNetworks() {
	h.t.Helper()
	gateways := map[*lab.Namespace][2]string{
		h.world.Router: {lab.Internet4, lab.Internet6}, h.world.VPN: {"198.18.0.2", "2001:db8:98::2"},
	}
	for i, p := range networks[abroad] {
		for n, gw := range gateways {
			h.ok(n.Do(func() error { return netlink.RouteReplace(&netlink.Route{Dst: ipNet(p), Gw: net.ParseIP(gw[i])}) }))
		}
		h.ok(h.world.Internet.Do(func() error { return ownNetwork(p) }))
	}
	for i, p := range networks[nearby] {
		h.ok(h.world.Router.Do(func() error { return ownNetwork(p) }))
		h.ok(h.world.Machine.Do(func() error { return addNearby(p, []string{lab.LAN4, lab.LAN6}[i]) }))
	}
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// ownNetwork makes every address of a network the calling thread's namespace's own.
func ownNetwork(p netip.Prefix) error {
	if err := setSysctl("ipv6/ip_nonlocal_bind", "1"); err != nil { // else no program could answer from there
		return err
	}
	return onLink("lo", func(l netlink.Link) error {
		return netlink.RouteReplace(&netlink.Route{
			Dst: ipNet(p), LinkIndex: l.Attrs().Index, Type: unix.RTN_LOCAL, Table: unix.RT_TABLE_LOCAL, Scope: netlink.SCOPE_HOST,
		})
	})
}

func addNearby(p netip.Prefix, router string) error {
	return onLink(lab.UplinkName, func(l netlink.Link) error {
		return netlink.RouteReplace(&netlink.Route{Dst: ipNet(p), Gw: net.ParseIP(router), LinkIndex: l.Attrs().Index})
	})
}

// newPeer makes up a peer for a socket, and its trace. The family is one that the socket speaks.
func (h *history) newPeer(s *sock, family int, where place, port uint16) *peer {
	addr := networks[where][family].Addr()
	if where == loopback {
		return &peer{where, s.dialect(addr, port), &trace{}}
	}
	h.peers++
	b := addr.AsSlice()
	for i, n := len(b)-1, h.peers; n > 0; i, n = i-1, n>>8 {
		b[i] |= byte(n)
	}
	addr, _ = netip.AddrFromSlice(b)
	t := &trace{proto: lab.UDP}
	if s.stream {
		t.proto = lab.TCP
	}
	h.traces[addr] = t
	return &peer{where, s.dialect(addr, port), t}
}

// dialect is an address as a socket takes it: IPv4 on an IPv6 socket is mapped.
func (s *sock) dialect(a netip.Addr, port uint16) netip.AddrPort {
	if s.v6 {
		a = netip.AddrFrom16(a.As16())
	}
	return netip.AddrPortFrom(a, port)
}

// family is 0 for a peer that is reached by IPv4, else 1.
func (p *peer) family() int {
	if p.at.Addr().Unmap().Is4() {
		return 0
	}
	return 1
}

// way is the wire that a packet takes which is sent on a side.
func (h *history) way(from side, to place) side {
	return from || to == nearby || side(h.down)
}

// expect has the wires show one more packet to a peer.
func (h *history) expect(p *peer, from side) {
	t := p.trace
	if p.place == loopback {
		return
	}
	t.what = h.told[len(h.told)-1]
	t.wire = h.way(from, p.place)
	t.follows = from == inside && !p.local()
	if t.proto == lab.UDP {
		t.want++
	} else {
		t.want = t.seen + 1
	}
	h.due = append(h.due, t)
}

// compare says how the wires differ from what the rules say.
func (h *history) compare() error {
	const patience = 200 // rounds, each of which sends markers and waits for them
	for i := range patience {
		h.settle()
		if err := h.look(); err != nil {
			return err
		}
		h.due = slices.DeleteFunc(h.due, func(t *trace) bool { return t.seen >= t.want && !t.ending })
		missing := slices.IndexFunc(h.due, func(t *trace) bool { return t.seen < t.want })
		if missing < 0 {
			break
		}
		if i == patience-1 {
			t := h.due[missing]
			return fmt.Errorf("%d packets are %v, want %d: %s", t.seen, t.wire, t.want, t.what)
		}
	}
	for _, t := range h.due {
		t.over = true
	}
	h.due = nil
	return nil
}

// look books what has passed on the wires since it was called last.
func (h *history) look() error {
	const forget = 4000 // flows
	for _, s := range []side{inside, outside} {
		now, err := h.wire(s).Flows()
		h.ok(err)
		for _, f := range now.Since(h.read[s]) {
			if t := h.traces[f.Dst]; t != nil && f.Direction == lab.Sent {
				if err := t.book(s, f); err != nil {
					return fmt.Errorf("%w: %v: %v: %s", err, s, f, t.what)
				}
			}
		}
		h.read[s] = now
		if len(now) > forget {
			h.ok(h.wire(s).Reset())
			h.read[s] = nil
		}
	}
	return nil
}

// book books packets of a trace that have passed on a side.
func (t *trace) book(s side, f lab.Flow) error {
	family := 0
	if f.Family == lab.IPv6 {
		family = 1
	}
	switch {
	case s != t.wire:
		return fmt.Errorf("want it %v", t.wire)
	case f.Src != sources[s][family]:
		return errors.New("it has the other side's address")
	case f.Proto == lab.ICMP || f.Proto == lab.ICMPv6: // the kernel's answer to what came too late
		return nil
	}
	t.seen += f.Packets
	switch {
	case f.Proto != t.proto:
		return fmt.Errorf("want protocol %d", t.proto)
	case t.over:
		return errors.New("it was cut")
	case t.want == 0 || t.proto == lab.UDP && t.seen > t.want:
		return fmt.Errorf("%d packets, want %d", t.seen, t.want)
	}
	return nil
}

// stray sends a datagram outside to a peer that is inside, or is nobody's.
func (h *history) stray() {
	h.t.Helper()
	for addr, t := range h.traces {
		if addr.Is4() && t.wire == inside {
			conn, err := h.world.Machine.Dial(h.ctx, "udp", netip.AddrPortFrom(addr, discard).String(), lab.Mark(lab.Fwmark))
			h.ok(err)
			_, err = conn.Write([]byte("stray"))
			h.ok(errors.Join(err, conn.Close()))
			return
		}
	}
}
