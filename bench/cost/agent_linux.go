package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/cilium/ebpf"
)

const mib = 1 << 20

// facts collects rows of one number each.
type facts struct {
	part string
	rows [][]string
	list []result
}

func (f *facts) add(what string, value float64, text string, limit float64, want string) {
	r := result{Part: f.part, What: what, Value: &spread{Median: value, Low: value, High: value, N: 1}, Text: text}
	if limit > 0 {
		r = r.judge(value, limit, want)
	}
	f.list = append(f.list, r)
	f.rows = append(f.rows, []string{what, text, r.verdict()})
}

// took runs fn and notes how long that took.
func (f *facts) took(what string, limit time.Duration, fn func() error) error {
	start := time.Now()
	if err := fn(); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	d := float64(time.Since(start))
	f.add(what, d, nanoseconds(d), float64(limit), fmt.Sprintf("≤ %v", limit))
	return nil
}

// daemonCosts measures what the daemon itself takes: time, memory, CPU.
func (b *bench) daemonCosts(ctx context.Context) error {
	f := &facts{part: "daemon"}
	n := 100_000
	if b.short {
		n = 1000
	}
	paths, err := b.rules(files, n)
	if err != nil {
		return err
	}
	var d *daemon
	start := func() (err error) {
		d, err = b.startDaemon([]string{b.listed})
		return err
	}
	if err := f.took("start, until the policy is in force", 0, start); err != nil {
		return err
	}
	d.kill()
	if err := f.took("start beside what a killed daemon left", 0, start); err != nil {
		return err
	}
	err = errors.Join(
		f.memory(d, "with one rule", 25*mib),
		b.cpus(ctx, f, d),
		f.took(fmt.Sprintf("put %d rules in force", n), 0, func() error { return b.reload(d, append(paths, b.listed)) }),
		f.memory(d, fmt.Sprintf("with %d rules", n), 0),
		f.took("take them out of force", 0, func() error { return b.reload(d, []string{b.listed}) }),
		f.took("stop, until everything is taken back", 0, d.stop))
	b.report.table("The daemon", []string{"", "", "target"}, f.rows, f.list)
	return err
}

// memory notes what the daemon and the maps hold.
func (f *facts) memory(d *daemon, when string, limit float64) error {
	all, anonymous, err := d.resident()
	if err != nil {
		return err
	}
	f.add("memory of the daemon "+when, all, fmt.Sprintf("%.1f MiB, %.1f of it its own", all/mib, anonymous/mib), limit, "< 25 MiB")
	pins, err := filepath.Glob("/sys/fs/bpf/sidestep*/maps/*")
	if err != nil {
		return err
	}
	var maps float64
	for _, pin := range pins {
		m, err := ebpf.LoadPinnedMap(pin, nil)
		if err != nil {
			return err
		}
		info, err := m.Info()
		m.Close()
		if err != nil {
			return err
		}
		bytes, _ := info.Memlock()
		maps += float64(bytes)
	}
	f.add("memory of the maps "+when, maps, fmt.Sprintf("%.1f MiB", maps/mib), 0, "")
	return nil
}

// cpus notes how busy the daemon is while nothing happens, and while programs start.
func (b *bench) cpus(ctx context.Context, f *facts, d *daemon) error {
	seconds := 5
	if b.short {
		seconds = 1
	}
	watch := func() (stop func()) {
		ctx, cancel := context.WithCancel(ctx)
		done := make(chan struct{})
		go func() {
			defer close(done)
			for range d.client.Events(ctx) {
			}
		}()
		return func() {
			cancel()
			<-done
		}
	}
	for _, c := range []struct {
		what, path string
		rates      []int
	}{
		{"nothing happens", "", []int{0}},
		{"programs start that no rule names", b.other, []int{1000}},
		{"excluded programs start", b.listed, []int{10, 100, 1000}},
	} {
		for _, listener := range []string{alone, listened} {
			for _, rate := range c.rates {
				stop := func() {}
				if listener == listened {
					stop = watch()
				}
				share, err := b.busy(ctx, d, c.path, rate, seconds)
				stop()
				if err != nil {
					return err
				}
				f.addCPU(c.what, listener, share, rate)
			}
		}
	}
	return nil
}

// Whether somebody listens to the daemon's events.
const (
	alone    = "nobody listens"
	listened = "somebody listens"
)

// addCPU adds a share of one CPU, while so many programs start each second.
func (f *facts) addCPU(what, listener string, share float64, rate int) {
	limit, want := 0.0, ""
	title := fmt.Sprintf("CPU of the daemon while %d %s each second, %s", rate, what, listener)
	if rate == 0 {
		title = fmt.Sprintf("CPU of the daemon while %s, %s", what, listener)
		limit, want = 0.001, "~ 0"
	}
	f.add(title, 100*share, fmt.Sprintf("%.2f %%", 100*share), 100*limit, want)
	if rate > 0 {
		r := &f.list[len(f.list)-1]
		r.What, r.With, r.At = "CPU of the daemon in percent, "+what+" each second", listener, &rate
	}
}

// busy returns which share of one CPU the daemon uses while so many programs start each second.
func (b *bench) busy(ctx context.Context, d *daemon, path string, rate, seconds int) (float64, error) {
	before, err := d.cpu()
	if err != nil {
		return 0, err
	}
	begin := time.Now()
	if rate == 0 {
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-time.After(time.Duration(seconds) * time.Second):
		}
	} else if _, err := measure(b.world.Machine, command(b.other, "pace", rate, 1, []string{path, fmt.Sprint(seconds)}), 1); err != nil {
		return 0, err
	}
	after, err := d.cpu()
	return float64(after-before) / float64(time.Since(begin)), err
}
