package main

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"sidestep/internal/lab/actor"
)

// A subject is what is measured beside an engine that is off.
type subject struct {
	name string
	// on brings it about; it returns where programs are to run, how, and what ends it.
	on func(context.Context) (do func(*op) (float64, error), off func() error, err error)
	// fits says which ops it is about; nil: all.
	fits func(*op) bool
	rare bool // it takes a minute to bring about, and has its turn in every sixth round
}

// engine is sidestep with a policy.
func (b *bench) engine(name string, exclude []string) subject {
	return subject{name: name, on: func(ctx context.Context) (func(*op) (float64, error), func() error, error) {
		d, err := b.startDaemon(exclude)
		if err != nil {
			return nil, nil, err
		}
		if err := d.engaged(ctx); err != nil {
			return nil, nil, errors.Join(err, d.stop())
		}
		return b.here, d.stop, nil
	}}
}

func (b *bench) here(o *op) (float64, error) { return b.do(b.world.Machine, o) }

// subjects lists what is compared. With -short there are few.
func (b *bench) subjects() ([]subject, error) {
	all := []subject{b.engine("no rules", nil)}
	sizes := []int{10, 1000, 100_000}
	if b.short {
		sizes = []int{1000}
	}
	for _, kind := range []kind{files, directories} {
		for _, n := range sizes {
			paths, err := b.rules(kind, n)
			if err != nil {
				return nil, err
			}
			s := b.engine(fmt.Sprintf("%d %s", n, kind), append(paths, b.listed))
			s.rare = n == 100_000
			all = append(all, s)
		}
	}
	return append(all, b.namespaceAndNAT(), b.cgroupAndMarks()), nil
}

// sample holds what the rounds found of one op with one subject.
type sample struct{ on, off, ratio []float64 }

// ratios measures every op with every subject, each between two times of nothing.
func (b *bench) ratios(ctx context.Context) error {
	ops := b.ops()
	for _, o := range ops {
		if err := b.calibrate(o); err != nil {
			return err
		}
	}
	subjects, err := b.subjects()
	if err != nil {
		return err
	}
	samples := make([][]sample, len(subjects))
	for i := range samples {
		samples[i] = make([]sample, len(ops))
	}
	before, err := b.doAll(ctx, ops, b.here)
	if err != nil {
		return err
	}
	for round := range b.rounds {
		for i, s := range subjects {
			if s.rare && round%6 != 0 {
				continue
			}
			if before, err = b.turn(ctx, s, ops, before, samples[i]); err != nil {
				return fmt.Errorf("%s: %w", s.name, err)
			}
		}
	}
	b.reportRatios(ops, subjects, samples)
	return nil
}

// turn measures the ops with a subject, and then with nothing, as before. It returns what they took after it.
func (b *bench) turn(ctx context.Context, s subject, ops []*op, before []float64, samples []sample) ([]float64, error) {
	on, err := b.with(ctx, s, ops)
	if err != nil {
		return nil, err
	}
	after, err := b.doAll(ctx, ops, b.here)
	if err != nil {
		return nil, err
	}
	for j := range ops {
		if on[j] == 0 {
			continue
		}
		off := (before[j] + after[j]) / 2
		x := &samples[j]
		x.on, x.off, x.ratio = append(x.on, on[j]), append(x.off, off), append(x.ratio, on[j]/off)
	}
	return after, nil
}

// with measures the ops that fit a subject. What does not is 0.
func (b *bench) with(ctx context.Context, s subject, ops []*op) ([]float64, error) {
	do, off, err := s.on(ctx)
	if err != nil {
		return nil, err
	}
	values, err := b.doAll(ctx, ops, func(o *op) (float64, error) {
		if s.fits != nil && !s.fits(o) {
			return 0, nil
		}
		return do(o)
	})
	return values, errors.Join(err, off())
}

// reportRatios prints a table of ratios with a row for each op, and one of what each op takes.
func (b *bench) reportRatios(ops []*op, subjects []subject, samples [][]sample) {
	columns := []string{"", "off"}
	for _, s := range subjects {
		columns = append(columns, s.name)
	}
	var rows [][]string
	var results []result
	for j, o := range ops {
		var offs []float64
		row := []string{o.name, ""}
		for i, s := range subjects {
			x := samples[i][j]
			if len(x.on) == 0 {
				row = append(row, "")
				continue
			}
			offs = append(offs, x.off...)
			on, off, ratio := spreadOf(x.on), spreadOf(x.off), spreadOf(x.ratio)
			r := result{Part: "ratios", What: o.name, With: s.name, Value: &on, Off: &off, Ratio: &ratio, Text: ratio.percent()}
			if o.want > 0 && s.fits == nil {
				r = r.judge(ratio.Median, o.want, fmt.Sprintf("≤ %.3f", o.want))
			}
			results = append(results, r)
			mark := ""
			if r.Missed {
				mark = " **missed**"
			}
			row = append(row, r.Text+mark)
		}
		row[1] = o.absolute(spreadOf(offs).Median)
		rows = append(rows, row)
	}
	b.report.table("What programs do: time added to the engine being off", columns, rows, results)
}

// kind is what rules name.
type kind string

const (
	files       kind = "files"
	directories kind = "directories"
)

func (k kind) suffix() string {
	if k == directories {
		return "/"
	}
	return ""
}

// isNetwork reports whether an op is about packets and sockets.
func isNetwork(o *op) bool {
	return slices.Contains([]string{"socket", "connect", "send", "flood", "ask", "bulk"}, o.load)
}

// toLAN reports whether an op's packets go out by the uplink.
func (b *bench) toLAN(o *op) bool { return isNetwork(o) && o.args[0] == actor.SockaddrHex(lan) }
