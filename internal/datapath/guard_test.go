//go:build !deaf

package datapath_test

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"sidestep/internal/datapath"
)

func TestAnAddressStaysOnItsSideUntilItIsSeenOnAnother(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	home, office, tunnel := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("10.64.0.2")
	permit := func(n datapath.Network, want map[netip.Addr]uint32, when string) {
		t.Helper()
		r.ok(r.Permit(n))
		got, err := r.Addresses()
		r.ok(err)
		if d := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{})); d != "" {
			t.Errorf("%s (-want +got):\n%s", when, d)
		}
	}
	const out, in = 1, 2
	all := map[netip.Addr]uint32{home: out, office: out, tunnel: in}
	permit(datapath.Network{Outside: []netip.Addr{home, office}, Inside: []netip.Addr{tunnel}}, all, "on an uplink and a tunnel")
	permit(datapath.Network{}, all, "with both gone")
	r.ok(r.Close())
	r.open()
	permit(datapath.Network{}, all, "adopted")
	permit(datapath.Network{Inside: []netip.Addr{home}, Neutral: []netip.Addr{office}},
		map[netip.Addr]uint32{home: in, tunnel: in}, "on a tunnel, and on both")
}
