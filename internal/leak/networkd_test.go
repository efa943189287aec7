package leak_test

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"sidestep/api"
	"sidestep/internal/lab"
)

// dockName is a link that networkd manages, too, and dockIndex its number, which is known before it comes.
const (
	dockName  = "dock0"
	dockIndex = 4242
)

// A networkd is the real systemd-networkd, on a journey. It has the machine's network namespace, and what it needs of a
// machine of its own: nobody else's configuration, no bus, and what udev would say of links.
type networkd struct {
	*journey
	path string
	dir  string // for its configuration
	cmd  *exec.Cmd
}

// networkdRuns starts $0 with the configuration in $1. Did /sys look as in a container, networkd would configure links
// before it has read the rules, and delete none as it starts.
var networkdRuns = fmt.Sprintf(`set -e
mount -t tmpfs none /run
mkdir -p /run/systemd/network /run/systemd/netif/links /run/systemd/netif/leases /run/udev/data
cp -r "$1/networkd.conf.d" /run/systemd
chown -R systemd-network: /run/systemd/netif
mount --bind "$1/network" /run/systemd/network
mount -t tmpfs none /etc/systemd/network
mount -t sysfs none /sys
for i in $(cat /sys/class/net/*/ifindex) %d; do echo I:1 > /run/udev/data/n$i; done
exec "$0"`, dockIndex)

// TestExcludedProgramsStayOutsideBesideNetworkd has networkd govern the uplink. It deletes rules and routes that it has not
// made as it starts, and whenever a link comes that it manages. The tunnel's rules are in its configuration: those stay.
func TestExcludedProgramsStayOutsideBesideNetworkd(t *testing.T) {
	t.Parallel()
	path := needProgram(t, "systemd", "/lib/systemd/systemd-networkd")
	r := newRig(t, lab.Options{MaxFlows: 1 << 18})
	n := &networkd{journey: &journey{rig: r}, path: path, dir: t.TempDir()}
	n.manage(dockName, "[Network]", "LinkLocalAddressing=no")
	n.uplink(ethernet)
	n.foreign("yes") // as is usual
	n.start()        // the tunnel's rules are deleted, and come back as networkd's own
	n.journey = newJourney(r)
	n.flood.pardon = true // peers that were not told of a close, for want of an uplink, repeat themselves late
	steps := []step{
		{name: "networkd restarts, and the daemon sleeps", from: ethernet, do: func(*journey) { n.deletes(n.restart, true) }},
		{name: "networkd restarts", from: ethernet, do: func(*journey) { n.restart() }},
		{name: "a link comes, and the daemon sleeps", from: ethernet, do: func(*journey) { n.deletes(n.dock, false); n.undock() }},
		{name: "a link comes", from: ethernet, do: func(*journey) { n.dock() }},
		{name: "a link goes", from: ethernet, do: func(*journey) { n.undock() }},
		{name: "another address", from: renewed, do: func(*journey) { n.uplink(renewed); n.restart() }},
		{name: "the old address again", from: ethernet, do: func(*journey) { n.uplink(ethernet); n.restart() }},
		{name: "the cable is pulled and put back", from: ethernet, exposed: true, do: func(*journey) { n.pull() }},
		{name: "networkd restarts, and lets be", from: ethernet, do: func(*journey) { n.spares() }},
	}
	for range times(1) {
		for _, s := range steps {
			n.make(s)
			n.wait("the daemon to be engaged", func() bool { return n.status().State == api.Engaged })
		}
	}
	n.finish()
}

// manage writes the configuration of a link.
func (n *networkd) manage(link string, lines ...string) {
	n.t.Helper()
	n.write("network/"+link+".network", append([]string{"[Match]", "Name=" + link}, lines...)...)
}

// foreign writes what networkd does about rules that it has not made.
func (n *networkd) foreign(manage string) {
	n.t.Helper()
	n.write("networkd.conf.d/foreign.conf", "[Network]", "ManageForeignRoutingPolicyRules="+manage)
}

func (n *networkd) write(name string, lines ...string) {
	n.t.Helper()
	path := filepath.Join(n.dir, name)
	n.ok(os.MkdirAll(filepath.Dir(path), 0o755))
	n.ok(os.WriteFile(path, []byte(strings.Join(lines, "\n")+"\n"), 0o644))
}

// uplink writes that of the uplink, with these addresses and the tunnel's rules.
func (n *networkd) uplink(addrs [2]netip.Addr) {
	n.t.Helper()
	n.manage(lab.UplinkName, "[Network]", "IPv6AcceptRA=no",
		"Address="+addrs[0].String()+"/24", "Gateway="+lab.LAN4, "Address="+addrs[1].String()+"/64", "Gateway="+lab.LAN6,
		"[RoutingPolicyRule]", "Family=both", "Priority=32764", "Table=main", "SuppressPrefixLength=0",
		"[RoutingPolicyRule]", "Family=both", "Priority=32765", "InvertRule=yes",
		fmt.Sprintf("FirewallMark=%d", lab.Fwmark), fmt.Sprintf("Table=%d", lab.Fwmark))
}

// start starts networkd, and waits until it has configured the uplink.
func (n *networkd) start() {
	n.t.Helper()
	n.cmd = exec.Command("unshare", "--mount", "--propagation", "private", "sh", "-c", networkdRuns, n.path, n.dir)
	n.cmd.Stderr = n.t.Output()
	n.ok(n.world.Machine.Start(n.cmd))
	n.configured(n.index(lab.UplinkName))
}

func (n *networkd) restart() {
	n.t.Helper()
	n.ok(n.cmd.Process.Signal(unix.SIGTERM))
	n.ok(n.cmd.Wait())
	n.start()
}

// configured waits until networkd says that it has configured a link.
func (n *networkd) configured(index int) {
	n.t.Helper()
	state := fmt.Sprintf("/proc/%d/root/run/systemd/netif/links/%d", n.cmd.Process.Pid, index)
	n.wait(fmt.Sprintf("networkd to configure link %d", index), func() bool {
		text, err := os.ReadFile(state)
		return err == nil && strings.Contains(string(text), "ADMIN_STATE=configured\n")
	})
}

// dock adds a link.
func (n *networkd) dock() {
	n.t.Helper()
	n.ok(n.world.Machine.Do(func() error {
		const plug = dockName + "-plug"
		dock := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: dockName, Index: dockIndex}, PeerName: plug}
		if err := netlink.LinkAdd(dock); err != nil {
			return err
		}
		return onLink(plug, netlink.LinkSetUp)
	}))
	n.configured(dockIndex)
}

func (n *networkd) undock() {
	n.t.Helper()
	n.ok(n.world.Machine.Do(func() error { return onLink(dockName, netlink.LinkDel) }))
}

// pull takes the uplink its carrier. networkd takes all back that it had configured, the tunnel's rules too, and configures
// it again. The router, whose end that is, loses its address.
func (n *networkd) pull() {
	n.t.Helper()
	router := func(do func(netlink.Link) error) {
		n.ok(n.world.Router.Do(func() error { return onLink("lan0", do) }))
	}
	router(netlink.LinkSetDown)
	n.wait("networkd to take the uplink's addresses", func() bool { return !n.leavesFrom(ethernet) })
	n.flood.rounds(2)
	router(netlink.LinkSetUp)
	router(func(l netlink.Link) error { return addAddrs(l, []string{lab.LAN6 + "/64"}) })
	n.wait("networkd to give the uplink's addresses back", func() bool { return n.leavesFrom(ethernet) })
}

// leavesFrom reports whether programs that know the uplink leave from these addresses. It sends nothing.
func (n *networkd) leavesFrom(addrs [2]netip.Addr) bool {
	n.t.Helper()
	for i, host := range internet {
		to := netip.AddrPortFrom(host, excludedPort).String()
		conn, err := n.world.Machine.Dial(n.ctx, "udp", to, lab.Mark(lab.Fwmark))
		if err != nil {
			return false
		}
		from := netip.MustParseAddrPort(conn.LocalAddr().String()).Addr()
		n.ok(conn.Close())
		if from != addrs[i] {
			return false
		}
	}
	return true
}

// deletes fails unless networkd deletes sidestep's rules while the daemon sleeps, and the routes, too, of links that it
// configures, and unless all is back once the daemon is awake.
func (n *networkd) deletes(as func(), routesToo bool) {
	n.t.Helper()
	rules, routes := n.ours()
	n.asleep(func() {
		as()
		n.wait("networkd to delete rules and routes", func() bool {
			rulesLeft, routesLeft := n.ours()
			return len(rulesLeft) == 0 && routesToo == (len(routesLeft) == 0)
		})
	})
	woken := time.Now()
	n.wait("sidestep's rules and routes", func() bool {
		nowRules, nowRoutes := n.ours()
		return len(nowRules) == len(rules) && len(nowRoutes) >= len(routes) // a link that has come may have some
	})
	took := time.Since(woken)
	n.note("deleted rules and routes are back", took)
	if took > late {
		n.t.Errorf("sidestep's rules and routes are back after %v, want a second", took)
	}
}

// spares fails unless networkd lets sidestep's rules be if that is its configuration.
func (n *networkd) spares() {
	n.t.Helper()
	before, _ := n.ours()
	n.foreign("no")
	n.asleep(n.restart)
	if rules, _ := n.ours(); len(rules) != len(before) {
		n.t.Errorf("networkd has left %d of %d rules", len(rules), len(before))
	}
	n.foreign("yes")
}
