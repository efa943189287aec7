package check

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"sidestep/internal/netmon"
)

// probePort is where UDP and TCP probes go: one that every firewall knows.
const probePort = 443

// maxServers is how many name servers a resolver asks (MAXNS of resolv.h).
const maxServers = 3

// nobody are addresses that belong to no machine and that no router of the internet has a route to: those for
// documentation, of RFC 5737 (IPv4), RFC 3849 and RFC 9637 (IPv6).
func nobody() (v4, v6 []netip.Addr) {
	at := netip.MustParseAddr
	return []netip.Addr{at("192.0.2.99"), at("198.51.100.99"), at("203.0.113.99")},
		[]netip.Addr{at("2001:db8:ffff::99"), at("3fff:fff::99")}
}

// Target reads an address that somebody wants the probes to go to.
func Target(text string) (netip.Addr, error) {
	a, err := netip.ParseAddr(text)
	a = a.Unmap()
	if err != nil || a.Zone() != "" || !a.IsGlobalUnicast() {
		return a, fmt.Errorf("%q is no IPv4 or IPv6 address of another machine", text)
	}
	return a, nil
}

// A network is what this machine's network looks like.
type network netmon.Snapshot

// targets returns an address for each family: the wanted one, or one of nobody's.
func (n network) targets(wanted []netip.Addr) []netip.Addr {
	var all []netip.Addr
	v4, v6 := nobody()
	for _, candidates := range [][]netip.Addr{v4, v6} {
		i := slices.IndexFunc(wanted, func(a netip.Addr) bool { return a.Is4() == candidates[0].Is4() })
		if i >= 0 {
			all = append(all, wanted[i])
			continue
		}
		all = append(all, slices.MinFunc(candidates, func(a, b netip.Addr) int { return n.special(a) - n.special(b) }))
	}
	return all
}

// special says how special the routes make an address: it is the length of the longest prefix that a route to it has.
// The less, the more it is treated as any other on the internet.
func (n network) special(a netip.Addr) int {
	most := 0
	for _, r := range n.Routes {
		if r.Dst.Contains(a) {
			most = max(most, r.Dst.Bits())
		}
	}
	return most
}

// here reports whether an address is this machine's own.
func (n network) here(a netip.Addr) bool {
	return a.IsLoopback() || slices.ContainsFunc(n.Addrs, func(own netmon.Addr) bool { return own.Prefix.Addr() == a })
}

// local reports whether an address is no part of the internet: it is this machine's own, private, or on a network that
// this machine is on.
func (n network) local(a netip.Addr) bool {
	shared := netip.MustParsePrefix("100.64.0.0/10") // RFC 6598: between a provider and its customers
	return n.here(a) || a.IsPrivate() || a.IsLinkLocalUnicast() || shared.Contains(a) ||
		slices.ContainsFunc(n.Addrs, func(own netmon.Addr) bool { return own.Prefix.Contains(a) })
}

// loopback reports whether the interface leads to this machine itself.
func (n network) loopback(name string) bool { return slices.Contains(n.loopbacks(), name) }

// loopbacks returns the interfaces that lead to this machine itself.
func (n network) loopbacks() []string {
	var all []string
	for _, l := range n.Links {
		if l.Loopback {
			all = append(all, l.Name)
		}
	}
	return all
}

// name returns the name of the interface with this index.
func (n network) name(index int) string {
	if l, ok := netmon.Snapshot(n).Link(index); ok {
		return l.Name
	}
	return fmt.Sprintf("interface %d", index)
}

// holders returns the interfaces that have an address.
func (n network) holders(a netip.Addr) []string {
	var all []string
	for _, own := range n.Addrs {
		if own.Prefix.Addr() == a && !slices.Contains(all, n.name(own.Link)) {
			all = append(all, n.name(own.Link))
		}
	}
	return all
}

// servers reads the name servers of a resolv.conf(5).
func servers(conf string) []netip.Addr {
	var all []netip.Addr
	for line := range strings.Lines(conf) {
		words := strings.Fields(line)
		if len(words) < 2 || words[0] != "nameserver" {
			continue
		}
		if a, err := netip.ParseAddr(words[1]); err == nil && !slices.Contains(all, a.Unmap()) && len(all) < maxServers {
			all = append(all, a.Unmap())
		}
	}
	return all
}

// probes returns all that a program is to send. The labels begin with run, and are followed by numbers from first on.
func probes(p Program, run string, first int, targets, servers []netip.Addr) []Probe {
	var all []Probe
	add := func(k Kind, to netip.Addr, port uint16) {
		family := netmon.FamilyOf(to).String()
		label := fmt.Sprintf("%s%08d", run, first+len(all))
		all = append(all, Probe{Program: p, Family: family, Kind: k, To: netip.AddrPortFrom(to, port), label: label})
	}
	for _, to := range targets {
		add(UDP, to, probePort)
		add(TCP, to, probePort)
		for _, s := range servers {
			if s.Is4() == to.Is4() {
				add(DNS, s, dnsPort)
			}
		}
	}
	return all
}
