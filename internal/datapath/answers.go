package datapath

import (
	"errors"
	"fmt"
	"math"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/features"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// haveNetfilter reports whether the kernel has BPF programs for netfilter: since 6.4, unless built without. docs/limits.md says
// what passes where there are none.
func haveNetfilter() (bool, error) {
	err := features.HaveProgramType(ebpf.Netfilter)
	if err != nil && !errors.Is(err, ebpf.ErrNotSupported) {
		return false, fmt.Errorf("ask whether netfilter runs programs: %w", err)
	}
	return err == nil, nil
}

// leaveOutAnswers puts a program that any kernel takes, and that nobody attaches, in the place of the one for netfilter.
func leaveOutAnswers(spec *ebpf.CollectionSpec) {
	spec.Programs["on_answer"] = &ebpf.ProgramSpec{
		Type:         ebpf.SocketFilter,
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()},
	}
}

// attachAnswers has netfilter show us what the network namespace that we govern sends.
func (d *Datapath) attachAnswers() error {
	if !d.netfilter {
		return nil
	}
	families := map[string]link.NetfilterProtocolFamily{"answers4": link.NetfilterProtoIPv4, "answers6": link.NetfilterProtoIPv6}
	return d.inside(func() error {
		for name, family := range families {
			l, err := attachLast(d.objs.OnAnswer, family)
			if err != nil {
				return fmt.Errorf("attach %s to netfilter: %w", name, err)
			}
			d.links[name] = l
		}
		return nil
	})
}

// attachLast attaches a program where all others have decided what a packet's way is. No place holds two programs: whoever takes
// over has one before that of the datapath that is pinned.
func attachLast(prog *ebpf.Program, family link.NetfilterProtocolFamily) (l link.Link, err error) {
	const places = 100
	for i := range int32(places) {
		l, err = link.AttachNetfilter(link.NetfilterOptions{
			Program: prog, ProtocolFamily: family, Hook: link.NetfilterInetLocalOut,
			Priority: math.MaxInt32 - 1 - i, // the very last is refused
		})
		if !errors.Is(err, unix.EBUSY) {
			break
		}
	}
	return l, err
}
