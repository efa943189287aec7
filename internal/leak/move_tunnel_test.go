package leak_test

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"sidestep/api"
	"sidestep/internal/lab"
)

// reconnections are what a VPN client does when it connects anew. There is no tunnel for a while, and then one of
// another name, or of another name all at once.
var reconnections = []step{
	{name: "tunnel back under another name", do: func(j *journey) { j.reconnect("tun-b") }, from: ethernet, exposed: true},
	{name: "tunnel renamed", do: func(j *journey) { j.rename("tun-b", "tun-c") }, from: ethernet},
	{name: "tunnel back as it was", do: func(j *journey) { j.reconnect(lab.TunnelName) }, from: ethernet, exposed: true},
}

// reconnect deletes the tunnel, and makes another one.
func (j *journey) reconnect(name string) {
	j.t.Helper()
	j.ok(j.world.TunnelDown())
	j.ok(j.world.TunnelUpAs(j.ctx, name))
}

func (j *journey) rename(from, to string) {
	j.t.Helper()
	j.ok(j.world.Machine.Do(func() error {
		return onLink(from, func(l netlink.Link) error { return netlink.LinkSetName(l, to) })
	}))
}

func TestExcludedProgramsStayOutsideWhileTheTunnelReconnects(t *testing.T) {
	t.Parallel()
	j := newJourney(newRig(t, lab.Options{MaxFlows: 1 << 18}))
	j.flood.pardon = true // peers of what it had closed before it was excluded may repeat themselves late, under load
	for range times(1) {
		for _, s := range reconnections {
			j.make(s)
		}
	}
	j.wait("the tunnel's own name again", func() bool {
		tunnels := j.status().Tunnels
		return len(tunnels) == 1 && tunnels[0] == lab.TunnelName
	})
	j.finish()
}

// TestDaemonThatSleepsThroughChangesCatchesUp is suspend and resume for the daemon: the world goes on without it, and it is
// not told of everything. (Its clock can't be set for it alone; what a jump of the clock does is tested in internal/netmon.)
func TestDaemonThatSleepsThroughChangesCatchesUp(t *testing.T) {
	t.Parallel()
	j := newJourney(newRig(t, lab.Options{Spare: true, MaxFlows: 1 << 18}))
	j.flood.pardon = true // as above
	steps := []step{
		{name: "woken on Wi-Fi, with another tunnel", from: wifi, exposed: true, do: func(j *journey) {
			j.asleep(func() {
				j.ethernetDown()
				j.wifiUp()
				j.reconnect("tun-b")
				j.purge()
				j.overflow()
			})
		}},
		{name: "woken on Ethernet, with the old tunnel", from: ethernet, exposed: true, do: func(j *journey) {
			j.asleep(func() {
				j.reconnect(lab.TunnelName)
				j.overflow()
				j.wifiDown()
				j.ethernetUp()
			})
		}},
		// docs/limits.md: tunnels that come back while nobody looks push sidestep's rules to the front, until one is missed.
		{name: "tunnel missed and back", from: ethernet, exposed: true, do: func(j *journey) {
			j.ok(j.world.TunnelDown())
			j.wait("the tunnel to be missed", func() bool { return j.status().State == api.Ready })
			j.ok(j.world.TunnelUp(j.ctx))
		}},
		{name: "woken where it fell asleep", from: ethernet, do: func(j *journey) {
			j.asleep(func() {
				j.wifiUp()
				j.ethernetDown()
				j.ethernetUp()
				j.wifiDown()
			})
		}},
	}
	for range times(1) {
		for _, s := range steps {
			j.make(s)
		}
	}
	j.finish()
}

// asleep stops the daemon, as a debugger does, lets something happen, and wakes it.
func (j *journey) asleep(during func()) {
	j.t.Helper()
	j.ok(j.daemon.cmd.Process.Signal(unix.SIGSTOP))
	during()
	j.flood.rounds(2)
	j.ok(j.daemon.cmd.Process.Signal(unix.SIGCONT))
}

// overflow makes more changes than the daemon's socket has room for, and fails unless some were lost.
func (j *journey) overflow() {
	j.t.Helper()
	lost := j.lost()
	j.ok(j.world.Machine.Do(func() error {
		for i := range 2000 {
			r := &netlink.Route{Dst: network(i), Type: unix.RTN_BLACKHOLE, Table: 4242}
			if err := netlink.RouteAdd(r); err != nil {
				return err
			}
			if err := netlink.RouteDel(r); err != nil {
				return err
			}
		}
		return nil
	}))
	if j.lost() == lost {
		j.t.Error("the daemon was told of every change, want some to be lost")
	}
}

// lost is how many messages the kernel could not give to netlink sockets of the machine.
func (j *journey) lost() (n int) {
	j.t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/netlink", j.daemon.cmd.Process.Pid))
	j.ok(err)
	for line := range strings.Lines(string(b)) {
		var drops int
		if f := strings.Fields(line); len(f) == 10 {
			if _, err := fmt.Sscan(f[8], &drops); err == nil {
				n += drops
			}
		}
	}
	return n
}
