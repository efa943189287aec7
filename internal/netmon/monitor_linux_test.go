package netmon

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"sidestep/internal/lab/labtest"
)

// A bench is a private network namespace with a pair of links, eth0 and peer0, and a monitor that runs.
type bench struct {
	t         *testing.T
	handle    *netlink.Handle
	monitor   *Monitor
	snapshots chan Snapshot
	delivered int
	last      Snapshot
}

// newBench leaves the test's thread in the namespace; the monitor runs on another thread outside.
func newBench(t *testing.T) *bench {
	t.Helper()
	labtest.NeedRoot(t)
	runtime.LockOSThread()
	check(t, unix.Unshare(unix.CLONE_NEWNET))
	b := &bench{t: t, snapshots: make(chan Snapshot)}
	var err error
	b.handle, err = netlink.NewHandle(unix.NETLINK_ROUTE)
	check(t, err)
	t.Cleanup(b.handle.Close)
	check(t, b.handle.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "eth0"}, PeerName: "peer0"}))
	b.monitor, err = New()
	check(t, err)
	b.run()
	return b
}

func (b *bench) run() {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- b.monitor.Run(ctx, func(s Snapshot) {
			select {
			case b.snapshots <- s:
			case <-ctx.Done():
			}
		})
	}()
	b.t.Cleanup(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			b.t.Errorf("Run = %v, want %v", err, context.Canceled)
		}
		check(b.t, b.monitor.Close())
	})
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// await takes snapshots until one satisfies ok.
func (b *bench) await(what string, ok func(Snapshot) bool) Snapshot {
	b.t.Helper()
	late := time.NewTimer(20 * time.Second)
	defer late.Stop()
	for {
		select {
		case s := <-b.snapshots:
			if b.delivered++; s.Equal(b.last) {
				b.t.Error("the same snapshot twice")
			}
			if b.last = s; ok(s) {
				return s
			}
		case <-late.C:
			b.t.Fatalf("no snapshot with %s after %d others", what, b.delivered)
		}
	}
}

func (b *bench) link(name string) netlink.Link {
	b.t.Helper()
	l, err := b.handle.LinkByName(name)
	check(b.t, err)
	return l
}

func (b *bench) route(dst string, table int) *netlink.Route {
	b.t.Helper()
	_, n, err := net.ParseCIDR(dst)
	check(b.t, err)
	return &netlink.Route{Dst: n, Table: table, LinkIndex: b.link("eth0").Attrs().Index, Scope: netlink.SCOPE_LINK}
}

func hasRoute(dst string, table uint32) func(Snapshot) bool {
	return func(s Snapshot) bool {
		return slices.ContainsFunc(s.Routes, func(r Route) bool { return r.Dst.String() == dst && r.Table == table })
	}
}

func not(f func(Snapshot) bool) func(Snapshot) bool { return func(s Snapshot) bool { return !f(s) } }

func TestMonitorReportsEveryKindOfChange(t *testing.T) {
	b := newBench(t)
	first := b.await("two links", func(s Snapshot) bool { _, ok := s.LinkByName("eth0"); return ok })
	if l, _ := first.LinkByName("eth0"); l.Kind != "veth" || l.Up || len(first.Routes) != 0 {
		t.Errorf("first snapshot: link %+v, %d routes", l, len(first.Routes))
	}
	up := func(name string) func(Snapshot) bool {
		return func(s Snapshot) bool { l, _ := s.LinkByName(name); return l.Up && l.Running }
	}
	check(t, b.handle.LinkSetUp(b.link("eth0")))
	check(t, b.handle.LinkSetUp(b.link("peer0")))
	b.await("eth0 up", up("eth0"))

	b.testAddrs()
	b.testRoutes()
	b.testRules()

	check(t, os.WriteFile("/proc/sys/net/ipv4/conf/eth0/rp_filter", []byte("1"), 0))
	b.await("rp_filter", func(s Snapshot) bool { l, _ := s.LinkByName("eth0"); return l.RPFilter == 1 })
	check(t, os.WriteFile("/proc/sys/net/ipv4/conf/all/rp_filter", []byte("2"), 0))
	b.await("rp_filter for all", func(s Snapshot) bool { return s.RPFilterAll == 2 })
	check(t, b.handle.LinkSetName(b.link("eth0"), "eth9"))
	b.await("eth9", up("eth9"))
	check(t, b.handle.LinkDel(b.link("eth9")))
	b.await("no eth9", not(up("eth9")))
}

func (b *bench) testAddrs() {
	t := b.t
	for _, prefix := range []string{"192.168.1.2/24", "2001:db8::2/64"} {
		has := func(s Snapshot) bool {
			return slices.ContainsFunc(s.Addrs, func(a Addr) bool { return a.Prefix.String() == prefix })
		}
		a, err := netlink.ParseAddr(prefix)
		check(t, err)
		check(t, b.handle.AddrAdd(b.link("eth0"), a))
		b.await(prefix, has)
		check(t, b.handle.AddrDel(b.link("eth0"), a))
		b.await("no "+prefix, not(has))
	}
}

func (b *bench) testRoutes() {
	t := b.t
	for _, dst := range []string{"10.0.0.0/8", "2001:db8:1::/48"} {
		r := b.route(dst, 4242)
		check(t, b.handle.RouteAdd(r))
		b.await(dst, hasRoute(dst, 4242))
		check(t, b.handle.RouteDel(r))
		b.await("no "+dst, not(hasRoute(dst, 4242)))
	}
}

func (b *bench) testRules() {
	t := b.t
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		rule := netlink.NewRule()
		rule.Family, rule.Priority, rule.Table, rule.Mark = family, 77, 4242, 5
		has := func(s Snapshot) bool {
			return slices.ContainsFunc(s.Rules, func(r Rule) bool {
				return r.Priority == 77 && r.Mark == 5 && r.Mask == ^uint32(0)
			})
		}
		check(t, b.handle.RuleAdd(rule))
		b.await("rule 77", has)
		check(t, b.handle.RuleDel(rule))
		b.await("no rule 77", not(has))
	}
}

// TestMonitorSurvivesAFlood adds 10,000 routes while the receiver is busy, so that events are lost, and again
// while it is not.
func TestMonitorSurvivesAFlood(t *testing.T) {
	b := newBench(t)
	check(t, b.handle.LinkSetUp(b.link("eth0")))
	b.await("the first", func(Snapshot) bool { return true })
	const many = 10_000
	flood := func(table int) {
		r := b.route("10.0.0.0/32", table)
		for i := range many {
			r.Dst = &net.IPNet{IP: net.IPv4(10, byte(i>>16), byte(i>>8), byte(i)), Mask: net.CIDRMask(32, 32)}
			check(t, b.handle.RouteAdd(r))
		}
	}
	all := func(table uint32) func(Snapshot) bool {
		return func(s Snapshot) bool {
			n := 0
			for _, r := range s.Routes {
				if r.Table == table {
					n++
				}
			}
			return n == many
		}
	}
	flood(4242) // nobody takes snapshots meanwhile: Run waits in fn
	b.await("10,000 routes", all(4242))
	calm := b.delivered
	flooded := make(chan bool)
	start := time.Now()
	go func() { flood(4243); close(flooded) }()
	b.await("20,000 routes", all(4243))
	<-flooded
	// Each look waits for the last change or the limit, and then rests.
	if most := 2 + int(time.Since(start)/quiet); b.delivered-calm > most {
		t.Errorf("%d snapshots in %v, want %d at most", b.delivered-calm, time.Since(start), most)
	}
	if calm > 10 {
		t.Errorf("%d snapshots of a flood that was over before anybody looked", calm)
	}
}

// TestReaderListsOneTable, also one that does not exist.
func TestReaderListsOneTable(t *testing.T) {
	b := newBench(t)
	check(t, b.handle.LinkSetUp(b.link("eth0")))
	check(t, b.handle.RouteAdd(b.route("10.0.0.0/8", 4242)))
	check(t, b.handle.RouteAdd(b.route("10.1.0.0/16", 0)))
	check(t, b.handle.RouteAdd(b.route("2001:db8::/48", 4242)))
	for fam, want := range map[Family]string{IPv4: "10.0.0.0/8", IPv6: "2001:db8::/48"} {
		got, err := b.monitor.reader.Routes(fam, 4242)
		check(t, err)
		if len(got) != 1 || got[0].Dst.String() != want {
			t.Errorf("%s routes of table 4242 = %v, want one to %s", fam, got, want)
		}
		none, err := b.monitor.reader.Routes(fam, 4243)
		if err != nil || len(none) != 0 {
			t.Errorf("%s routes of no table = %v, %v", fam, none, err)
		}
	}
}

// TestReaderListsRoutesForSomeSources: those are what a home with two providers has.
func TestReaderListsRoutesForSomeSources(t *testing.T) {
	b := newBench(t)
	check(t, b.handle.LinkSetUp(b.link("eth0")))
	from := netip.MustParsePrefix("2001:db8:1::/56")
	req := nl.NewNetlinkRequest(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_EXCL|unix.NLM_F_ACK)
	msg := nl.NewRtMsg()
	msg.Family, msg.Table, msg.Src_len = unix.AF_INET6, unix.RT_TABLE_MAIN, uint8(from.Bits())
	req.AddData(msg)
	req.AddData(nl.NewRtAttr(unix.RTA_SRC, from.Addr().AsSlice()))
	req.AddData(nl.NewRtAttr(unix.RTA_OIF, nl.Uint32Attr(uint32(b.link("eth0").Attrs().Index))))
	_, err := req.Execute(unix.NETLINK_ROUTE, 0)
	if errors.Is(err, unix.EINVAL) {
		t.Skip("this kernel has no routes for some sources (CONFIG_IPV6_SUBTREES)")
	}
	check(t, err)
	s := b.await("the route", hasRoute("::/0", TableMain))
	i := slices.IndexFunc(s.Routes, func(r Route) bool { return r.Dst == IPv6.Default() && r.Table == TableMain })
	if got := s.Routes[i].From; got != from {
		t.Errorf("the route is for sources in %v, want %v", got, from)
	}
}

// TestMonitorIsQuiet: an event after which the snapshot is the same delivers nothing; [bench.await] compares.
func TestMonitorIsQuiet(t *testing.T) {
	b := newBench(t)
	check(t, b.handle.LinkSetUp(b.link("eth0")))
	b.await("eth0 up", func(s Snapshot) bool { l, _ := s.LinkByName("eth0"); return l.Up })
	for i := range 3 {
		check(t, b.handle.LinkSetAlias(b.link("eth0"), strings.Repeat("x", i+1)))
		r := b.route("10.0.0.0/8", 4242)
		check(t, b.handle.RouteAdd(r))
		check(t, b.handle.RouteDel(r))
	}
	check(t, b.handle.RouteAdd(b.route("10.1.0.0/16", 4242)))
	b.await("the marker", hasRoute("10.1.0.0/16", 4242))
}
