package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// A meter reads how long the kernel says that programs have run. The kernel looks at the clock before and after each run,
// which takes as long as many of them.
type meter struct {
	programs map[string]*ebpf.Program
	stats    io.Closer
}

// newMeter measures the programs that a running daemon has pinned, from now on.
func newMeter() (*meter, error) {
	m := &meter{programs: map[string]*ebpf.Program{}}
	pins, err := filepath.Glob("/sys/fs/bpf/sidestep*/links/*")
	if err == nil && len(pins) == 0 {
		err = errors.New("no pinned links")
	}
	for _, pin := range pins {
		if err == nil {
			err = m.add(pin)
		}
	}
	if err == nil {
		m.stats, err = ebpf.EnableStats(unix.BPF_STATS_RUN_TIME)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("measure programs: %w", err), m.close())
	}
	return m, nil
}

func (m *meter) add(pin string) error {
	l, err := link.LoadPinnedLink(pin, nil)
	if err != nil {
		return err
	}
	defer l.Close()
	info, err := l.Info()
	if err != nil {
		return err
	}
	p, err := ebpf.NewProgramFromID(info.Program)
	if err != nil {
		return err
	}
	m.programs["on_"+filepath.Base(pin)] = p
	return nil
}

func (m *meter) close() error {
	var err error
	if m.stats != nil {
		err = m.stats.Close()
	}
	for _, p := range m.programs {
		err = errors.Join(err, p.Close())
	}
	return err
}

// during returns the nanoseconds of each program's runs while fn runs, on average, and how many runs there were.
func (m *meter) during(fn func() error) (ns map[string]float64, runs map[string]uint64, err error) {
	before, err := m.read()
	if err != nil {
		return nil, nil, err
	}
	if err := fn(); err != nil {
		return nil, nil, err
	}
	after, err := m.read()
	if err != nil {
		return nil, nil, err
	}
	ns, runs = map[string]float64{}, map[string]uint64{}
	for name, a := range after {
		n := a.RunCount - before[name].RunCount
		if n == 0 {
			continue
		}
		runs[name] = n
		ns[name] = float64(a.Runtime-before[name].Runtime) / float64(n)
	}
	return ns, runs, nil
}

func (m *meter) read() (map[string]*ebpf.ProgramStats, error) {
	all := map[string]*ebpf.ProgramStats{}
	for name, p := range m.programs {
		s, err := p.Stats()
		if err != nil {
			return nil, err
		}
		all[name] = s
	}
	return all, nil
}

// floor is what the kernel says of a program that does nothing: the time that measuring takes.
func (m *meter) floor() (float64, error) {
	nothing, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type:         ebpf.SocketFilter,
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()},
		License:      "GPL",
	})
	if err != nil {
		return 0, err
	}
	defer nothing.Close()
	alone := &meter{programs: map[string]*ebpf.Program{"nothing": nothing}}
	ns, _, err := alone.during(func() error {
		_, err := nothing.Run(&ebpf.RunOptions{Data: make([]byte, 64), Repeat: 100_000})
		return err
	})
	return ns["nothing"], err
}

// metered measures what the programs take while an op goes on, some rounds long: the fastest round counts.
func (b *bench) metered(m *meter, o *op) (map[string]float64, error) {
	best := map[string]float64{}
	for range 2 + b.rounds {
		ns, runs, err := m.during(func() error {
			_, err := b.here(o)
			return err
		})
		if err != nil {
			return nil, err
		}
		for name, t := range ns {
			// What runs less often than the load does what it does is somebody else's.
			if runs[name] < uint64(o.count*b.parts()) {
				continue
			}
			if have, ok := best[name]; !ok || t < have {
				best[name] = t
			}
		}
	}
	return best, nil
}

// What the programs' time is held to, in nanoseconds.
var programLimits = map[[2]string]float64{
	{"exec", "on_exec"}:      500,
	{"socket", "on_socket"}:  150,
	{"flood", "on_egress"}:   50,
	{"bulk", "on_egress"}:    50,
	{"bulk", "on_ingress"}:   50,
	{"ask", "on_egress"}:     50,
	{"ask", "on_ingress"}:    50,
	{"thread", "on_newtask"}: 50,
}

// programs measures each kernel program in each op.
func (b *bench) programs(ctx context.Context) error {
	paths, err := b.rules(files, 1000)
	if err != nil {
		return err
	}
	d, err := b.startDaemon(append(paths, b.listed))
	if err != nil {
		return err
	}
	m, err := newMeter()
	if err != nil {
		return errors.Join(err, d.stop())
	}
	defer m.close()
	floor, err := m.floor()
	if err != nil {
		return errors.Join(err, d.stop())
	}
	var rows [][]string
	var results []result
	for _, o := range b.ops() {
		if err := errors.Join(ctx.Err(), b.calibrate(o)); err != nil {
			return errors.Join(err, d.stop())
		}
		best, err := b.metered(m, o)
		if err != nil {
			return errors.Join(err, d.stop())
		}
		for _, name := range slices.Sorted(maps.Keys(best)) {
			net := max(0, best[name]-floor)
			r := result{Part: "programs", What: o.name, With: name, Value: &spread{Median: best[name], Low: net, N: 1}}
			if limit, ok := programLimits[[2]string{o.load, name}]; ok && (o.name == "exec, no rule matches" || o.load != "exec") {
				if !o.listed || o.load != "socket" {
					r = r.judge(net, limit, fmt.Sprintf("< %.0f ns", limit))
				}
			}
			results = append(results, r)
			rows = append(rows, []string{o.name, name, nanoseconds(best[name]), nanoseconds(net), r.verdict()})
		}
	}
	b.report.table(fmt.Sprintf("What the kernel's programs take (an empty one: %s)", nanoseconds(floor)),
		[]string{"", "program", "by the kernel's clock", "without its own reading", "target"}, rows, results)
	return d.stop()
}
