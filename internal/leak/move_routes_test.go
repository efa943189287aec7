package leak_test

import (
	"net"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"sidestep/internal/lab"
	"sidestep/internal/route"
)

// TestTenThousandRoutesStarveNobody fills the main table, as a router's daemon does, and empties it. The networks are
// private ones, which the guard has to know, too.
func TestTenThousandRoutesStarveNobody(t *testing.T) {
	t.Parallel()
	j := newJourney(newRig(t, lab.Options{MaxFlows: 1 << 18}))
	for range times(1) {
		j.floodRoutes("10,000 routes", netlink.RouteAdd, 10_000)
		j.floodRoutes("10,000 routes gone", netlink.RouteDel, 0)
	}
	j.finish()
}

// floodRoutes does something to 10,000 routes, and fails unless the daemon goes on answering, and comes to rest with this
// many of them in its own table.
func (j *journey) floodRoutes(name string, do func(*netlink.Route) error, left int) {
	j.t.Helper()
	began, used := time.Now(), j.daemon.used()
	var answered time.Duration
	j.make(step{name: name, from: ethernet, do: func(j *journey) {
		done := make(chan error, 1)
		go func() { done <- j.world.Machine.Do(func() error { return eachRoute(do) }) }()
		answered = j.answers(done)
	}})
	j.wait("sidestep's table to follow", func() bool { return j.copied() == left })
	took := time.Since(began)
	j.wait("the daemon to come to rest", j.resting())
	used = j.daemon.used() - used
	j.t.Logf("%s: copied after %v; the daemon has used %v of a CPU, and answered within %v", name, took, used, answered)
	if answered > 3*late {
		j.t.Errorf("%s: a call has taken %v", name, answered)
	}
	if used > took+late {
		j.t.Errorf("%s: the daemon has used %v of a CPU in %v", name, used, took)
	}
}

// eachRoute does something to routes to 10,000 networks by the uplink's router.
func eachRoute(do func(*netlink.Route) error) error {
	return onLink(lab.UplinkName, func(l netlink.Link) error {
		for i := range 10_000 {
			r := &netlink.Route{Dst: network(i), Gw: net.ParseIP(lab.LAN4), LinkIndex: l.Attrs().Index}
			if err := do(r); err != nil {
				return err
			}
		}
		return nil
	})
}

// network is the private network with this number.
func network(number int) *net.IPNet {
	return &net.IPNet{IP: net.IPv4(10, 128+byte(number>>8), byte(number), 0), Mask: net.CIDRMask(24, 32)}
}

// copied is how many of the networks are in sidestep's table.
func (j *journey) copied() (n int) {
	j.t.Helper()
	all := net.IPNet{IP: net.IPv4(10, 128, 0, 0), Mask: net.CIDRMask(9, 32)}
	j.ok(j.world.Machine.Do(func() error {
		ours := &netlink.Route{Table: int(route.DefaultTable)}
		routes, err := netlink.RouteListFiltered(unix.AF_INET, ours, netlink.RT_FILTER_TABLE)
		for _, r := range routes {
			if r.Dst != nil && all.Contains(r.Dst.IP) {
				n++
			}
		}
		return err
	}))
	return n
}

// answers asks the daemon for changes until done, and returns how long it has taken at worst.
func (j *journey) answers(done <-chan error) (worst time.Duration) {
	j.t.Helper()
	path := "/nowhere/" + j.t.Name()
	for {
		began := time.Now()
		j.exclude(path)
		j.include(path)
		worst = max(worst, time.Since(began))
		select {
		case err := <-done:
			j.ok(err)
			return worst
		default:
		}
	}
}

// resting returns what tells whether the daemon has used no CPU for a while.
func (j *journey) resting() func() bool {
	used, since := j.daemon.used(), time.Now()
	return func() bool {
		if now := j.daemon.used(); now != used {
			used, since = now, time.Now()
		}
		return time.Since(since) > 300*time.Millisecond
	}
}
