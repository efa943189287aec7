package check

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"sidestep/api"
	"sidestep/internal/netmon"
)

// home is a machine with a tunnel, two cards below a bond, and a resolver.
func home() network {
	prefix := netip.MustParsePrefix
	return network{
		Links: []netmon.Link{{Index: 1, Name: "lo", Loopback: true}, {Index: 2, Name: "bond0"}, {Index: 3, Name: "eth0"},
			{Index: 4, Name: "wg0"}, {Index: 5, Name: "docker0"}},
		Addrs: []netmon.Addr{{Link: 1, Prefix: prefix("127.0.0.1/8")}, {Link: 2, Prefix: prefix("192.168.1.7/24")},
			{Link: 2, Prefix: prefix("2001:db8:7::7/64")}, {Link: 4, Prefix: prefix("10.64.0.2/24")},
			{Link: 5, Prefix: prefix("10.64.0.2/32")}},
		Routes: []netmon.Route{{Dst: prefix("0.0.0.0/0")}, {Dst: prefix("::/0")}, {Dst: prefix("192.168.1.0/24")}},
	}
}

// usual is what the daemon says of home.
func usual() sides {
	return sides{[]string{"wg0"}, api.Uplink{IPv4: "bond0", IPv6: "bond0"}, home()}
}

const (
	far4 = "192.0.2.99"
	far6 = "2001:db8:ffff::99"
	near = "192.168.1.1" // the router
	stub = "127.0.0.53"  // a resolver on this machine
	deep = "10.64.0.1"   // a name server in the tunnel
	lone = "fd00::1"     // private, and on no network of ours
)

// A judgement is one case of TestJudge.
type judgement struct {
	name    string
	program Program
	to      string
	where   func(*sides)
	left    string // interfaces, or an error after a "!", or a doubt after a "?"
	want    string // side, verdict, detail
}

func judgements() []judgement {
	plain := func(*sides) {}
	alone := func(s *sides) { s.tunnels = nil }
	half := func(s *sides) { s.uplink.IPv6 = "" }
	return []judgement{
		{"included, by the tunnel", Included, far4, plain, "wg0", "tunnel ok"},
		{"included, by the uplink", Included, far4, plain, "bond0 eth0", "uplink wrong should leave by wg0"},
		{"included, by a third interface", Included, far4, plain, "docker0", "other wrong should leave by wg0"},
		{"included, refused", Included, far6, plain, "!network is unreachable", "none stopped network is unreachable"},
		{"included, swallowed", Included, far6, plain, "", "none stopped not seen to leave"},
		{"included, without a tunnel", Included, far4, alone, "bond0", "uplink ok"},
		{"included, taken by a proxy on this machine", Included, far4, plain, "lo", "local ok"},
		{"included, to the router", Included, near, plain, "bond0", "local ok"},
		{"included, to a private network", Included, lone, plain, "bond0", "local ok"},
		{"included, to a name server in the tunnel", Included, deep, plain, "wg0", "tunnel ok"},
		{"included, to a resolver here", Included, stub, plain, "lo", "local ok"},
		{"included, by who knows", Included, far4, plain, "?two have it", "none unknown two have it"},

		{"excluded, by the uplink", Excluded, far4, plain, "bond0", "uplink ok"},
		{"excluded, by the uplink and the card below", Excluded, far4, plain, "bond0 eth0", "uplink ok"},
		{"excluded, seen on the card first", Excluded, far4, plain, "eth0 bond0", "uplink ok"},
		{"excluded, by the tunnel", Excluded, far4, plain, "wg0", "tunnel wrong should leave by bond0"},
		{"excluded, by both", Excluded, far4, plain, "bond0 wg0", "tunnel wrong should leave by bond0"},
		{"excluded, by a third interface", Excluded, far4, plain, "docker0", "other ok neither tunnel nor uplink"},
		{"excluded, without a tunnel", Excluded, far4, alone, "bond0", "uplink ok"},
		{"excluded, refused", Excluded, far4, plain, "!operation not permitted", "none stopped operation not permitted"},
		{"excluded, swallowed", Excluded, far4, plain, "", "none stopped not seen to leave"},
		{"excluded, no uplink", Excluded, far6, half, "!no route to host", "none ok no uplink: no route to host"},
		{"excluded, no uplink, swallowed", Excluded, far6, half, "", "none ok no uplink: not seen to leave"},
		{"excluded, no uplink, by the tunnel", Excluded, far6, half, "wg0", "tunnel wrong should be refused: there is no uplink"},
		{"excluded, to the router", Excluded, near, plain, "bond0", "local ok"},
		{"excluded, to a name server in the tunnel", Excluded, deep, plain, "bond0", "local ok"},
		{"excluded, to a name server in the tunnel, by it", Excluded, deep, plain, "wg0", "tunnel wrong should leave by bond0"},
		{"excluded, to a private network, no uplink", Excluded, lone, half, "!no route to host", "none ok no uplink: no route to host"},
		{"excluded, to a resolver here, no uplink", Excluded, stub, half, "lo", "local ok"},
		{"excluded, by who knows", Excluded, far4, plain, "?packets were lost", "none unknown packets were lost"},
	}
}

func TestJudge(t *testing.T) {
	for _, c := range judgements() {
		s := usual()
		c.where(&s)
		f := fact{Probe: Probe{Program: c.program, Kind: UDP, To: netip.AddrPortFrom(netip.MustParseAddr(c.to), 443)}}
		switch text := strings.TrimLeft(c.left, "!?"); {
		case strings.HasPrefix(c.left, "!"):
			f.Refused = text
		case strings.HasPrefix(c.left, "?"):
			f.doubt = text
		default:
			f.left = strings.Fields(text)
		}
		r := s.judge(f)
		if got := strings.TrimSpace(strings.Join([]string{string(r.Side), string(r.Verdict), r.Detail}, " ")); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}

func TestOnlyFaultsMakeAReportFail(t *testing.T) {
	far := netip.AddrPortFrom(netip.MustParseAddr(far4), 443)
	one := func(p Program, v Verdict, expected Side) Report {
		return Report{Evidence: SourceAddress, Probes: []Result{{Probe: Probe{Program: p, To: far}, Verdict: v, Expected: expected}}}
	}
	for _, c := range []struct {
		name   string
		report Report
		want   string
	}{
		{"all right", one(Included, OK, Tunnel), ""},
		{"an included program that can't send", one(Included, Stopped, Tunnel), ""},
		{"a name server that is gone", one(Excluded, Stopped, ""), ""},
		{"an excluded program that can't use its uplink", one(Excluded, Stopped, Uplink), "1 of 1 probes got nowhere, though excluded programs have an uplink"},
		{"the wrong side", one(Excluded, Wrong, None), "1 of 1 probes took the wrong side"},
		{"who knows", one(Included, Unknown, Tunnel), "1 of 1 probes left by an interface that can't be told"},
	} {
		got := ""
		if err := c.report.Err(); err != nil {
			got = err.Error()
		}
		if got != c.want || (got == "") != (c.report.Hint() == "") {
			t.Errorf("%s: %q with the hint %q, want %q", c.name, got, c.report.Hint(), c.want)
		}
	}
}

func TestNotesTellWhatTheVerdictsDoNot(t *testing.T) {
	question := func(p Program, server string, f fact) fact {
		f.Probe = Probe{Program: p, Kind: DNS, To: netip.AddrPortFrom(netip.MustParseAddr(server), 53)}
		return f
	}
	const beside = "the name server 192.168.1.1 is on a private network: included programs ask it by bond0, beside the tunnel"
	const own = "the resolver at 127.0.0.53 is on this machine and asks in its own name, whoever asked it"
	answered := reply{Answered: true}
	for _, c := range []struct {
		name  string
		facts []fact
		want  string
	}{
		{"the router's", []fact{question(Included, near, fact{left: []string{"bond0"}})}, beside},
		{"a resolver of this machine", []fact{
			question(Included, stub, fact{reply: answered, left: []string{"lo"}, passedOn: []string{"wg0"}}),
			question(Excluded, stub, fact{left: []string{"lo"}, passedOn: []string{"wg0", "bond0"}}),
		}, own + ": by wg0 (tunnel) and bond0 (uplink)"},
		{"a resolver that knows by itself", []fact{question(Excluded, stub, fact{reply: answered})},
			own + "; it was not seen to ask"},
		{"no resolver", []fact{question(Excluded, stub, fact{})}, "no resolver answers at 127.0.0.53"},
		{"no name servers", nil, "/etc/resolv.conf names no name server"},
	} {
		if got := usual().notes(c.facts, nil); got[len(got)-1] != c.want || len(got) != 3 {
			t.Errorf("%s: %q, want %q last", c.name, got, c.want)
		}
	}
	if got := usual().notes([]fact{question(Included, deep, fact{left: []string{"wg0"}})}, nil); len(got) != 2 {
		t.Errorf("a name server in the tunnel: %q", got)
	}
	before, after := api.Status{}, api.Status{State: api.Degraded, Counters: map[string]uint64{"guard_dropped_sent": 2}}
	if got := daemonNotes(before, after); len(got) != 2 || !strings.Contains(got[1], "stopped 2 packets") {
		t.Errorf("notes of the daemon: %q", got)
	}
}

// sent is a datagram of which the addresses are known.
func sent(from, to string) fact {
	at := func(addr string) netip.AddrPort { return netip.AddrPortFrom(netip.MustParseAddr(addr), 443) }
	return fact{Probe: Probe{Kind: UDP, To: at(to)}, reply: reply{From: at(from)}}
}

func TestSourceAddressesTellTheInterfaceOrNothing(t *testing.T) {
	facts := []fact{sent("192.168.1.7", far4), sent("10.64.0.2", far4), sent("10.1.1.1", far4), sent("192.168.1.7", "192.168.1.7")}
	facts = append(facts, fact{reply: reply{Refused: "network is unreachable"}})
	home().attribute(facts)
	for i, want := range []string{
		"bond0", "the source address 10.64.0.2 is that of wg0 and docker0", "no interface has the source address 10.1.1.1", "lo", "",
	} {
		if got := strings.Join(facts[i].left, " ") + facts[i].doubt; got != want {
			t.Errorf("from %v to %v: %q, want %q", facts[i].From, facts[i].To, got, want)
		}
	}
}

func TestPacketsAreToldApart(t *testing.T) {
	question := fact{Probe: Probe{Kind: DNS, To: netip.MustParseAddrPort("127.0.0.53:53"), label: "1111222200000001"}}
	datagram := fact{Probe: Probe{Kind: UDP, To: netip.MustParseAddrPort("192.0.2.99:443"), label: "1111222200000002"}}
	connection := fact{Probe: Probe{Kind: TCP, To: netip.MustParseAddrPort("192.0.2.99:443")},
		reply: reply{From: netip.MustParseAddrPort("10.0.0.1:4000")}}
	facts := []fact{question, datagram, connection}
	see := func(by int, proto byte, from uint16, to string, payload []byte) {
		home().sight(facts, packet{by, proto, from, netip.MustParseAddrPort(to), payload})
	}
	const tcp, udp = 6, 17
	see(4, udp, 1, "9.9.9.9:53", payload(DNS, "3333444400000001")) // another's
	see(1, udp, 1, "127.0.0.53:53", payload(DNS, question.label))
	see(4, udp, 2, "10.64.0.1:53", payload(DNS, question.label))   // the resolver's
	see(2, udp, 3, "198.51.100.1:9", payload(UDP, datagram.label)) // whatever became of its address
	see(3, udp, 3, "198.51.100.1:9", payload(UDP, datagram.label))
	see(3, udp, 3, "198.51.100.1:9", payload(UDP, datagram.label))
	see(4, tcp, 4001, "192.0.2.99:443", nil) // another's
	if sighted(facts) {
		t.Error("a connection that was not seen passes for seen")
	}
	see(2, tcp, 4000, "192.0.2.99:443", nil)
	if !sighted(facts) {
		t.Error("not everything passes for seen")
	}
	for i, want := range []string{"lo", "bond0 eth0", "bond0"} {
		if got := strings.Join(facts[i].left, " "); got != want {
			t.Errorf("%s left by %q, want %q", facts[i].Kind, got, want)
		}
	}
	if !slices.Equal(facts[0].passedOn, []string{"wg0"}) {
		t.Errorf("the question was passed on by %q", facts[0].passedOn)
	}
}
