package route

import (
	"bufio"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"

	"sidestep/internal/netmon"
)

// parseWorld reads a snapshot from lines like those that `ip` and [Plan.String] write:
//
//	link NAME [KIND] [down] [pointopoint] [rp_filter N] [master NAME]
//	addr PREFIX dev NAME
//	all rp_filter N
//	rule FAMILY PRIORITY: [not] from all [fwmark MARK[/MASK]] [iif NAME] lookup TABLE [...]
//	policy src PREFIX dst PREFIX [mark MARK/MASK] [if_id N]
//	route FAMILY [TYPE] PREFIX [via ADDR] [dev NAME] [table TABLE] [proto N] ... [nexthop via ... weight N]...
//
// The three rules that every machine has are there unless a line says "no rules". Links count from 1.
func parseWorld(t testing.TB, text string) netmon.Snapshot {
	t.Helper()
	p := worldParser{links: map[string]int{}}
	if !strings.Contains(text, "no rules\n") {
		p.snap.Rules = standardRules()
	}
	snap := p.parse(t, text)
	slices.SortStableFunc(snap.Rules, func(a, b netmon.Rule) int { return int(a.Priority) - int(b.Priority) })
	return snap
}

func (p *worldParser) parse(t testing.TB, text string) netmon.Snapshot {
	t.Helper()
	for s := bufio.NewScanner(strings.NewReader(text)); s.Scan(); {
		f := strings.Fields(s.Text())
		if len(f) == 0 {
			continue
		}
		if err := p.line(f); err != nil {
			t.Fatalf("world: %q: %v", s.Text(), err)
		}
	}
	return p.snap
}

func standardRules() []netmon.Rule {
	var all []netmon.Rule
	for _, fam := range []netmon.Family{netmon.IPv4, netmon.IPv6} {
		for priority, table := range map[uint32]uint32{0: netmon.TableLocal, 32766: netmon.TableMain} {
			all = append(all, netmon.Rule{
				Family: fam, Priority: priority, Action: netmon.Lookup, Table: table,
				SuppressPrefixLen: -1, Protocol: 2,
			})
		}
	}
	return all
}

type worldParser struct {
	snap  netmon.Snapshot
	links map[string]int
}

func (p *worldParser) line(f []string) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%v", r)
		}
	}()
	switch f[0] {
	case "no": // rules
	case "link":
		p.link(f[1:])
	case "addr":
		p.snap.Addrs = append(p.snap.Addrs, netmon.Addr{Link: p.index(f[3]), Prefix: netip.MustParsePrefix(f[1])})
	case "all":
		p.snap.RPFilterAll = int(num(f[2]))
	case "rule":
		p.rule(f[1:])
	case "route":
		p.route(f[1:])
	case "policy":
		p.policy(f[1:])
	default:
		return fmt.Errorf("unknown word %q", f[0])
	}
	return nil
}

func (p *worldParser) link(f []string) {
	l := netmon.Link{
		Index: len(p.snap.Links) + 1, Name: f[0], Up: true, Running: true, MTU: 1500, Loopback: f[0] == "lo",
	}
	for i := 1; i < len(f); i++ {
		switch f[i] {
		case "down":
			l.Up = false
		case "pointopoint":
			l.PointToPoint = true
		case "rp_filter":
			i++
			l.RPFilter = int(num(f[i]))
		case "master":
			i++
			l.Master = p.index(f[i])
		default:
			l.Kind = f[i]
		}
	}
	p.links[l.Name] = l.Index
	p.snap.Links = append(p.snap.Links, l)
}

func (p *worldParser) index(name string) int {
	if p.links[name] == 0 {
		panic("no link " + name)
	}
	return p.links[name]
}

func (p *worldParser) rule(f []string) {
	r := netmon.Rule{
		Family: fam(f[0]), Priority: num(strings.TrimSuffix(f[1], ":")), Action: netmon.Lookup, SuppressPrefixLen: -1,
	}
	for i := 2; i < len(f); i++ {
		switch f[i] {
		case "not":
			r.Invert = true
		case "...":
			r.Narrow = true
		case "nop":
			r.Action = netmon.Nop
		case "unreachable":
			r.Action = netmon.RuleUnreachable
		case "goto":
			r.Action, r.Target = netmon.Goto, num(f[i+1])
			i++
		default:
			p.ruleField(&r, f[i], f[i+1])
			i++
		}
	}
	p.snap.Rules = append(p.snap.Rules, r)
}

func (p *worldParser) ruleField(r *netmon.Rule, key, value string) {
	switch key {
	case "from":
		if value != "all" {
			r.Src = destination(value)
		}
	case "to":
		r.Dst = destination(value)
	case "fwmark":
		mark, mask, masked := strings.Cut(value, "/")
		r.Mark, r.Mask = num(mark), ^uint32(0)
		if masked {
			r.Mask = num(mask)
		}
	case "iif":
		r.IIF = value
	case "lookup":
		if r.L3MDev = value == "[l3mdev-table]"; !r.L3MDev {
			r.Table = table(value)
		}
	case "suppress_prefixlength":
		r.SuppressPrefixLen = int(num(value))
	case "proto":
		r.Protocol = uint8(num(value))
	default:
		panic("unknown word " + key)
	}
}

func (p *worldParser) policy(f []string) {
	var y netmon.Policy
	for i := 0; i+1 < len(f); i += 2 {
		switch value := f[i+1]; f[i] {
		case "src":
			y.Src = netip.MustParsePrefix(value)
		case "dst":
			y.Dst = netip.MustParsePrefix(value)
		case "mark":
			mark, mask, _ := strings.Cut(value, "/")
			y.Mark, y.Mask = num(mark), num(mask)
		case "if_id":
			y.Interface = num(value)
		default:
			panic("unknown word " + f[i])
		}
	}
	p.snap.Policies = append(p.snap.Policies, y)
}

func (p *worldParser) route(f []string) {
	r := netmon.Route{Table: netmon.TableMain, Type: netmon.Unicast, Protocol: 3}
	family := fam(f[0])
	f = f[1:]
	for kind := netmon.Unicast; kind <= netmon.Throw; kind++ {
		if f[0] == kind.String() {
			r.Type, f = kind, f[1:]
		}
	}
	r.Dst = family.Default()
	if f[0] != "default" {
		r.Dst = destination(f[0])
	}
	if family == netmon.IPv6 {
		r.Metric = 1024
	}
	nh := &netmon.Nexthop{Weight: 1}
	for i := 1; i < len(f); i++ {
		switch f[i] {
		case "nexthop":
			r.Nexthops = append(r.Nexthops, netmon.Nexthop{Weight: 1})
			nh = &r.Nexthops[len(r.Nexthops)-1]
		case "onlink":
			nh.OnLink = true
		case "dead":
			nh.Dead = true
		case "encap":
			r.Encap = true
		default:
			p.routeField(&r, nh, f[i], f[i+1])
			i++
		}
	}
	if len(r.Nexthops) == 0 && nh.OIF != 0 {
		r.Nexthops = []netmon.Nexthop{*nh}
	}
	p.snap.Routes = append(p.snap.Routes, r)
}

func (p *worldParser) routeField(r *netmon.Route, nh *netmon.Nexthop, key, value string) {
	switch key {
	case "from":
		r.From = netip.MustParsePrefix(value)
	case "via":
		nh.Gateway = netip.MustParseAddr(value)
	case "dev":
		nh.OIF = p.index(value)
	case "weight":
		nh.Weight = int(num(value))
	case "table":
		r.Table = table(value)
	case "proto":
		r.Protocol = uint8(num(value))
	case "scope":
		r.Scope = uint8(num(value))
	case "src":
		r.Src = netip.MustParseAddr(value)
	case "metric":
		r.Metric = num(value)
	case "tos":
		r.TOS = uint8(num(value))
	case "mtu":
		r.Metrics = mtu(num(value))
	case "pref":
		pref, err := strconv.Atoi(value)
		if err != nil {
			panic(err)
		}
		r.Pref = int8(pref)
	default:
		panic("unknown word " + key)
	}
}

// mtu is an attribute RTAX_MTU, as the kernel writes it on a little-endian machine.
func mtu(n uint32) string {
	return string([]byte{8, 0, 2, 0, byte(n), byte(n >> 8), byte(n >> 16), byte(n >> 24)})
}

func destination(s string) netip.Prefix {
	if a, err := netip.ParseAddr(s); err == nil {
		return netip.PrefixFrom(a, a.BitLen())
	}
	return netip.MustParsePrefix(s)
}

func fam(s string) netmon.Family {
	if s == "ipv6" {
		return netmon.IPv6
	}
	return netmon.IPv4
}

func table(s string) uint32 {
	for _, t := range []uint32{netmon.TableDefault, netmon.TableMain, netmon.TableLocal} {
		if s == netmon.TableName(t) {
			return t
		}
	}
	return num(s)
}

func num(s string) uint32 {
	n, err := strconv.ParseUint(s, 0, 32)
	if err != nil {
		panic(err)
	}
	return uint32(n)
}

// applied returns the world as it is once the plan has been set.
func applied(snap netmon.Snapshot, p Plan) netmon.Snapshot {
	snap.Rules = slices.Concat(snap.Rules, p.Rules)
	snap.Routes = slices.Concat(snap.Routes, p.Routes)
	snap.Links = slices.Clone(snap.Links)
	for _, s := range p.Sysctls {
		for i := range snap.Links {
			if s.Path == "net/ipv4/conf/"+snap.Links[i].Name+"/rp_filter" {
				snap.Links[i].RPFilter = int(num(s.Value))
			}
		}
	}
	return snap
}
