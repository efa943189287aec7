package netmon

import (
	"net/netip"
	"testing"
)

// The messages in these tests are written by hand after linux/rtnetlink.h and linux/fib_rules.h, for a
// little-endian machine and without netlink headers.

func TestDecodeRule(t *testing.T) {
	m := []byte{
		2, 0, 0, 0, 252, 0, 0, 1, 2, 0, 0, 0, // IPv4, table in an attribute, lookup, inverted
		8, 0, 15, 0, 0x6c, 0xca, 0, 0, // table 51820
		8, 0, 14, 0, 0xff, 0xff, 0xff, 0xff, // no suppress_prefixlength
		8, 0, 6, 0, 0xfd, 0x7f, 0, 0, // priority 32765
		8, 0, 10, 0, 0x6c, 0xca, 0, 0, // mark
		8, 0, 16, 0, 0xff, 0xff, 0xff, 0xff, // mask
		5, 0, 21, 0, 3, 0, 0, 0, // protocol
	}
	got, err := decodeRule(m)
	if err != nil {
		t.Fatal(err)
	}
	want := "ipv4 32765: not from all fwmark 0xca6c lookup 51820 proto 3"
	if got.String() != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestDecodeMultipathRoute(t *testing.T) {
	m := []byte{
		2, 8, 0, 0, 254, 4, 0, 1, 0, 0, 0, 0, // 8 bits, main, static
		8, 0, 15, 0, 254, 0, 0, 0, // table
		8, 0, 1, 0, 10, 0, 0, 0, // to
		36, 0, 9, 0,
		16, 0, 4, 2, 3, 0, 0, 0, 8, 0, 5, 0, 192, 168, 1, 1, // onlink, weight 3, link 3
		16, 0, 1, 0, 4, 0, 0, 0, 8, 0, 5, 0, 192, 168, 2, 1, // dead, weight 1, link 4
	}
	got, err := decodeRoute(m)
	if err != nil {
		t.Fatal(err)
	}
	want := Route{
		Table: TableMain, Dst: netip.MustParsePrefix("10.0.0.0/8"), Type: Unicast, Protocol: 4,
		Nexthops: []Nexthop{
			{OIF: 3, Gateway: netip.MustParseAddr("192.168.1.1"), Weight: 3, OnLink: true},
			{OIF: 4, Gateway: netip.MustParseAddr("192.168.2.1"), Weight: 1, Dead: true},
		},
	}
	if !got.Equal(want) {
		t.Errorf("got  %s\nwant %s", got.Text(nil), want.Text(nil))
	}
}

func TestDecodeTooShort(t *testing.T) {
	for name, err := range map[string]error{
		"link":    second(decodeLink([]byte{0})),
		"address": second(decodeAddr([]byte{2})),
		"rule":    second(decodeRule([]byte{2})),
		"route":   second(decodeRoute(nil)),
	} {
		if want := "decode " + name + ": message too short"; err == nil || err.Error() != want {
			t.Errorf("error = %v, want %s", err, want)
		}
	}
}

func second[T any](_ T, err error) error { return err }

// FuzzDecode: whatever comes, nothing panics, and what was decoded can be written.
func FuzzDecode(f *testing.F) {
	f.Add([]byte{2, 8, 0, 0, 254, 4, 0, 1, 0, 0, 0, 0, 8, 0, 1, 0, 10, 0, 0, 0})
	f.Add([]byte{10, 0, 0, 0, 254, 4, 0, 1, 0, 0, 0, 0, 20, 0, 9, 0, 16, 0, 0, 0, 3, 0, 0, 0, 8, 0, 5, 0, 1, 2, 3, 4})
	f.Fuzz(func(t *testing.T, m []byte) {
		link, _ := decodeLink(m)
		_, _ = decodeAddr(m)
		rule, _ := decodeRule(m)
		route, _ := decodeRoute(m)
		_, _, _ = decodeRPFilter(m)
		_, _ = rule.String(), route.Text(nil)
		var s Snapshot
		s.Links, s.Rules, s.Routes = []Link{link, {}}, []Rule{rule, {}}, []Route{route, {}}
		s.sort()
		if !s.Equal(s) {
			t.Error("a snapshot differs from itself")
		}
	})
}

func TestRouteText(t *testing.T) {
	gw := netip.MustParseAddr("192.168.1.1")
	names := func(index int) string { return map[int]string{3: "eth0", 4: "eth1"}[index] }
	routes := map[string]Route{
		"ipv4 default via 192.168.1.1 dev eth0 table main proto 16 metric 100": {
			Table: TableMain, Dst: IPv4.Default(), Type: Unicast, Protocol: 16, Metric: 100,
			Nexthops: []Nexthop{{OIF: 3, Gateway: gw, Weight: 1}},
		},
		"ipv6 unreachable default table 7 proto 83 metric 9": {
			Table: 7, Dst: IPv6.Default(), Type: Unreachable, Protocol: 83, Metric: 9,
		},
		"ipv4 10.0.0.1 table main proto 4 nexthop via 192.168.1.1 dev eth0 weight 2 nexthop dev eth1 weight 1": {
			Table: TableMain, Dst: netip.MustParsePrefix("10.0.0.1/32"), Type: Unicast, Protocol: 4,
			Nexthops: []Nexthop{{OIF: 3, Gateway: gw, Weight: 2}, {OIF: 4, Weight: 1}},
		},
	}
	for want, r := range routes {
		if got := r.Text(names); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
}

func TestRuleText(t *testing.T) {
	rules := map[string]Rule{
		"ipv6 90: from all fwmark 0x10000000/0x70000000 lookup 28416 proto 83": {
			Family: IPv6, Priority: 90, Action: Lookup, Table: 28416, Mark: 1 << 28, Mask: 7 << 28,
			SuppressPrefixLen: -1, Protocol: 83,
		},
		"ipv4 1: from 10.0.0.0/8 to 10.1.0.0/16 iif lo oif eth0 ... goto 9": {
			Family: IPv4, Priority: 1, Action: Goto, Target: 9, Src: netip.MustParsePrefix("10.0.0.0/8"),
			Dst: netip.MustParsePrefix("10.1.0.0/16"), IIF: "lo", OIF: "eth0", Narrow: true, SuppressPrefixLen: -1,
		},
		"ipv4 1000: from all lookup [l3mdev-table]": {
			Family: IPv4, Priority: 1000, Action: Lookup, L3MDev: true, SuppressPrefixLen: -1,
		},
		"ipv4 32764: from all lookup main suppress_prefixlength 0": {
			Family: IPv4, Priority: 32764, Action: Lookup, Table: TableMain,
		},
	}
	for want, r := range rules {
		if got := r.String(); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
}
