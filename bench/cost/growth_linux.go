package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"sidestep/internal/lab/actor"
)

// A point is one step of something growing: how to bring it about, and what ends it.
type point struct {
	n     int
	on    func() (off func() error, err error)
	image string // what is started
}

// A series is something that a user can grow, while strangers go on with what they do.
type series struct {
	what   string
	points []point
}

// growth measures what a program that no rule names pays while something grows.
func (b *bench) growth(ctx context.Context) error {
	all, err := b.series()
	if err != nil {
		return err
	}
	toLAN := actor.SockaddrHex(lan)
	columns := []string{"", "so many", "on_exec", "on_newtask", "on_socket", "on_egress"}
	var rows [][]string
	var results []result
	for _, s := range all {
		for i, p := range s.points {
			if b.short && (p.n > 1000 || i%2 == 1) {
				continue
			}
			off, err := p.on()
			if err != nil {
				return fmt.Errorf("%d %s: %w", p.n, s.what, err)
			}
			row := []string{s.what, fmt.Sprint(p.n)}
			err = b.metering(func(m *meter) error {
				for _, o := range []*op{
					{load: "exec", args: []string{p.image}}, {load: "fork"},
					{load: "socket", args: []string{toLAN}}, {load: "flood", args: []string{toLAN}},
				} {
					if err := errors.Join(ctx.Err(), b.calibrate(o)); err != nil {
						return err
					}
					best, err := b.metered(m, o)
					if err != nil {
						return err
					}
					name := map[string]string{"exec": "on_exec", "fork": "on_newtask", "socket": "on_socket", "flood": "on_egress"}[o.load]
					results = append(results, result{Part: "growth", What: s.what, With: name, At: &p.n,
						Value: &spread{Median: best[name], N: 1}, Text: nanoseconds(best[name])})
					row = append(row, nanoseconds(best[name]))
				}
				return nil
			})
			if err := errors.Join(err, off()); err != nil {
				return fmt.Errorf("%d %s: %w", p.n, s.what, err)
			}
			rows = append(rows, row)
		}
	}
	b.report.table("Growth: what a program that no rule names pays, by the kernel's clock", columns, rows, results)
	return nil
}

func (b *bench) metering(fn func(*meter) error) error {
	m, err := newMeter()
	if err != nil {
		return err
	}
	return errors.Join(fn(m), m.close())
}

// series lists what grows.
func (b *bench) series() ([]series, error) {
	crowd := func(processes, sockets int) func() (func() error, error) {
		return func() (func() error, error) { return b.crowded(processes, sockets) }
	}
	deep := series{what: "folders above the program, with 1000 directories in the rules"}
	same := series{what: "folders above it, each named as a listed directory"}
	for _, n := range []int{1, 16, 64, 200} {
		for _, s := range []struct {
			root, name string
			to         *series
		}{{"deep", "folder", &deep}, {"same", string(directories) + "-0", &same}} {
			top := b.file(fmt.Sprintf("%s/%d", s.root, n))
			path := filepath.Join(top, strings.Repeat(s.name+"/", n), "other")
			if err := b.install(path); err != nil {
				return nil, err
			}
			s.to.points = append(s.to.points, point{n, b.ruled(directories, 1000), path})
		}
	}
	var rules, dirs, processes, sockets series
	rules.what, dirs.what = "files in the rules", "directories in the rules"
	processes.what, sockets.what = "excluded processes", "sockets of excluded processes"
	for _, n := range []int{0, 10, 1000, 100_000} {
		rules.points = append(rules.points, point{n, b.ruled(files, n), b.other})
		dirs.points = append(dirs.points, point{n, b.ruled(directories, n), b.other})
	}
	for _, n := range []int{0, 100, 1000, 10_000} {
		processes.points = append(processes.points, point{n, crowd(n, 0), b.other})
		sockets.points = append(sockets.points, point{n, crowd(10, n/10), b.other})
	}
	return []series{rules, dirs, processes, sockets, deep, same}, nil
}

// ruled starts a daemon with so many rules.
func (b *bench) ruled(k kind, n int) func() (func() error, error) {
	return func() (func() error, error) {
		paths, err := b.rules(k, n)
		if err != nil {
			return nil, err
		}
		d, err := b.startDaemon(paths)
		if err != nil {
			return nil, err
		}
		return d.stop, nil
	}
}

// crowded starts a daemon that excludes a crowd.
func (b *bench) crowded(processes, sockets int) (func() error, error) {
	d, err := b.startDaemon([]string{b.crowd})
	if err != nil {
		return nil, err
	}
	l, err := b.gather(processes, sockets)
	if err != nil {
		return nil, errors.Join(err, d.stop())
	}
	return func() error { return errors.Join(l.end(), d.stop()) }, nil
}

// gather starts a crowd, and returns when all of it is there.
func (b *bench) gather(processes, sockets int) (*load, error) {
	l, err := start(b.world.Machine, b.crowd, "crowd", processes, fmt.Sprint(sockets), actor.SockaddrHex(far))
	if err == nil {
		_, err = l.number()
	}
	return l, err
}
