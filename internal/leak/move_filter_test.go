package leak_test

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"sidestep"
	"sidestep/internal/lab"
)

// TestReversePathFilterIsRelaxedOnTheUplinkAlone moves between two uplinks that are both strict. What is not the uplink any
// more is strict again, and in the end everything is as it was.
func TestReversePathFilterIsRelaxedOnTheUplinkAlone(t *testing.T) {
	t.Parallel()
	r := newRig(t, lab.Options{Spare: true})
	r.ok(r.world.Machine.Do(func() error {
		for _, link := range []string{lab.UplinkName, lab.SpareName} {
			if err := setSysctl("ipv4/conf/"+link+"/rp_filter", "1"); err != nil {
				return err
			}
		}
		return nil
	}))
	ctx, cancel := context.WithTimeout(r.ctx, 300*time.Millisecond)
	defer cancel()
	if from, err := r.world.Machine.Source(ctx, "udp", internet4(servicePort).String(), lab.Mark(lab.Fwmark)); err == nil {
		t.Errorf("an answer to %v has come by a strict uplink: the sensor is blind", from)
	}
	before := r.footprint()
	_, stop := r.engage(sidestep.Options{})
	listed := r.install("listed")
	r.exclude(listed)
	a := r.start(listed)
	r.wantFilters("2", "1")
	r.speaks(a, ethernet, servicePort)
	r.ok(r.world.SpareUp(r.ctx))
	r.ok(r.world.UplinkDown())
	r.wantFilters("1", "2")
	r.speaks(a, wifi, servicePort)
	r.ok(r.world.UplinkUp(r.ctx))
	r.wantFilters("2", "1")
	r.speaks(a, ethernet, servicePort)
	r.ok(r.world.SpareDown())
	stop()
	if diff := cmp.Diff(before, r.footprint()); diff != "" {
		t.Errorf("the network is not as it was (-before +after):\n%s", diff)
	}
}

// wantFilters waits until the reverse path filters of the two uplinks have these values.
func (r *rig) wantFilters(first, second string) {
	r.t.Helper()
	want := first + " " + second
	r.wait(fmt.Sprintf("rp_filter %s on the uplinks", want), func() bool {
		var values []string
		r.ok(r.world.Machine.Do(func() error {
			for _, link := range []string{lab.UplinkName, lab.SpareName} {
				b, err := os.ReadFile("/proc/sys/net/ipv4/conf/" + link + "/rp_filter")
				if err != nil {
					return err
				}
				values = append(values, strings.TrimSpace(string(b)))
			}
			return nil
		}))
		return strings.Join(values, " ") == want
	})
}
