package datapath

import "github.com/cilium/ebpf"

// SetSizes makes maps small, so that tests can fill them.
func (o *Options) SetSizes(sizes map[string]uint32) { o.sizes = sizes }

// ProgramIDs lists the programs that are loaded.
func (d *Datapath) ProgramIDs() []ebpf.ProgramID {
	var ids []ebpf.ProgramID
	p := &d.objs.DatapathPrograms
	for _, prog := range []*ebpf.Program{p.OnExec, p.OnExit, p.OnFork, p.OnNewtask, p.OnSocket, p.OnAnswer} {
		if info, err := prog.Info(); err == nil {
			id, _ := info.ID()
			ids = append(ids, id)
		}
	}
	return ids
}
