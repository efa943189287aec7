package doctor

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"sidestep/internal/mountinfo"
)

// A hook is a place on the cgroup2 root where sidestep attaches a program.
type hook struct {
	name   string
	attach ebpf.AttachType
}

var rootHooks = [...]hook{
	{"sock_create", ebpf.AttachCGroupInetSockCreate},
	{"ingress", ebpf.AttachCGroupInetIngress},
	{"egress", ebpf.AttachCGroupInetEgress},
}

// foreign says which programs are on the hooks of the cgroup2 root, and whether they let others in.
func foreign(mounts mountinfo.Table) []Line {
	root, ok := mounts.Cgroup2Root()
	if !ok {
		return nil
	}
	l := Line{Name: "programs on the root"}
	dir, err := os.Open(root)
	if err != nil {
		l.Grade, l.Detail = Warn, fmt.Sprintf("cannot tell: %v", err)
		return []Line{l}
	}
	defer dir.Close()
	var shared, exclusive []string
	for _, h := range rootHooks {
		ids, flags, err := query(int(dir.Fd()), h.attach)
		if err != nil {
			l.Grade, l.Detail = Warn, fmt.Sprintf("cannot tell what is on %s: %v", h.name, err)
			return []Line{l}
		}
		for _, id := range ids {
			text := fmt.Sprintf("%s on %s", programName(id), h.name)
			if flags&unix.BPF_F_ALLOW_MULTI == 0 {
				exclusive = append(exclusive, text)
			} else {
				shared = append(shared, text)
			}
		}
	}
	judgeForeign(&l, shared, exclusive)
	return []Line{l}
}

// judgeForeign fills in the line. A program that was attached alone keeps every link out.
func judgeForeign(l *Line, shared, exclusive []string) {
	switch {
	case len(exclusive) > 0:
		l.Grade = Missing
		l.Detail = "alone in its place: " + strings.Join(exclusive, ", ")
		l.Hint = "it must be attached with BPF_F_ALLOW_MULTI, or detached: bpftool cgroup show"
	case len(shared) > 0:
		l.Detail = strings.Join(shared, ", ")
	default:
		l.Detail = "none"
	}
}

// programName returns how bpftool would call the program.
func programName(id ebpf.ProgramID) string {
	name := "?"
	if prog, err := ebpf.NewProgramFromID(id); err == nil {
		defer prog.Close()
		if info, err := prog.Info(); err == nil && info.Name != "" {
			name = info.Name
		}
	}
	return fmt.Sprintf("%s (id %d)", name, id)
}

// queryAttr is the part of union bpf_attr that BPF_PROG_QUERY uses.
type queryAttr struct {
	target, attach     uint32
	query, attachFlags uint32
	ids                uint64
	count, pad         uint32
}

// query returns the programs on a cgroup's hook and the flags they were attached with, which package link does
// not tell.
func query(cgroup int, at ebpf.AttachType) ([]ebpf.ProgramID, uint32, error) {
	ids := make([]ebpf.ProgramID, 64) // BPF_CGROUP_MAX_PROGS
	var pin runtime.Pinner            // the kernel gets the address as a number
	defer pin.Unpin()
	pin.Pin(&ids[0])
	attr := queryAttr{
		target: uint32(cgroup), attach: uint32(at),
		ids: uint64(uintptr(unsafe.Pointer(unsafe.SliceData(ids)))), count: uint32(len(ids)),
	}
	_, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_PROG_QUERY, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
	if errno != 0 && !errors.Is(errno, unix.ENOSPC) {
		return nil, 0, fmt.Errorf("query programs: %w", errno)
	}
	return ids[:min(attr.count, uint32(len(ids)))], attr.attachFlags, nil
}
