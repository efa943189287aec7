package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"sidestep/internal/lab"
	"sidestep/internal/lab/actor"
)

// An op is one thing that programs do, and the load that does it.
type op struct {
	name   string
	load   string
	args   []string
	listed bool // the load itself is excluded, where a rule names it

	bytes float64 // of one, where throughput is meant
	want  float64 // its ratio is at most this; 0: nothing is promised
	count int     // so many take about a window
}

// ops lists what is measured.
func (b *bench) ops() []*op {
	toLAN, toTunnel := actor.SockaddrHex(lan), actor.SockaddrHex(tunnel)
	const bulk = 64 << 10
	all := []*op{
		{name: "exec, no rule matches", load: "exec", args: []string{b.other}, want: 1.01},
		{name: "exec, a listed name elsewhere", load: "exec", args: []string{b.namesake}},
		{name: "exec, a rule matches", load: "exec", args: []string{b.listed}},
		{name: "fork", load: "fork"},
		{name: "fork, excluded", load: "fork", listed: true},
		{name: "thread", load: "thread"},
		{name: "socket", load: "socket", args: []string{toLAN}},
		{name: "socket, excluded", load: "socket", args: []string{toLAN}, listed: true},
		{name: "socket, connect", load: "connect", args: []string{toLAN}},
		{name: "socket, connect, excluded", load: "connect", args: []string{toLAN}, listed: true},
		{name: "UDP sendto", load: "send", args: []string{toLAN}},
		{name: "UDP sendto, excluded", load: "send", args: []string{toLAN}, listed: true},
		{name: "UDP, 64 bytes, as many as go", load: "flood", args: []string{toLAN}},
		{name: "the same, excluded", load: "flood", args: []string{toLAN}, listed: true},
		{name: "TCP request and answer", load: "ask", args: []string{toLAN}},
		{name: "the same, excluded", load: "ask", args: []string{toLAN}, listed: true},
		{name: "TCP bulk over veth", load: "bulk", args: []string{toLAN}, bytes: bulk, want: 1 / 0.99},
		{name: "the same, excluded", load: "bulk", args: []string{toLAN}, listed: true, bytes: bulk, want: 1 / 0.99},
		{name: "TCP bulk through the tunnel", load: "bulk", args: []string{toTunnel}, bytes: bulk, want: 1 / 0.99},
	}
	return slices.DeleteFunc(all, func(o *op) bool { return b.settings.ops != nil && !b.settings.ops.MatchString(o.name) })
}

// slice is how long an op goes on, about, before the clock is read.
const slice = 8 * time.Millisecond

// parts is how many slices make one measurement; the fastest counts.
func (b *bench) parts() int {
	if b.short {
		return 4
	}
	return 12
}

// calibrate finds out how many of an op take a slice.
func (b *bench) calibrate(o *op) error {
	o.count = 64
	for {
		ns, err := measure(b.world.Machine, command(b.other, o.load, o.count, b.parts(), o.args), o.count)
		if err != nil {
			return err
		}
		if took := ns * float64(o.count); took > float64(slice)/4 {
			o.count = max(1, int(float64(slice)/ns))
			return nil
		}
		o.count *= 4
	}
}

// do measures one op, in nanoseconds.
func (b *bench) do(n *lab.Namespace, o *op) (float64, error) {
	path := b.other
	if o.listed {
		path = b.listed
	}
	return measure(n, command(path, o.load, o.count, b.parts(), o.args), o.count)
}

// doAll measures all ops once.
func (b *bench) doAll(ctx context.Context, ops []*op, do func(*op) (float64, error)) ([]float64, error) {
	values := make([]float64, len(ops))
	for i, o := range ops {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		var err error
		if values[i], err = do(o); err != nil {
			return nil, fmt.Errorf("%s: %w", o.name, err)
		}
	}
	return values, nil
}

// absolute writes what one op takes, as people say it.
func (o *op) absolute(ns float64) string {
	if o.bytes > 0 {
		return fmt.Sprintf("%.2f Gbit/s", o.bytes*8/ns)
	}
	if o.load == "flood" {
		return fmt.Sprintf("%.0f/s", 1e9/ns)
	}
	return nanoseconds(ns)
}
