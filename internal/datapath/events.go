package datapath

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/ringbuf"
	"golang.org/x/sys/unix"

	"sidestep/internal/datapath/bpf"
	"sidestep/policy"
)

// An EventKind says what happened; the values are those of bpf/abi.h.
type EventKind uint32

const (
	Execed  = EventKind(bpf.DatapathEventKindEVENT_EXEC)    // a process became an app's by exec
	Forked  = EventKind(bpf.DatapathEventKindEVENT_FORK)    // a process was born one
	Exited  = EventKind(bpf.DatapathEventKindEVENT_EXIT)    // such a process ended
	Seeded  = EventKind(bpf.DatapathEventKindEVENT_SEED)    // a walk made it one
	Healed  = EventKind(bpf.DatapathEventKindEVENT_HEAL)    // the socket hook made it one
	Refused = EventKind(bpf.DatapathEventKindEVENT_REFUSED) // a socket, or a call on one, was refused
	Stopped = EventKind(bpf.DatapathEventKindEVENT_STOPPED) // the guard stopped a packet
)

// An Event is what the kernel part tells of one process.
type Event struct {
	Time      time.Time
	Kind      EventKind
	PID, PPID int
	App       uint32
	Cause     policy.Cause
	Reason    string // of Refused and Stopped: the name of its counter
	Comm      string

	// Of Stopped.
	Protocol      uint8
	Local, Remote netip.AddrPort
}

// Run delivers events to fn, in kernel order, until ctx ends. It is the ring's only reader and fn runs on its
// goroutine, so fn must not block. When the ring was full, lost is called with how many events are missing before the
// next one.
func (d *Datapath) Run(ctx context.Context, fn func(Event), lost func(uint64)) error {
	ring, err := ringbuf.NewReader(d.objs.Events)
	if err != nil {
		return fmt.Errorf("open the event ring: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { ring.Close() })
	defer stop()
	defer ring.Close()
	seen, err := d.stat(bpf.DatapathStatSTAT_EVENTS_LOST)
	if err != nil {
		return err
	}
	now, err := sinceBoot()
	if err != nil {
		return err
	}
	epoch := time.Now().Add(-now)
	for {
		record, err := ring.Read()
		if errors.Is(err, os.ErrClosed) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read the event ring: %w", err)
		}
		if n, err := d.stat(bpf.DatapathStatSTAT_EVENTS_LOST); err == nil && n != seen {
			lost(n - seen)
			seen = n
		}
		var e bpf.DatapathEvent
		if err := binary.Read(bytes.NewReader(record.RawSample), binary.NativeEndian, &e); err != nil {
			return fmt.Errorf("decode an event: %w", err)
		}
		fn(decode(&e, epoch))
	}
}

func decode(e *bpf.DatapathEvent, epoch time.Time) Event {
	ev := Event{
		Time: epoch.Add(time.Duration(e.Time)),
		Kind: EventKind(e.Kind), PID: int(e.Tgid), PPID: int(e.Ppid),
		App: e.App, Cause: policy.Cause(e.Cause), Comm: comm(e.Comm),
	}
	switch ev.Kind {
	case Stopped:
		ev.Protocol = e.Flow.Protocol
		ev.Local, ev.Remote = flowOf(e.Flow)
		fallthrough
	case Refused:
		ev.Reason = statName(e.Reason)
	}
	return ev
}

// sinceBoot is the kernel's clock for events, births and deadlines.
func sinceBoot() (time.Duration, error) {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
		return 0, fmt.Errorf("read the clock: %w", err)
	}
	return time.Duration(now.Nano()), nil
}

// Counters returns every counter of the kernel part by its name, as docs/api.md lists them.
func (d *Datapath) Counters() (map[string]uint64, error) {
	all := map[string]uint64{}
	for s := range bpf.DatapathStat(bpf.DatapathStatSTAT_MAX) {
		n, err := d.stat(s)
		if err != nil {
			return nil, err
		}
		all[statName(s)] = n
	}
	var err error
	all["events_missed"], err = d.missed()
	return all, err
}

// missed returns how often a tracepoint of ours was passed while its program was running on that processor already.
// From Linux 7.0 on that happens: such programs can be preempted. The kernel counts it for each loaded program.
func (d *Datapath) missed() (uint64, error) {
	var sum uint64
	for _, p := range []*ebpf.Program{d.objs.OnExec, d.objs.OnNewtask, d.objs.OnFork, d.objs.OnExit} {
		s, err := p.Stats()
		if err != nil {
			return 0, fmt.Errorf("read what a program has missed: %w", err)
		}
		sum += s.RecursionMisses
	}
	return sum, nil
}

func (d *Datapath) stat(s bpf.DatapathStat) (uint64, error) {
	var perCPU []uint64
	if err := d.objs.Stats.Lookup(uint32(s), &perCPU); err != nil {
		return 0, fmt.Errorf("read counter %s: %w", statName(s), err)
	}
	var sum uint64
	for _, n := range perCPU {
		sum += n
	}
	return sum, nil
}

func statName(s bpf.DatapathStat) string {
	names := [...]string{
		"labelled_at_exec", "labelled_at_fork", "labelled_by_walk", "healed_at_socket", "sockets_outside",
		"sockets_noted", "labels_full", "apps_forgotten", "refused_undecided", "refused_blocked",
		"refused_foreign_mark", "refused_no_note", "notes_failed", "events_lost", "helpers_failed",
		"refused_mptcp", "guard_dropped_sent", "guard_dropped_received", "guard_dropped_answers",
		"guard_dropped_changed", "guard_dropped_source", "guard_dropped_strict", "guard_dropped_at_door",
		"sockets_moved", "refused_handed_over", "refused_tunnel_address", "refused_join", "refused_sctp",
	}
	if int(s) < len(names) {
		return names[s]
	}
	return strings.ToLower(fmt.Sprintf("stat_%d", s))
}
