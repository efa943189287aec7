package main

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// flips measures what it takes to move an app from one side to the other, with all its processes and sockets.
func (b *bench) flips(ctx context.Context) error {
	f := &facts{part: "flip"}
	sizes := []struct{ processes, sockets int }{{1, 0}, {100, 100}, {10_000, 0}, {10_000, 10_000}}
	if b.short {
		sizes = sizes[:2]
	}
	d, err := b.startDaemon([]string{b.listed})
	if err != nil {
		return err
	}
	for _, s := range sizes {
		each := 0
		if s.sockets > 0 {
			each = s.sockets / s.processes
		}
		crowd, err := b.gather(s.processes, each)
		if err != nil {
			return errors.Join(err, d.stop())
		}
		time.Sleep(time.Second) // who is younger is looked at twice
		err = b.flip(ctx, f, d, fmt.Sprintf("an app with %d processes and %d connected sockets", s.processes, s.sockets), s.processes)
		if err := errors.Join(err, crowd.end()); err != nil {
			return errors.Join(err, d.stop())
		}
	}
	b.report.table("Changing sides, until the command returns", []string{"", "", "target"}, f.rows, f.list)
	return d.stop()
}

// flip excludes the crowd twice: the first time its sockets are cut, and nobody has been labelled yet.
func (b *bench) flip(ctx context.Context, f *facts, d *daemon, what string, processes int) error {
	exclude := func() error {
		_, err := d.client.Exclude(ctx, []string{b.crowd})
		return err
	}
	include := func() error {
		_, err := d.client.Include(ctx, []string{b.crowd})
		return err
	}
	limit := time.Duration(0)
	if processes >= 10_000 {
		limit = 50 * time.Millisecond
	}
	return errors.Join(
		f.took("exclude "+what, limit, exclude),
		f.took("include it", limit, include),
		f.took("exclude it again", limit, exclude),
		include())
}
