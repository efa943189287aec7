package sidestep

import (
	"context"
	"sync"
	"time"

	"sidestep/api"
	"sidestep/internal/datapath"
	"sidestep/policy"
)

// backlog is how many events a subscriber may be behind before it loses some.
const backlog = 1024

// broadcast hands every event to every subscriber. One that does not keep up loses events and is told how many.
// The zero value is ready.
type broadcast struct {
	mu     sync.Mutex
	subs   map[*subscriber]bool
	closed bool
}

type subscriber struct {
	c      chan api.Event
	missed uint64
}

// Events delivers what happens from now on. The channel is closed when ctx ends, or with the engine. Reading too
// slowly loses events; an event of kind lost then says how many.
func (e *Engine) Events(ctx context.Context) <-chan api.Event {
	b := &e.events
	s := &subscriber{c: make(chan api.Event, backlog)}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		close(s.c)
		return s.c
	}
	if b.subs == nil {
		b.subs = map[*subscriber]bool{}
	}
	b.subs[s] = true
	context.AfterFunc(ctx, func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		if b.subs[s] {
			delete(b.subs, s)
			close(s.c)
		}
	})
	return s.c
}

func (b *broadcast) send(ev api.Event) {
	ev.Version = api.Version
	if ev.Time.IsZero() {
		ev.Time = time.Now()
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for s := range b.subs {
		s.send(ev)
	}
}

func (s *subscriber) send(ev api.Event) {
	if s.missed > 0 {
		select {
		case s.c <- api.Event{Version: api.Version, Time: ev.Time, Kind: api.EventLost, Lost: s.missed}:
			s.missed = 0
		default:
		}
	}
	select {
	case s.c <- ev:
	default:
		s.missed++
	}
}

func (b *broadcast) lost(n uint64) { b.send(api.Event{Kind: api.EventLost, Lost: n}) }

func (b *broadcast) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	for s := range b.subs {
		close(s.c)
	}
	b.subs = nil
}

// watched reports whether anybody would hear of an event; what it takes to describe one is spared otherwise.
func (b *broadcast) watched() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.subs) > 0
}

// onKernelEvent puts names to what the kernel reports. It runs on the goroutine that reads the ring.
func (e *Engine) onKernelEvent(k datapath.Event) {
	if !e.events.watched() {
		return
	}
	ev := api.Event{Time: k.Time, PID: k.PID, PPID: k.PPID, App: e.name(k.App), Exe: executable(k.PID)}
	if ev.Exe == "" {
		ev.Exe = k.Comm // it has ended meanwhile
	}
	switch k.Kind {
	case datapath.Exited:
		ev.Kind = api.EventGone
	case datapath.Refused:
		ev.Kind, ev.Text = api.EventRefused, k.Reason
	case datapath.Stopped:
		flow := flowOf(k.Protocol, k.Local, k.Remote)
		ev.Kind, ev.Text, ev.Flow = api.EventStopped, k.Reason, &flow
	default:
		ev.Kind, ev.Cause = api.EventClassified, &k.Cause
	}
	e.events.send(ev)
}

// reportClassified tells of the running processes that belong to apps just added. The kernel says nothing of them: it
// labelled them before the apps were in force.
func (e *Engine) reportClassified(added []string) {
	if len(added) == 0 || !e.events.watched() {
		return
	}
	processes, err := e.kernel.Processes()
	e.logged("list processes", err)
	isNew := setOf(added)
	for _, p := range processes {
		if p.Verdict != policy.Excluded || !isNew[e.name(p.App)] {
			continue
		}
		e.events.send(api.Event{
			Kind: api.EventClassified, PID: p.PID, PPID: p.PPID, Exe: executable(p.PID), Cause: &p.Cause, App: e.name(p.App),
		})
	}
}
