package datapath

import (
	"net/netip"

	"github.com/cilium/ebpf"
)

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

// Addresses are those that the guard knows: 1 outside, 2 inside.
func (d *Datapath) Addresses() (map[netip.Addr]uint32, error) {
	have, err := contents[[16]byte](d.objs.Addresses)
	known := map[netip.Addr]uint32{}
	for a, role := range have {
		known[netip.AddrFrom16(a).Unmap()] = role
	}
	return known, err
}
