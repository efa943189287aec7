package leak_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"sidestep/internal/lab"
	"sidestep/internal/lab/actor"
)

// These are ports of their own: traffic of included programs to the others would be on the wrong side outside.
const (
	excludedPort = servicePort + 1
	includedPort = servicePort + 2
)

// A journey is a machine under traffic that does not pause while its network changes: a flood and a program that are
// excluded, and, over both families, a download and datagrams of an included one.
type journey struct {
	*rig
	flood     *flood
	listed    *actor.Actor
	daemon    *daemon
	downloads []*download
	beats     []*beat
	took      map[string][]time.Duration
	names     []string // of what took
}

// A step is a change of the network. It returns when the new network works, by the system's own tools.
type step struct {
	name string
	do   func(*journey)
	// from is where excluded programs come from after it.
	from [2]netip.Addr
	// exposed says that there is no tunnel for a while: without a kill switch, nobody keeps included programs in it.
	exposed bool
}

// late is when a change has not been followed at all. The promise is a second; a machine with many tests on it may take
// longer.
const late = 5 * time.Second

func newJourney(r *rig) *journey {
	r.t.Helper()
	j := &journey{rig: r, daemon: r.daemon(), took: map[string][]time.Duration{}}
	listed := r.install("listed")
	j.flood = r.flood("flood", 0)
	for i, host := range internet {
		to := netip.AddrPortFrom(host, includedPort)
		j.downloads = append(j.downloads, r.downloadFrom(to, sources[inside][i]))
		j.beats = append(j.beats, r.beat(to, sources[inside][i]))
	}
	r.exclude(j.flood.path, listed)
	j.listed = r.start(listed)
	j.flood.sentInside() // what it had closed until now is not looked for
	return j
}

// finish is the end: what was downloaded is complete, and how long things took is told.
func (j *journey) finish() {
	j.t.Helper()
	for _, d := range j.downloads {
		d.finish()
	}
	j.include(j.flood.path)
	j.flood.end()
	for _, name := range j.names {
		all := slices.Sorted(slices.Values(j.took[name]))
		j.t.Logf("%-50s %4d ms (median of %d; worst %d ms)", name, all[len(all)/2].Milliseconds(), len(all),
			all[len(all)-1].Milliseconds())
	}
}

// make makes a step, and fails unless excluded programs follow, nothing of them is in the tunnel, and included ones go on
// in the tunnel alone.
func (j *journey) make(s step) {
	j.t.Helper()
	in, out := j.flood.sent(inside), j.included()
	s.do(j)
	j.note(s.name, j.follows(s.from))
	j.flood.probes = j.rig.probes() // those that there were have the addresses of the past
	j.flood.appears(outside)
	j.flood.wantNoMore(inside, in, s.name+": an excluded flood")
	j.wantNothing(inside, excludedPort)
	for i := range j.downloads {
		j.downloads[i].grows()
		j.beats[i].goesOn()
	}
	if n := j.included() - out; n != 0 && !s.exposed {
		j.t.Errorf("%s: %d packets of included programs are outside", s.name, n)
	}
}

func (j *journey) note(name string, took time.Duration) {
	if j.took[name] == nil {
		j.names = append(j.names, name)
	}
	j.took[name] = append(j.took[name], took)
}

// included counts the packets of included programs that have left outside.
func (j *journey) included() uint64 {
	j.t.Helper()
	n, err := j.wire(outside).Count(lab.Match{Direction: lab.Sent, DstPort: includedPort})
	j.ok(err)
	return n
}

// follows returns how long after the system's own traffic that of an excluded program works, from these addresses.
func (j *journey) follows(from [2]netip.Addr) time.Duration {
	j.t.Helper()
	own := make(chan time.Time, 1)
	go func() { own <- j.works(from) }()
	j.awaits(j.listed, from)
	j.speaks(j.listed, from, excludedPort)
	took := max(0, time.Since(<-own))
	if took > late {
		j.t.Errorf("excluded programs have followed %v after the system, want a second", took)
	}
	return took
}

// works returns when programs that know the uplink have been answered from these addresses, as the tunnel's transport is.
func (j *journey) works(from [2]netip.Addr) time.Time {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for i, host := range internet {
		to := netip.AddrPortFrom(host, excludedPort).String()
		for j.ctx.Err() == nil {
			got, err := j.world.Machine.Source(j.ctx, "tcp", to, lab.Mark(lab.Fwmark))
			if err == nil && got.Addr() == from[i] {
				break
			}
			<-tick.C
		}
	}
	return time.Now()
}

// A beat is an included program, this one, that asks again and again by one UDP socket.
type beat struct {
	*rig
	conn net.Conn
	as   netip.Addr
	got  atomic.Int64
}

// beatEvery is how often it asks.
const beatEvery = 10 * time.Millisecond

// beat asks a service that knows this machine by the address as.
func (r *rig) beat(service netip.AddrPort, as netip.Addr) *beat {
	r.t.Helper()
	conn, err := r.world.Machine.Dial(r.ctx, "udp", service.String())
	r.ok(err)
	b := &beat{rig: r, conn: conn, as: as}
	ctx, stop := context.WithCancel(r.ctx)
	var wg sync.WaitGroup
	r.t.Cleanup(func() { stop(); conn.Close(); wg.Wait() })
	wg.Go(func() { b.ask(ctx) })
	wg.Go(func() { b.listen(ctx) })
	b.goesOn()
	return b
}

func (b *beat) ask(ctx context.Context) {
	tick := time.NewTicker(beatEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		_, _ = io.WriteString(b.conn, "beat") // there may be no way just now
	}
}

func (b *beat) listen(ctx context.Context) {
	answer := make([]byte, 256)
	for ctx.Err() == nil {
		n, err := b.conn.Read(answer)
		if err != nil {
			continue // an ICMP error; the end closes the socket and the context
		}
		text, _, _ := strings.Cut(string(answer[:n]), "\n")
		if from, err := netip.ParseAddrPort(text); err != nil || from.Addr() != b.as {
			b.t.Errorf("an included program is known as %q, want %v", text, b.as)
		}
		b.got.Add(1)
	}
}

// goesOn waits until there are more answers.
func (b *beat) goesOn() {
	b.t.Helper()
	before := b.got.Load()
	b.wait("answers to an included program", func() bool { return b.got.Load() > before+2 })
}

// used is how much of the CPUs the daemon has used so far.
func (d *daemon) used() time.Duration {
	d.r.t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", d.cmd.Process.Pid))
	d.r.ok(err)
	fields := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+2:])) // from the third on
	var ticks int64
	for _, f := range fields[11:13] { // utime, stime
		n, err := strconv.ParseInt(f, 10, 64)
		d.r.ok(err)
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond // USER_HZ is 100
}
