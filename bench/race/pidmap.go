package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/perf"
	"golang.org/x/sys/unix"

	"sidestep/internal/lab"
	"sidestep/internal/lab/actor"
)

//go:generate go tool bpf2go -target bpfel -tags linux pidmap bpf/pidmap.c -- -O2 -g -Wall -Wextra -Wno-unused-parameter -Werror -mcpu=v3 -I/usr/include/x86_64-linux-gnu

// perfPages is the size of the buffer for each CPU.
const perfPages = 8

// pidmap is a tracker with a table of threads: a program on socket() marks those in it, and an agent in user space keeps
// it from the events of exec, fork and exit. To be included is not to be in the table where everybody else is.
type pidmap struct {
	include bool
	cgroup  string
	agent   *agent
}

func (p *pidmap) facts() facts {
	if p.include {
		return facts{Name: "pid table, include", Mode: include, Agent: true}
	}
	return facts{Name: "pid table, exclude", Mode: exclude, Agent: true}
}

func (p *pidmap) start(ctx context.Context, at place) error {
	p.cgroup = at.cgroup
	return p.restart(ctx)
}

// list starts the agent anew: it looks at what runs only when it starts.
func (p *pidmap) list(ctx context.Context, path string, _ []*actor.Actor) error {
	if err := p.agent.stop(); err != nil {
		return err
	}
	return p.restart(ctx, path)
}

func (p *pidmap) restart(ctx context.Context, list ...string) (err error) {
	args := append([]string{string(p.facts().Mode), p.cgroup}, list...)
	p.agent, err = startAgent(ctx, "pidmap", args...)
	return err
}

func (p *pidmap) image(path string, args ...string) actor.Image { return plainImage(path, args) }

func (p *pidmap) signal(s unix.Signal) error { return p.agent.signal(s) }

func (p *pidmap) stop() error { return p.agent.stop() }

// A keeper is the agent: it keeps the table.
type keeper struct {
	include bool
	list    []string
	matched map[uint32]bool // thread -> whether it is of a listed program
	table   *ebpf.Map
}

// runPidmap is the agent's process: pidmap MODE CGROUP [PATH]...
func runPidmap(args []string) error {
	spec, err := loadPidmap()
	if err != nil {
		return err
	}
	if err := spec.Variables["mark"].Set(uint32(lab.Fwmark)); err != nil {
		return err
	}
	var o pidmapObjects
	if err := spec.LoadAndAssign(&o, nil); err != nil {
		return err
	}
	defer o.Close()
	k := &keeper{include: mode(args[0]) == include, list: args[2:], matched: map[uint32]bool{}, table: o.Threads}
	// First what runs, then the events: what happens between the two is missed.
	if err := k.scan(); err != nil {
		return err
	}
	events, err := perf.NewReader(o.Events, perfPages*os.Getpagesize())
	if err != nil {
		return err
	}
	defer events.Close()
	for _, p := range []*ebpf.Program{o.OnExec, o.OnFork, o.OnExit} {
		l, err := link.AttachTracing(link.TracingOptions{Program: p})
		if err != nil {
			return err
		}
		defer l.Close()
	}
	detach, err := attachSockets(args[1], o.MarkSocket)
	if err != nil {
		return err
	}
	serve(func() { events.Close() })
	return errors.Join(k.follow(events), detach())
}

// attachSockets attaches without a link: the kernel keeps the program when the agent dies, with the table as it is then.
func attachSockets(cgroup string, prog *ebpf.Program) (detach func() error, err error) {
	dir, err := os.Open(cgroup)
	if err != nil {
		return nil, err
	}
	err = link.RawAttachProgram(link.RawAttachProgramOptions{
		Target: int(dir.Fd()), Program: prog, Attach: ebpf.AttachCGroupInetSockCreate,
	})
	return func() error {
		defer dir.Close()
		return link.RawDetachProgram(link.RawDetachProgramOptions{
			Target: int(dir.Fd()), Program: prog, Attach: ebpf.AttachCGroupInetSockCreate,
		})
	}, err
}

// follow reads events until the reader is closed. What did not fit into the buffers is lost, and nobody is told.
func (k *keeper) follow(events *perf.Reader) error {
	var rec perf.Record
	for {
		err := events.ReadInto(&rec)
		if errors.Is(err, os.ErrClosed) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read events: %w", err)
		}
		if e := rec.RawSample; len(e) >= eventSize {
			k.handle(word(e), word(e[4:]), word(e[8:]), unix.ByteSliceToString(e[16:eventSize]))
		}
	}
}

// word reads a number of struct event.
func word(b []byte) uint32 { return binary.NativeEndian.Uint32(b) }

// handle brings the table up to date.
func (k *keeper) handle(kind, tid, parent uint32, path string) {
	switch kind {
	case eventFork:
		if matched, known := k.matched[parent]; known {
			k.set(tid, matched)
		}
	case eventExec: // once of a listed program, always
		k.set(tid, k.matched[tid] || k.lists(path))
	case eventExit:
		delete(k.matched, tid)
		_ = k.table.Delete(tid) // it need not be there
	}
}

// The kinds of struct event in pidmap.c, and its size.
const (
	eventExec = 1 + iota
	eventFork
	eventExit

	eventSize = 16 + 256
)

func (k *keeper) lists(path string) bool {
	for _, listed := range k.list {
		if strings.HasPrefix(path, listed) {
			return true
		}
	}
	return false
}

// set notes what a thread is. A full table leaves it out.
func (k *keeper) set(tid uint32, matched bool) {
	k.matched[tid] = matched
	if matched != k.include {
		_ = k.table.Put(tid, uint8(1))
	} else {
		_ = k.table.Delete(tid) // it need not be there
	}
}

// scan notes the leaders of all processes: those that run a listed program, and their descendants.
func (k *keeper) scan() error {
	processes, err := readProcesses()
	if err != nil {
		return err
	}
	var matched func(pid int) bool
	matched = func(pid int) bool {
		p, known := processes[pid]
		return known && (k.lists(p.exe) || matched(p.parent))
	}
	for pid := range processes {
		k.set(uint32(pid), matched(pid))
	}
	return nil
}
