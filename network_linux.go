package sidestep

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"sidestep/api"
	"sidestep/internal/datapath"
	"sidestep/internal/netmon"
	"sidestep/internal/route"
)

func (e *Engine) file(name string) string { return filepath.Join(e.opts.State, name) }

// openRoutes opens the actuator with what an engine before us had changed.
func (e *Engine) openRoutes() (err error) {
	var saved savedNetwork
	if err := readState(e.opts.State, networkFile, &saved); err != nil {
		return err
	}
	c := e.opts.routing()
	if saved.Version != 0 && !sameNumbers(saved.config(), c) {
		if _, err := cleanRoutes(saved); err != nil {
			return fmt.Errorf("remove rules and routes under the numbers used before: %w", err)
		}
		saved = savedNetwork{}
	}
	e.routes, err = route.New(c, saved.Saved, func(s route.Saved) error {
		return writeState(e.opts.State, networkFile, networkOf(c, s))
	})
	return err
}

// rememberNumbers has whoever cleans up after us know what to look for. It comes before the first rule.
func (e *Engine) rememberNumbers() error {
	return writeState(e.opts.State, networkFile, networkOf(e.opts.routing(), e.routes.Saved()))
}

func networkOf(c route.Config, s route.Saved) savedNetwork {
	return savedNetwork{
		Version: 1, Mask: c.Mask, Table: c.Table, Priority: c.Priority, Protocol: c.Protocol, Saved: s,
	}
}

func sameNumbers(a, b route.Config) bool {
	return a.Mask == b.Mask && a.Table == b.Table && a.Priority == b.Priority && a.Protocol == b.Protocol
}

// watchNetwork tells serve of every change, until ctx ends. What fails, for want of memory perhaps, is begun again: what is in
// force needs somebody who follows the network more than an end that is noticed.
func (e *Engine) watchNetwork(ctx context.Context) error {
	for {
		err := e.monitor.Run(ctx, func(s netmon.Snapshot) {
			e.blind.Store(nil)
			e.latest.Store(&s)
			signal(e.snapshots)
		})
		if ctx.Err() != nil {
			return err
		}
		e.opts.Log.Error("watch the network", "error", err)
		e.blind.Store(&err)
		signal(e.stale) // for the state to be judged
		select {
		case <-time.After(retryAfter):
		case <-ctx.Done():
		}
	}
}

// follow makes the routing equal to what this network asks for.
func (e *Engine) follow(ctx context.Context, snap netmon.Snapshot) error {
	e.latest.CompareAndSwap(nil, &snap)
	e.plan = route.PlanFor(snap, e.opts.routing())
	e.routed = errors.Join(e.kernel.Permit(e.network()), e.routes.Set(ctx, e.plan))
	e.fresh = e.routes.Changed()
	if e.routed != nil {
		return fmt.Errorf("set rules and routes: %w", e.routed)
	}
	if e.strict() && !e.confined {
		e.closeStrays(false) // what was opened before the tunnel came up
	}
	e.confined = e.strict()
	if text := describe(e.plan); text != e.told {
		e.told = text
		e.opts.Log.Info("network", "tunnels", tunnels(e.plan), "uplink4", e.plan.Uplink4.Name, "uplink6", e.plan.Uplink6.Name)
		e.events.send(api.Event{Kind: api.EventNetwork, Text: text})
	}
	return nil
}

// network is what the guard has to know of the plan.
func (e *Engine) network() datapath.Network {
	p := e.plan
	return datapath.Network{
		Links: p.Permitted, Closed: p.Closed, Uplink4: p.Uplink4.Index, Uplink6: p.Uplink6.Index,
		Outside: p.Outside, Inside: p.Inside, Neutral: p.Neutral, Local: p.Local, Hosts: p.Hosts, Strict: e.strict(),
	}
}

// checkStrict says whether the kernel can do what the options ask for.
func (e *Engine) checkStrict(o Options) error {
	if !o.Strict {
		return nil
	}
	return e.kernel.CanBeStrict()
}

// strict reports whether included programs are to be kept off the uplink now.
func (e *Engine) strict() bool { return e.opts.Strict && len(e.plan.Tunnels) > 0 }

func tunnels(p route.Plan) []string {
	names := make([]string, 0, len(p.Tunnels))
	for _, t := range p.Tunnels {
		names = append(names, t.Name)
	}
	return names
}

func describe(p route.Plan) string {
	or := func(name string) string {
		if name == "" {
			return "none"
		}
		return name
	}
	return fmt.Sprintf("tunnel %s, uplink %s (IPv4) %s (IPv6)",
		or(strings.Join(tunnels(p), ", ")), or(p.Uplink4.Name), or(p.Uplink6.Name))
}

// lookAtPins pins again what somebody has removed the pins of: with them gone, what is in force would end with us.
func (e *Engine) lookAtPins() {
	missing, err := e.kernel.Repin()
	if missing > 0 {
		e.opts.Log.Warn("pins of what is in force were gone", "missing", missing, "error", err)
	}
	if missing > 0 && err == nil {
		e.repinned++
	}
	e.unpinned = err
}

// judge says what state the engine is in.
func (e *Engine) judge() api.State {
	switch {
	case len(e.complaints()) > 0:
		return api.Degraded
	case len(e.plan.Tunnels) > 0:
		return api.Engaged
	}
	return api.Ready
}

// complaints lists what of the policy is not enforced as it should be. Each of them degrades the engine.
func (e *Engine) complaints() []string {
	var all []string
	if e.routed != nil {
		all = append(all, fmt.Sprintf("rules and routes are not as they should be: %v", e.routed))
	}
	if err := e.blind.Load(); err != nil {
		all = append(all, fmt.Sprintf("the network can't be watched, and it is tried again: %v", *err))
	}
	if e.unsettled != nil {
		all = append(all, fmt.Sprintf("what is in force may not be the policy, and it is tried again: %v", e.unsettled))
	}
	if e.unpinned != nil {
		all = append(all, fmt.Sprintf("what is in force is not pinned and would end with this daemon: %v", e.unpinned))
	}
	for _, a := range e.apps {
		if a.err != nil {
			all = append(all, fmt.Sprintf("%s: %v", a.Path, a.err))
		}
	}
	counters, err := e.kernel.Counters()
	if err != nil {
		return append(all, err.Error())
	}
	if n := counters["labels_full"]; n > 0 {
		all = append(all, fmt.Sprintf("%d processes of excluded apps could not be recorded; their sockets are refused", n))
	}
	if n := counters["refused_foreign_mark"]; e.marked.lately(n, time.Now()) {
		all = append(all, fmt.Sprintf("%d sockets of excluded apps were refused: another program had put a mark on them", n))
	}
	if n := counters["refused_no_note"]; e.unnoted.lately(n, time.Now()) {
		all = append(all, fmt.Sprintf("%d sockets of excluded apps were refused: no memory", n))
	}
	return all
}

// A growth is when a counter was last seen to grow.
type growth struct {
	count uint64
	seen  time.Time
}

// lately reports whether the counter has grown in the last ten minutes: a socket that was refused is over and done with, but
// whoever asks for the status must have the time to read of it.
func (g *growth) lately(count uint64, now time.Time) bool {
	if count > g.count {
		*g = growth{count, now}
	}
	return now.Sub(g.seen) < 10*time.Minute
}

func (e *Engine) warnings() []string {
	all := slices.Concat(e.complaints(), e.plan.Warnings, e.watcher.Warnings())
	if e.unclosed != nil {
		all = append(all, fmt.Sprintf("connections on the wrong side were not closed, only stopped: %v", e.unclosed))
	}
	if e.repinned > 0 {
		all = append(all, fmt.Sprintf("somebody has removed pins of what is in force, %d times; they were made again", e.repinned))
	}
	if all == nil {
		return []string{} // never null in JSON
	}
	return all
}

func (e *Engine) setState(s api.State) {
	if s == e.state {
		return
	}
	e.state = s
	e.opts.Log.Info("state", "is", s)
	e.events.send(api.Event{Kind: api.EventState, Text: string(s)})
}
