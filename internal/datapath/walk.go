package datapath

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"sidestep/internal/datapath/bpf"
	"sidestep/policy"
)

// A Process is one live process as the kernel judges it.
type Process struct {
	PID, PPID int
	App       uint32 // 0 where no app decides
	Verdict   policy.Verdict
	Cause     policy.Cause
	Comm      string
}

// Processes lists every live process that has memory of its own, straight from the kernel's task list.
func (d *Datapath) Processes() ([]Process, error) {
	out, err := d.walk(d.objs.WalkList)
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	size := binary.Size(bpf.DatapathProcess{})
	ps := make([]Process, 0, len(out)/size)
	for r := bytes.NewReader(out); r.Len() >= size; {
		var p bpf.DatapathProcess
		if err := binary.Read(r, binary.NativeEndian, &p); err != nil {
			return nil, fmt.Errorf("decode a process: %w", err)
		}
		ps = append(ps, Process{
			PID: int(p.Tgid), PPID: int(p.Ppid), App: p.App,
			Verdict: policy.Verdict(p.Verdict), Cause: policy.Cause(p.Cause), Comm: comm(p.Comm),
		})
	}
	return ps, nil
}

// Launch makes a running process one of app Launched. It reports false if there is no such process.
func (d *Datapath) Launch(pid int) (bool, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.assign(pid, Launched)
}

func (d *Datapath) assign(pid int, app uint32) (bool, error) {
	if err := d.objs.Requests.Put(uint32(0), bpf.DatapathRequest{Tgid: uint32(pid), App: app}); err != nil {
		return false, fmt.Errorf("ask to label process %d: %w", pid, err)
	}
	out, err := d.walk(d.objs.WalkAssign)
	if err != nil {
		return false, fmt.Errorf("label process %d: %w", pid, err)
	}
	// Whoever was found to belong to nobody while the walk was under way is judged again.
	return len(out) > 0, d.configure(func(c *bpf.DatapathConfig) { c.Generation++ })
}

// walk runs an iterator over all tasks and returns what it wrote.
func (d *Datapath) walk(prog *ebpf.Program) ([]byte, error) { return d.walkOver(prog, nil) }

// walkOver is walk for an iterator over the entries of a map.
func (d *Datapath) walkOver(prog *ebpf.Program, m *ebpf.Map) ([]byte, error) {
	it, err := link.AttachIter(link.IterOptions{Program: prog, Map: m})
	if err != nil {
		return nil, err
	}
	defer it.Close()
	r, err := it.Open()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}

func comm[T int8 | uint8](c [16]T) string {
	var b []byte
	for _, x := range c {
		if x == 0 {
			break
		}
		b = append(b, byte(x))
	}
	return string(b)
}
