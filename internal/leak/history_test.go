package leak_test

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"sidestep/internal/lab"
)

var (
	seedFlag   = flag.Uint64("seed", 0, "seed of the random history; 0: a new one each time")
	stepsFlag  = flag.Int("steps", 0, "steps of the random history; 0: as many as 25 seconds are enough for, with -long 4 minutes")
	shrinkFlag = flag.Bool("shrink", false, "if the random history fails, look for a shorter one that does, too")
)

// TestHistoryIsWhatTheRulesSay plays a random history on a machine with a tunnel and a daemon: processes come, go and
// change; they make, use and share sockets; the policy changes; the daemon dies and comes back; so does the tunnel.
// What every call answers, and what both wires show, must be what the rules say.
func TestHistoryIsWhatTheRulesSay(t *testing.T) {
	t.Parallel()
	seed := *seedFlag
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("-seed=%d", seed)
	h := newHistory(t, seed)
	steps := numbered(cmp.Or(*stepsFlag, 1<<20))
	if *stepsFlag == 0 {
		h.until = time.Now().Add(playFor())
	}
	err := h.play(steps)
	t.Logf("%d steps", h.played)
	if err == nil {
		return
	}
	t.Errorf("%s\n%v\nplay it again with -seed=%d -steps=%d, and -shrink for less of it", h.story(), err, seed, h.played)
	if h.d != nil {
		t.Logf("the daemon says: %+v", h.status())
	}
	if *shrinkFlag {
		t.Log(shrink(t, seed, steps[:h.played]))
	}
}

func playFor() time.Duration {
	if *long {
		return 4 * time.Minute
	}
	return 25 * time.Second
}

// TestHistoryFindsWhatIsWrong is the sensor: what is told to the daemon is not what the rules believe, or a packet is on
// the wrong side.
func TestHistoryFindsWhatIsWrong(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(h *history, in, out []string) error{
		"nobody is excluded": func(h *history, _, out []string) error { return nil },
		"nobody is included": func(h *history, in, _ []string) error { return h.tell(in, nil) },
		"one packet is on the other side": func(h *history, in, out []string) error {
			h.stray()
			return h.tell(in, out)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHistory(t, rand.Uint64())
			h.govern = func(in, out []string) error { return spoil(h, in, out) }
			err := h.play(numbered(2000))
			if err == nil {
				t.Errorf("nothing is wrong in %d steps", h.played)
			}
			t.Log(err)
		})
	}
}

func numbered(n int) (all []int) {
	for i := range n {
		all = append(all, i)
	}
	return all
}

// A history is a machine to which random things happen, and the rules that say what must come of them.
//
// Each step draws from a source of its own, and names are those of steps: what is left of a history when steps are left
// out is much the same.
type history struct {
	*rig
	rules *rules

	seed   uint64
	rng    *rand.Rand // of the step that is being played
	step   int
	played int
	until  time.Time // the end, if there is one before the last step
	told   []string

	govern  func(in, out []string) error // tells the daemon of a change
	d       *daemon                      // nil while none runs
	stopped bool                         // what it did is taken back, then
	down    bool                         // the tunnel is
	files   []string
	paths   []string
	actors  []*member

	traces map[netip.Addr]*trace
	due    []*trace           // what is to be seen, or to be over, when the wires are compared
	read   map[side]lab.Flows // the wires, when they were read last
	peers  int

	end context.Context
	far sync.WaitGroup
}

// newHistory makes a world with a daemon, and nobody in it.
func newHistory(t *testing.T, seed uint64) *history {
	t.Helper()
	h := &history{
		rig: newRig(t, lab.Options{}), rules: newRules(), seed: seed,
		traces: map[netip.Addr]*trace{}, read: map[side]lab.Flows{},
	}
	h.govern = h.tell
	h.addNetworks()
	h.ok(h.world.Machine.Do(func() error { return setSysctl("ipv4/ip_local_port_range", portsAny) }))
	h.serveLoopback()
	for _, f := range []string{"bin/a", "bin/b", "opt/c", "opt/deep/d", "plain/e"} {
		h.files = append(h.files, h.install(f))
	}
	for _, p := range []string{"bin/a", "bin/b", "opt/", "opt/deep/d"} {
		h.paths = append(h.paths, h.dir+"/"+p)
	}
	h.d = h.daemon()
	return h
}

// play plays steps, and says how what comes of them differs from what the rules say.
func (h *history) play(steps []int) error {
	const together = 10 // steps, before the wires are compared
	for _, h.step = range steps {
		if !h.until.IsZero() && time.Now().After(h.until) {
			break
		}
		h.rng = rand.New(rand.NewPCG(h.seed, uint64(h.step)))
		h.played++
		err := h.next()
		if err == nil && h.played%together == 0 {
			err = h.compare()
		}
		if err != nil {
			return err
		}
	}
	return h.compare()
}

// does notes what is about to happen.
func (h *history) does(format string, args ...any) (what string) {
	what = fmt.Sprintf("%5d  ", h.step) + fmt.Sprintf(format, args...)
	h.told = append(h.told, what)
	return what
}

// story is the history so far, as far as it can be read.
func (h *history) story() string {
	const enough = 2000
	return strings.Join(h.told[max(0, len(h.told)-enough):], "\n")
}

// shrink looks for a part of a history that fails, too: it leaves out what it can, in ever smaller pieces.
func shrink(t *testing.T, seed uint64, steps []int) string {
	t.Helper()
	shortest := "no part of it fails"
	fails := func(part []int) (fails bool) {
		t.Run(fmt.Sprintf("%d steps", len(part)), func(t *testing.T) {
			h := newHistory(t, seed)
			if err := h.play(part); err != nil {
				shortest, fails = fmt.Sprintf("%s\n%v", h.story(), err), true
			}
		})
		return fails
	}
	for size := len(steps) / 2; size > 0; size /= 2 {
		for at := 0; at < len(steps); {
			part := slices.Concat(steps[:at], steps[min(at+size, len(steps)):])
			if fails(part) {
				steps = part
			} else {
				at += size
			}
		}
	}
	return shortest
}
