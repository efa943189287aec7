// Package netmon reports what the network of this machine looks like: links, addresses, routes and rules.
//
// It is a sensor. A [Monitor] delivers whole [Snapshot] values, never single events: the first at once, the
// next whenever something differs. Snapshots are plain values without a kernel or third-party type in them,
// so that a plan made from one is a pure function and a test can write one down.
package netmon

import (
	"cmp"
	"net/netip"
	"slices"
)

// A Family is an address family; the zero value is neither.
type Family uint8

// The two families.
const (
	IPv4 Family = 4
	IPv6 Family = 6
)

// String returns "ipv4" or "ipv6".
func (f Family) String() string {
	switch f {
	case IPv4:
		return "ipv4"
	case IPv6:
		return "ipv6"
	}
	return "no family"
}

// Default returns the prefix that every address of the family matches.
func (f Family) Default() netip.Prefix {
	if f == IPv6 {
		return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	}
	return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
}

// FamilyOf returns the family of an address, IPv6 for a mapped one.
func FamilyOf(a netip.Addr) Family {
	switch {
	case a.Is4():
		return IPv4
	case a.Is6():
		return IPv6
	}
	return 0
}

// The tables the kernel names.
const (
	TableDefault uint32 = 253
	TableMain    uint32 = 254
	TableLocal   uint32 = 255
)

// A Snapshot is the state of one network namespace at one moment.
//
// Links, Addrs, Rules and Policies are sorted. Routes are sorted by family, table, prefix and metric; routes equal in
// all four keep the kernel's order, because the first one wins.
type Snapshot struct {
	Links  []Link
	Addrs  []Addr
	Routes []Route
	Rules  []Rule
	// Policies are there only for those who may list them (CAP_NET_ADMIN).
	Policies []Policy
	// RPFilterAll is net.ipv4.conf.all.rp_filter; the value in force on a link is the larger of the two.
	RPFilterAll int
}

// Equal reports whether two snapshots say the same.
func (s Snapshot) Equal(o Snapshot) bool {
	return s.RPFilterAll == o.RPFilterAll &&
		slices.Equal(s.Links, o.Links) &&
		slices.Equal(s.Addrs, o.Addrs) &&
		slices.Equal(s.Rules, o.Rules) &&
		slices.Equal(s.Policies, o.Policies) &&
		slices.EqualFunc(s.Routes, o.Routes, Route.Equal)
}

// Link returns the link with this index.
func (s Snapshot) Link(index int) (Link, bool) {
	return s.find(func(l Link) bool { return l.Index == index })
}

// LinkByName returns the link with this name.
func (s Snapshot) LinkByName(name string) (Link, bool) {
	return s.find(func(l Link) bool { return l.Name == name })
}

func (s Snapshot) find(match func(Link) bool) (Link, bool) {
	i := slices.IndexFunc(s.Links, match)
	if i < 0 {
		return Link{}, false
	}
	return s.Links[i], true
}

// sort brings what the kernel listed into the order that [Snapshot] promises.
func (s *Snapshot) sort() {
	slices.SortFunc(s.Links, func(a, b Link) int { return cmp.Compare(a.Index, b.Index) })
	slices.SortFunc(s.Addrs, func(a, b Addr) int {
		return cmp.Or(cmp.Compare(a.Link, b.Link), comparePrefix(a.Prefix, b.Prefix), a.Peer.Compare(b.Peer))
	})
	slices.SortStableFunc(s.Rules, func(a, b Rule) int {
		return cmp.Or(cmp.Compare(a.Family, b.Family), cmp.Compare(a.Priority, b.Priority))
	})
	slices.SortStableFunc(s.Routes, compareRoute)
	slices.SortFunc(s.Policies, func(a, b Policy) int {
		return cmp.Or(comparePrefix(a.Src, b.Src), comparePrefix(a.Dst, b.Dst), cmp.Compare(a.Interface, b.Interface),
			cmp.Compare(a.Mark, b.Mark), cmp.Compare(a.Mask, b.Mask))
	})
}

func compareRoute(a, b Route) int {
	return cmp.Or(cmp.Compare(a.Family(), b.Family()), cmp.Compare(a.Table, b.Table),
		comparePrefix(a.Dst, b.Dst), cmp.Compare(a.Metric, b.Metric))
}

func comparePrefix(a, b netip.Prefix) int {
	return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
}

// A Link is a network interface.
type Link struct {
	Index int
	Name  string
	// Kind is the driver's name for what it is ("wireguard", "tun", "ppp", "veth"); empty for hardware.
	Kind string
	// Up is administrative, Running means that there is a carrier.
	Up, Running            bool
	Loopback, PointToPoint bool
	// Master is the index of the bridge, bond or VRF it belongs to; 0 without one.
	Master int
	MTU    int
	// RPFilter is net.ipv4.conf.<link>.rp_filter: 0 off, 1 strict, 2 loose. See [Snapshot.RPFilterAll].
	RPFilter int
}

// An Addr is an address of a link, with the length of its on-link prefix.
type Addr struct {
	Link   int
	Prefix netip.Prefix
	// Peer is the other end of a point-to-point address; the zero Addr without one.
	Peer netip.Addr
	// Tentative addresses (IPv6) cannot be used yet.
	Tentative bool
}

// A RouteType says what a route does with a packet. The numbers are Linux's.
type RouteType uint8

// The route types there are.
const (
	Unicast     RouteType = 1
	Local       RouteType = 2
	Broadcast   RouteType = 3
	Anycast     RouteType = 4
	Multicast   RouteType = 5
	Blackhole   RouteType = 6
	Unreachable RouteType = 7
	Prohibit    RouteType = 8
	Throw       RouteType = 9
)

// A Route is one route of any table.
type Route struct {
	Table uint32
	Dst   netip.Prefix
	// From limits the route to packets with such a source (IPv6); the zero Prefix for all.
	From   netip.Prefix
	Type   RouteType
	Metric uint32
	// Protocol says who made the route (2 kernel, 3 boot, 4 static, 16 dhcp ...).
	Protocol uint8
	// Scope is how far away the destination is (0 global, 253 link, 254 host, 255 nowhere).
	Scope uint8
	TOS   uint8
	// Pref is the router preference of IPv6: -1 low, 0 medium, 1 high.
	Pref int8
	// Src is the preferred source address; the zero Addr without one.
	Src netip.Addr
	// Nexthops has one element for an ordinary route, several for a multipath one, none for a refusal.
	Nexthops []Nexthop
	// Metrics is the kernel's own encoding of MTU, window and the like: opaque, to be copied as it is.
	Metrics string
	// Encap is set if packets are wrapped (MPLS, segment routing), which this package does not describe.
	Encap bool
}

// Family returns the family of the destination.
func (r Route) Family() Family { return FamilyOf(r.Dst.Addr()) }

// Equal reports whether two routes say the same.
func (r Route) Equal(o Route) bool {
	return r.Table == o.Table && r.Dst == o.Dst && r.From == o.From && r.Type == o.Type && r.Metric == o.Metric &&
		r.Protocol == o.Protocol && r.Scope == o.Scope && r.TOS == o.TOS && r.Pref == o.Pref &&
		r.Src == o.Src && r.Metrics == o.Metrics && r.Encap == o.Encap &&
		slices.Equal(r.Nexthops, o.Nexthops)
}

// A Nexthop is a way out: a link and, if the destination is not on that link, a gateway.
type Nexthop struct {
	OIF int
	// Gateway may be of the other family (IPv4 through an IPv6 router); the zero Addr without one.
	Gateway netip.Addr
	// Weight is 1 unless a multipath route says more.
	Weight int
	// OnLink says that the gateway is on this link even if no route says so.
	OnLink bool
	// Dead nexthops are not used: their link is down.
	Dead bool
}

// A RuleAction says what a rule does with a packet that it matches. The numbers are Linux's.
type RuleAction uint8

// The rule actions there are.
const (
	Lookup          RuleAction = 1
	Goto            RuleAction = 2
	Nop             RuleAction = 3
	RuleBlackhole   RuleAction = 6
	RuleUnreachable RuleAction = 7
	RuleProhibit    RuleAction = 8
)

// A Rule says which table is asked for which packets.
type Rule struct {
	Family   Family
	Priority uint32
	Action   RuleAction
	// Table is asked by Lookup; 0 if the VRF decides (L3MDev).
	Table uint32
	// Target is the priority that Goto continues at.
	Target uint32
	// A packet matches if its mark under Mask is Mark; Mask 0 means any.
	Mark, Mask uint32
	// Invert turns the whole selector round ("not").
	Invert bool
	// SuppressPrefixLen ignores an answer whose prefix is this long or shorter; -1 (not 0!) means none.
	SuppressPrefixLen int
	// Src and Dst are the zero Prefix for "all".
	Src, Dst netip.Prefix
	IIF, OIF string
	L3MDev   bool
	// Narrow is set if the rule selects by more than the fields here: users, ports, protocol, TOS.
	Narrow   bool
	Protocol uint8
}

// A Policy is an IPsec policy that wraps what this machine sends, whatever the protocol. Others are not listed.
type Policy struct {
	Src, Dst netip.Prefix
	// Interface is the number of the XFRM interface it works for (if_id); 0 if it works on any link.
	Interface uint32
	// A packet matches if its mark under Mask is Mark; Mask 0 means any.
	Mark, Mask uint32
}
