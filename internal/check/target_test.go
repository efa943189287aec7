package check

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"

	"sidestep/internal/netmon"
)

func TestProbesGoToAddressesThatNoRouteIsSpecialFor(t *testing.T) {
	const first4, first6 = "192.0.2.99", "2001:db8:ffff::99"
	for name, c := range map[string]struct {
		routes string
		wanted string
		want4  string
		want6  string
	}{
		"a plain machine":             {"", "", first4, first6},
		"two halves of everything":    {"0.0.0.0/1 128.0.0.0/1", "", first4, first6},
		"a network of the first":      {"192.0.2.0/24", "", "198.51.100.99", first6},
		"documentation is refused":    {"192.0.2.0/24 198.51.100.0/24 2001:db8::/32", "", "203.0.113.99", "3fff:fff::99"},
		"everything is special":       {"192.0.2.0/25 198.51.100.0/25 203.0.113.0/24", "", "203.0.113.99", first6},
		"one address of the user's":   {"", "1.1.1.1", "1.1.1.1", first6},
		"the other one of the user's": {"", "2620:fe::9", first4, "2620:fe::9"},
	} {
		n := network{Routes: []netmon.Route{{Dst: netip.MustParsePrefix("0.0.0.0/0")}, {Dst: netip.MustParsePrefix("::/0")}}}
		for _, r := range strings.Fields(c.routes) {
			n.Routes = append(n.Routes, netmon.Route{Dst: netip.MustParsePrefix(r)})
		}
		var wanted []netip.Addr
		if c.wanted != "" {
			wanted = append(wanted, netip.MustParseAddr(c.wanted))
		}
		got := n.targets(wanted)
		if len(got) != 2 || got[0].String() != c.want4 || got[1].String() != c.want6 {
			t.Errorf("%s: %v, want %s and %s", name, got, c.want4, c.want6)
		}
	}
}

func TestTargetIsAnotherMachinesAddress(t *testing.T) {
	for text, want := range map[string]string{
		"1.1.1.1": "1.1.1.1", "::ffff:1.1.1.1": "1.1.1.1", "2620:fe::fe": "2620:fe::fe", "10.0.0.1": "10.0.0.1",
		"example.org": "", "127.0.0.1": "", "224.0.0.1": "", "0.0.0.0": "", "255.255.255.255": "", "fe80::1%eth0": "",
		"::1": "", "ff02::1": "", "1.1.1.1:53": "", "": "",
	} {
		a, err := Target(text)
		if (err == nil) != (want != "") || err == nil && a.String() != want {
			t.Errorf("%q: %v, %v, want %q", text, a, err, want)
		}
	}
}

func TestNameServersAreReadAsTheResolverReadsThem(t *testing.T) {
	const conf = `# nameserver 9.9.9.9
search example.org
nameserver 127.0.0.53
nameserver	2001:db8::53
nameserver 127.0.0.53
nameserver x
nameserver
 nameserver fe80::1%eth0
options edns0
nameserver 192.0.2.53
`
	if got, want := fmt.Sprint(servers(conf)), "[127.0.0.53 2001:db8::53 fe80::1%eth0]"; got != want {
		t.Errorf("name servers %s, want %s", got, want)
	}
}

func TestAQuestionIsAWellFormedOne(t *testing.T) {
	var m dns.Msg
	if err := m.Unpack(payload(DNS, "1234567800000001")); err != nil {
		t.Fatal(err)
	}
	want := []dns.Question{{Name: "1234567800000001.example.", Qtype: dns.TypeA, Qclass: dns.ClassINET}}
	if d := cmp.Diff(want, m.Question); d != "" || !m.RecursionDesired || m.Response {
		t.Errorf("question (-want +got):\n%s%v", d, m.MsgHdr)
	}
}

func TestEveryLabelIsItsOwn(t *testing.T) {
	targets := home().targets(nil)
	a := probes(Included, "12345678", 0, targets, []netip.Addr{netip.MustParseAddr(stub)})
	b := probes(Excluded, "12345678", len(a), targets, []netip.Addr{netip.MustParseAddr(lone)})
	seen := map[string]bool{}
	for _, p := range append(a, b...) {
		if seen[p.label] || len(p.label) != 16 {
			t.Errorf("%s %s has the label %q", p.Program, p.Kind, p.label)
		}
		seen[p.label] = true
	}
	if len(seen) != 10 {
		t.Errorf("%d probes, want 10", len(seen))
	}
}

func TestParseReadsNoFurtherThanThePacket(t *testing.T) {
	udp4 := append([]byte{0x46, 9: 17, 16: 192, 17: 0, 18: 2, 19: 99, 23: 0}, "\x10\x00\x01\xbb\x00\x0c\x00\x00abcd"...)
	tcp6 := append([]byte{0x60, 6: 6, 24: 0x20, 25: 1, 26: 0xd, 27: 0xb8, 39: 0x99}, make([]byte, 20)...)
	for _, c := range []struct {
		packet []byte
		whole  int // the least that is enough
		to     string
	}{{udp4, 32, "192.0.2.99:443"}, {tcp6, 60, "[2001:db8::99]:0"}} {
		for n := range len(c.packet) + 1 {
			p, ok := parse(c.packet[:n])
			if ok != (n >= c.whole) || ok && p.to.String() != c.to {
				t.Errorf("%d bytes to %s: %v, %v", n, c.to, p, ok)
			}
		}
	}
	if p, ok := parse(udp4); !ok || string(p.payload) != "abcd" || p.fromPort != 0x1000 {
		t.Errorf("parsed %+v", p)
	}
	udp4[9] = 1 // ICMP
	if _, ok := parse(udp4); ok {
		t.Error("ICMP passes for a probe")
	}
}
