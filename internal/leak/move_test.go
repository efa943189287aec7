package leak_test

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"sidestep/internal/lab"
	"sidestep/internal/route"
)

// On the lab's uplinks, the machine has these addresses.
var (
	ethernet = addrPair(lab.Machine4, lab.Machine6)
	wifi     = addrPair(lab.Spare4, lab.Spare6)
	renewed  = addrPair("192.0.2.77", "2001:db8:1::77")
)

func addrPair(v4, v6 string) [2]netip.Addr {
	return [2]netip.Addr{netip.MustParseAddr(v4), netip.MustParseAddr(v6)}
}

func (j *journey) ethernetUp()   { j.t.Helper(); j.ok(j.world.UplinkUp(j.ctx)) }
func (j *journey) ethernetDown() { j.t.Helper(); j.ok(j.world.UplinkDown()) }
func (j *journey) wifiUp()       { j.t.Helper(); j.ok(j.world.SpareUp(j.ctx)) }
func (j *journey) wifiDown()     { j.t.Helper(); j.ok(j.world.SpareDown()) }

func (j *journey) renew(to [2]netip.Addr) {
	j.t.Helper()
	j.ok(j.world.Renumber(j.ctx, to[0].String(), to[1].String()))
}

// laptop is a day in the life of one, with the tunnel up all the while.
var laptop = []step{
	{name: "Wi-Fi beside Ethernet", do: (*journey).wifiUp, from: ethernet},
	{name: "Ethernet gone, Wi-Fi is there", do: (*journey).ethernetDown, from: wifi},
	{name: "Ethernet back, beside Wi-Fi", do: (*journey).ethernetUp, from: ethernet},
	{name: "Wi-Fi gone, unused", do: (*journey).wifiDown, from: ethernet},
	{name: "Ethernet gone, then Wi-Fi", do: func(j *journey) { j.ethernetDown(); j.wifiUp() }, from: wifi},
	{name: "Wi-Fi gone, then Ethernet", do: func(j *journey) { j.wifiDown(); j.ethernetUp() }, from: ethernet},
	{name: "uplink gone and back", do: func(j *journey) { j.ethernetDown(); j.ethernetUp() }, from: ethernet},
	{name: "another address by DHCP", do: func(j *journey) { j.renew(renewed) }, from: renewed},
	{name: "the old address again", do: func(j *journey) { j.renew(ethernet) }, from: ethernet},
	{name: "rules and routes deleted by others", do: (*journey).purge, from: ethernet},
}

func TestExcludedProgramsFollowTheUplink(t *testing.T) {
	t.Parallel()
	j := newJourney(newRig(t, lab.Options{Spare: true, MaxFlows: 1 << 18}))
	for range times(1) {
		for _, s := range laptop {
			j.make(s)
		}
	}
	j.finish()
}

// purge deletes the routes and rules of programs that are not its own, as systemd-networkd does: sidestep's here, since
// nobody puts the tunnel's back.
func (j *journey) purge() {
	j.t.Helper()
	rules, routes := j.ours()
	j.ok(j.world.Machine.Do(func() error {
		for _, rule := range rules {
			if err := netlink.RuleDel(&rule); err != nil {
				return err
			}
		}
		for _, r := range routes {
			if err := netlink.RouteDel(&r); err != nil {
				return fmt.Errorf("%v: %w", r, err)
			}
		}
		if deleted := len(rules) + len(routes); deleted < 4 {
			return fmt.Errorf("there were %d rules and routes to delete, want two rules in each family at least", deleted)
		}
		return nil
	}))
}

// ours are sidestep's rules and routes.
func (r *rig) ours() (rules []netlink.Rule, routes []netlink.Route) {
	r.t.Helper()
	r.ok(r.world.Machine.Do(func() error {
		for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
			all, err := netlink.RuleList(family)
			if err != nil {
				return err
			}
			for _, rule := range all {
				if rule.Protocol == route.DefaultProtocol {
					rules = append(rules, rule)
				}
			}
			table := &netlink.Route{Table: int(route.DefaultTable)}
			found, err := netlink.RouteListFiltered(family, table, netlink.RT_FILTER_TABLE)
			if err != nil {
				return err
			}
			routes = append(routes, found...)
		}
		return nil
	}))
	return rules, routes
}
