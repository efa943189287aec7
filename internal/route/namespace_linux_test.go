package route

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"sidestep/internal/lab/labtest"
	"sidestep/internal/netmon"
)

// A bench is a private network namespace, with what a test needs to look into it. Its parts work on any thread.
type bench struct {
	t      *testing.T
	handle *netlink.Handle
	reader *netmon.Reader
	events int // a netlink socket that hears of rules and routes
	conf   *os.Root
}

// newBench makes a namespace with these links up, besides lo. Those named tun... are tun devices.
//
// The test's thread stays in the namespace and ends with the test.
func newBench(t *testing.T, links ...string) *bench {
	t.Helper()
	labtest.NeedRoot(t)
	runtime.LockOSThread()
	check(t, unix.Unshare(unix.CLONE_NEWNET))
	b := &bench{t: t}
	var err error
	b.handle, err = netlink.NewHandle(unix.NETLINK_ROUTE)
	check(t, err)
	t.Cleanup(b.handle.Close)
	b.reader, err = netmon.OpenReader()
	check(t, err)
	t.Cleanup(func() { check(t, b.reader.Close()) })
	b.conf, err = os.OpenRoot("/proc/sys/net/ipv4/conf")
	check(t, err)
	t.Cleanup(func() { check(t, b.conf.Close()) })
	b.events, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	check(t, err)
	t.Cleanup(func() { check(t, unix.Close(b.events)) })
	check(t, unix.Bind(b.events, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}))
	check(t, os.WriteFile("/proc/sys/net/ipv6/conf/default/accept_dad", []byte("0"), 0)) // addresses at once
	b.up("lo")
	for _, name := range links {
		b.add(name)
		b.up(name)
	}
	b.await(linksAreReady)
	return b
}

// await waits for a snapshot that satisfies ok.
func (b *bench) await(ok func(netmon.Snapshot) bool) {
	b.t.Helper()
	m, err := netmon.New()
	check(b.t, err)
	ctx, cancel := context.WithTimeout(b.t.Context(), time.Minute)
	defer cancel()
	done := false
	var last netmon.Snapshot
	err = m.Run(ctx, func(s netmon.Snapshot) {
		last = s
		if done = ok(s); done {
			cancel()
		}
	})
	if check(b.t, m.Close()); !done {
		b.t.Fatalf("network does not come to rest: %v\n%v", err, last)
	}
}

// linksAreReady reports whether the kernel has given every link that is up its link-local address, the last of what it
// does by itself and in its own time. Where IPIP is loaded, each namespace is born with a link that is down.
func linksAreReady(s netmon.Snapshot) bool {
	return !slices.ContainsFunc(s.Links, func(l netmon.Link) bool {
		return l.Up && (!l.Running || !l.Loopback && !slices.ContainsFunc(s.Routes, func(r netmon.Route) bool {
			return r.Type == netmon.Local && r.Dst.Addr().IsLinkLocalUnicast() && r.Nexthops[0].OIF == l.Index
		}))
	})
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// add makes a link: a tun device, or one end of a pair of which the other is up too, so that there is a carrier.
func (b *bench) add(name string) {
	b.t.Helper()
	if name[:3] == "tun" {
		b.addTun(name)
		return
	}
	check(b.t, b.handle.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: "peer-" + name}))
	b.up("peer-" + name)
}

func (b *bench) addTun(name string) {
	b.t.Helper()
	tun := &netlink.Tuntap{LinkAttrs: netlink.LinkAttrs{Name: name}, Mode: netlink.TUNTAP_MODE_TUN}
	tun.NonPersist, tun.Queues, tun.Flags = true, 1, netlink.TUNTAP_NO_PI
	check(b.t, b.handle.LinkAdd(tun))
	for _, f := range tun.Fds {
		b.t.Cleanup(func() { check(b.t, f.Close()) })
	}
}

func (b *bench) up(name string) {
	b.t.Helper()
	check(b.t, b.handle.LinkSetUp(b.link(name)))
}

func (b *bench) down(name string) {
	b.t.Helper()
	check(b.t, b.handle.LinkSetDown(b.link(name)))
}

func (b *bench) link(name string) netlink.Link {
	b.t.Helper()
	l, err := b.handle.LinkByName(name)
	check(b.t, err)
	return l
}

func (b *bench) addr(name, prefix string) {
	b.t.Helper()
	a, err := netlink.ParseAddr(prefix)
	check(b.t, err)
	a.Flags = unix.IFA_F_NODAD
	check(b.t, b.handle.AddrAdd(b.link(name), a))
	b.await(func(s netmon.Snapshot) bool { // a worker brings IPv6 addresses into use
		return slices.ContainsFunc(s.Routes, func(r netmon.Route) bool {
			return r.Type == netmon.Local && net.IP(r.Dst.Addr().AsSlice()).Equal(a.IP)
		})
	})
}

// setup does what lines of [parseWorld] say to the namespace; their links must exist.
func (b *bench) setup(lines string) {
	b.t.Helper()
	p := worldParser{links: map[string]int{}}
	for _, l := range b.snapshot().Links {
		p.links[l.Name] = l.Index
	}
	c, err := dial()
	check(b.t, err)
	defer c.close()
	snap := p.parse(b.t, lines)
	for _, r := range snap.Routes {
		if err := c.addRoute(r); err != nil {
			b.t.Fatalf("%s: %v", r.Text(nil), err)
		}
	}
	for _, r := range snap.Rules {
		b.rule(r)
	}
}

func (b *bench) rule(r netmon.Rule) {
	b.t.Helper()
	n := netlink.NewRule()
	n.Family = int(addressFamily(r.Family))
	n.Priority, n.Table, n.Mark, n.Invert = int(r.Priority), int(r.Table), r.Mark, r.Invert
	n.SuppressPrefixlen, n.IifName = r.SuppressPrefixLen, r.IIF
	n.Src, n.Dst = ipNet(r.Src), ipNet(r.Dst)
	if r.Mask != 0 && r.Mask != ^uint32(0) {
		n.Mask = &r.Mask
	}
	if r.Action > netmon.Lookup {
		n.Type = uint8(r.Action)
	}
	if r.Target != 0 {
		n.Goto = int(r.Target)
	}
	if r.Narrow {
		n.Dport = netlink.NewRulePortRange(53, 53)
	}
	check(b.t, b.handle.RuleAdd(n))
}

func ipNet(p netip.Prefix) *net.IPNet {
	if !p.IsValid() {
		return nil
	}
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

func (b *bench) snapshot() netmon.Snapshot {
	b.t.Helper()
	s, err := b.reader.Snapshot()
	check(b.t, err)
	return s
}

// wantSame checks that the network is what it was.
func (b *bench) wantSame(before netmon.Snapshot) {
	b.t.Helper()
	if d := cmp.Diff(lines(before), lines(b.snapshot())); d != "" {
		b.t.Errorf("the network is not what it was (-before +after):\n%s", d)
	}
}

func lines(s netmon.Snapshot) []string {
	all := []string{fmt.Sprintf("all rp_filter %d", s.RPFilterAll)}
	for _, l := range s.Links {
		all = append(all, fmt.Sprintf("link %+v", l))
	}
	for _, a := range s.Addrs {
		all = append(all, fmt.Sprintf("address %+v", a))
	}
	for _, r := range s.Rules {
		all = append(all, "rule "+r.String())
	}
	for _, r := range s.Routes {
		all = append(all, "route "+r.Text(nil))
	}
	return all
}

func (b *bench) sysctl(path, value string) {
	b.t.Helper()
	f, err := b.conf.OpenFile(path, os.O_WRONLY, 0)
	check(b.t, err)
	_, err = f.WriteString(value)
	check(b.t, errors.Join(err, f.Close()))
}

func (b *bench) rpFilter(name string) int {
	b.t.Helper()
	l, ok := b.snapshot().LinkByName(name)
	if !ok {
		b.t.Fatalf("no link %s", name)
	}
	return l.RPFilter
}

// way returns the name of the link that a packet with this mark leaves by, or the error that it meets.
func (b *bench) way(dst string, mark uint32) (string, error) {
	routes, err := b.handle.RouteGetWithOptions(net.ParseIP(dst), &netlink.RouteGetOptions{Mark: mark})
	if err != nil {
		return "", err
	}
	l, err := b.handle.LinkByIndex(routes[0].LinkIndex)
	if err != nil {
		return "", err
	}
	return l.Attrs().Name, nil
}

// wantWay checks the way of a packet, where "" means that there is none.
func (b *bench) wantWay(dst string, mark uint32, want string) {
	b.t.Helper()
	got, err := b.way(dst, mark)
	if got != want {
		b.t.Errorf("%s with mark %#x leaves by %q (%v), want %q", dst, mark, got, err, want)
	}
}

// listen starts to hear of changes of rules and routes.
func (b *bench) listen() {
	b.t.Helper()
	for _, g := range []int{
		unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE, unix.RTNLGRP_IPV4_RULE, unix.RTNLGRP_IPV6_RULE,
	} {
		check(b.t, unix.SetsockoptInt(b.events, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, g))
	}
}

// heard returns how many messages about rules and our table came since the last call. It makes a change of its
// own and waits for that, so that silence is proven.
func (b *bench) heard() int {
	b.t.Helper()
	const marker = 4242
	b.rule(netmon.Rule{Family: netmon.IPv4, Priority: marker, Table: marker, SuppressPrefixLen: -1})
	gone := netlink.NewRule()
	gone.Priority, gone.Table = marker, marker
	check(b.t, b.handle.RuleDel(gone))
	buf := make([]byte, 1<<16)
	ours := attribute32(nil, unix.RTA_TABLE, DefaultTable)
	for n := 0; ; {
		size, _, err := unix.Recvfrom(b.events, buf, 0)
		check(b.t, err)
		m := buf[:size]
		switch kind := binary.NativeEndian.Uint16(m[4:]); {
		case kind == unix.RTM_DELRULE && bytes.Contains(m, attribute32(nil, unix.FRA_PRIORITY, marker)):
			return n - 1 // the marker's arrival was one
		case kind == unix.RTM_DELRULE, kind == unix.RTM_NEWRULE, bytes.Contains(m, ours):
			n++
		}
	}
}

func newActuator(t *testing.T, cfg Config, saved Saved, save func(Saved) error) *Actuator {
	t.Helper()
	a, err := New(cfg, saved, save)
	check(t, err)
	t.Cleanup(func() { check(t, a.Close()) })
	return a
}
