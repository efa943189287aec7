package leak_test

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"sidestep/internal/doctor"
	"sidestep/internal/lab"
)

// A trail is a flow as it can be told on any wire, whatever the local address and port: the flood reaches no peer by
// two sockets, nor by one socket before and after it was connected anew.
type trail struct {
	proto uint8
	peer  netip.AddrPort
}

func (t trail) String() string { return fmt.Sprintf("proto %d to %v", t.proto, t.peer) }

// A load is how much there was of a flow. A packet of 40 bytes, over IPv6 of 60, is a reset by nobody's socket.
type load struct{ packets, bytes uint64 }

// A count is what a flood has sent on a side, by flow.
type count map[trail]load

// resetsPass reports whether the kernel has no hook for some resets by nobody's socket, and answers of connections in
// TIME-WAIT: docs/limits.md.
var resetsPass = sync.OnceValue(func() bool { return doctor.Offers("netfilter programs") != nil })

// pardons reports whether a flow is of nothing but resets by nobody's socket that docs/limits.md lets pass: of connections
// that were in the tunnel, because what an app had closed before it was excluded leaves no trace.
func (f *flood) pardons(fl lab.Flow) bool {
	headers := map[lab.Family]uint64{lab.IPv4: 20 + 20, lab.IPv6: 40 + 20}[fl.Family]
	own := sources[inside]
	return fl.Proto == lab.TCP && fl.Bytes == headers*fl.Packets && (resetsPass() || f.pardon && slices.Contains(own[:], fl.Src))
}

// sent returns what the flood has sent on a side so far.
func (f *flood) sent(s side) lab.Flows {
	f.t.Helper()
	flows, err := f.wire(s).Flows()
	f.ok(err)
	return slices.DeleteFunc(flows, func(fl lab.Flow) bool {
		return fl.Direction != lab.Sent || f.pardons(fl) || !f.peers[0].Contains(fl.Dst) && !f.peers[1].Contains(fl.Dst)
	})
}

func counted(flows lab.Flows) count {
	c := count{}
	for _, fl := range flows {
		t := trail{fl.Proto, netip.AddrPortFrom(fl.Dst, fl.DstPort)}
		c[t] = load{c[t].packets + fl.Packets, c[t].bytes + fl.Bytes}
	}
	return c
}

// more returns what the flood has sent on a side since an earlier look, but for connections that it had closed before it was
// excluded. When that is nothing it has taken no time.
func (f *flood) more(s side, earlier lab.Flows) count {
	f.t.Helper()
	now := f.sent(s)
	if now.Count(lab.Match{}) == earlier.Count(lab.Match{}) {
		return nil
	}
	c := counted(slices.DeleteFunc(now.Since(earlier), f.pardons)) // of a flow that was there before, too
	if s == inside {
		maps.DeleteFunc(c, func(t trail, _ load) bool { return f.closed[t] })
	}
	return c
}

// trails lists the flows of a count.
func (c count) trails() []trail {
	return slices.SortedFunc(maps.Keys(c), func(a, b trail) int {
		return cmp.Or(cmp.Compare(a.proto, b.proto), a.peer.Compare(b.peer))
	})
}

// String names the flows, or the first of them.
func (c count) String() string {
	var some []string
	for _, t := range c.trails() {
		some = append(some, fmt.Sprintf("%v (%d packets, %d bytes)", t, c[t].packets, c[t].bytes))
	}
	if n := len(some); n > 5 {
		some = append(some[:5], fmt.Sprintf("and %d more flows", n-5))
	}
	return strings.Join(some, ", ")
}

// crossed returns what has left on each side so far, of the flows that have left on both.
func (f *flood) crossed() (in, out count) {
	f.t.Helper()
	f.drain()
	in, out = counted(f.sent(inside)), counted(f.sent(outside))
	maps.DeleteFunc(in, func(t trail, _ load) bool { return out[t] == load{} })
	maps.DeleteFunc(out, func(t trail, _ load) bool { return in[t] == load{} })
	return in, out
}

// A probe is a socket of nobody, on one side, that sends from one CPU.
type probe struct {
	cpu  int
	conn net.Conn
}

// probes makes one for each side and CPU.
func (r *rig) probes() []probe {
	r.t.Helper()
	var cpus unix.CPUSet
	r.ok(unix.SchedGetaffinity(0, &cpus))
	var probes []probe
	for cpu := range len(cpus) * 64 {
		if !cpus.IsSet(cpu) {
			continue
		}
		for _, mark := range []uint32{0, lab.Fwmark} {
			conn, err := r.world.Machine.Dial(r.ctx, "udp", internet4(servicePort).String(), lab.Mark(mark))
			r.ok(err)
			r.t.Cleanup(func() { r.ok(conn.Close()) })
			probes = append(probes, probe{cpu, conn})
		}
	}
	return probes
}

// drain returns when what was under way has arrived and been answered: a datagram has made the round trip on each side,
// from each CPU. Every CPU has a queue of its own for what comes over the uplink's cable.
func (f *flood) drain() {
	f.t.Helper()
	// WireGuard looks for another way 15 seconds after it has heard from its peer: KEEPALIVE_TIMEOUT and REKEY_TIMEOUT.
	ctx, cancel := context.WithTimeout(f.ctx, time.Minute)
	defer cancel()
	for _, p := range f.probes {
		f.ok(f.world.Machine.Do(func() error { return p.echo(ctx) }))
	}
}

// echo sends a datagram until its answer is there.
func (p probe) echo(ctx context.Context) error {
	var cpu unix.CPUSet
	cpu.Set(p.cpu)
	if err := unix.SchedSetaffinity(0, &cpu); err != nil {
		return err
	}
	question := time.Now().String()
	for ctx.Err() == nil {
		if _, err := io.WriteString(p.conn, question); err != nil {
			return err
		}
		if err := p.conn.SetReadDeadline(time.Now().Add(200 * time.Millisecond)); err != nil {
			return err
		}
		b := make([]byte, 256)
		for {
			n, err := p.conn.Read(b)
			if err != nil {
				break // too late, or an error of the past
			}
			if strings.HasSuffix(string(b[:n]), question) {
				return nil
			}
		}
	}
	return fmt.Errorf("no answer to %v: %w", p.conn.LocalAddr(), context.Cause(ctx))
}
