package netmon

import (
	"net"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// wrapping returns a policy that puts packets into an ESP tunnel, to be changed by the test.
func wrapping(t *testing.T, src, dst string) *netlink.XfrmPolicy {
	t.Helper()
	_, from, err := net.ParseCIDR(src)
	check(t, err)
	_, to, err := net.ParseCIDR(dst)
	check(t, err)
	return &netlink.XfrmPolicy{
		Src: from, Dst: to, Dir: netlink.XFRM_DIR_OUT,
		Tmpls: []netlink.XfrmPolicyTmpl{{
			Src: net.ParseIP("192.0.2.1"), Dst: net.ParseIP("192.0.2.9"),
			Proto: netlink.XFRM_PROTO_ESP, Mode: netlink.XFRM_MODE_TUNNEL,
		}},
	}
}

func TestReaderListsThePoliciesThatWrapWhatIsSent(t *testing.T) {
	b := newBench(t)
	if b.monitor.reader.sockets[unix.NETLINK_XFRM] == nil {
		t.Skip("this kernel has no IPsec")
	}
	ipsec, err := netlink.NewHandle(unix.NETLINK_XFRM)
	check(t, err)
	t.Cleanup(ipsec.Close)
	all := wrapping(t, "10.3.0.1/32", "0.0.0.0/0")
	six := wrapping(t, "2001:db8::1/128", "2000::/3")
	bound := wrapping(t, "0.0.0.0/0", "0.0.0.0/0")
	bound.Ifid = 42
	marked := wrapping(t, "10.3.0.1/32", "10.0.0.0/8")
	marked.Mark = &netlink.XfrmMark{Value: 1, Mask: 3}
	received := wrapping(t, "10.4.0.0/16", "10.3.0.1/32")
	received.Dir = netlink.XFRM_DIR_IN
	bypass := wrapping(t, "0.0.0.0/0", "192.168.1.0/24")
	bypass.Tmpls = nil
	block := wrapping(t, "10.3.0.1/32", "10.5.0.0/16")
	block.Action = netlink.XFRM_POLICY_BLOCK
	narrow := wrapping(t, "192.0.2.1/32", "192.0.2.9/32")
	narrow.Proto = unix.IPPROTO_UDP
	for _, p := range []*netlink.XfrmPolicy{all, six, bound, marked, received, bypass, block, narrow} {
		check(t, ipsec.XfrmPolicyAdd(p))
	}
	s, err := b.monitor.Snapshot()
	check(t, err)
	var got []string
	for _, p := range s.Policies {
		got = append(got, p.String())
	}
	want := []string{
		"src 0.0.0.0/0 dst 0.0.0.0/0 if_id 0x2a", "src 10.3.0.1/32 dst 0.0.0.0/0",
		"src 10.3.0.1/32 dst 10.0.0.0/8 mark 0x1/0x3",
		"src 2001:db8::1/128 dst 2000::/3",
	}
	if !slices.Equal(got, want) {
		t.Errorf("policies = %q, want %q", got, want)
	}
}
