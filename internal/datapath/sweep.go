package datapath

import (
	"errors"
	"fmt"
	"os"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"sidestep/internal/datapath/bpf"
)

// sweep forgets the labels of processes that are gone. The exit tracepoint does that; this is for the exits that it
// missed, so that they do not fill the map over the years.
//
// A label that is stale by one moment may be swept while a new process takes over its number: the kernel hands numbers
// out in a circle, so that takes a whole round within microseconds, and the socket hook would make it good.
func (d *Datapath) sweep() error {
	if !initialPIDs() {
		return nil // our numbers are not the kernel's
	}
	var gone []uint32
	err := d.eachLabelled(func(tgid uint32) {
		if errors.Is(unix.Kill(int(tgid), 0), unix.ESRCH) {
			gone = append(gone, tgid)
		}
	})
	if err != nil {
		return fmt.Errorf("look for labels of processes that are gone: %w", err)
	}
	for _, tgid := range gone {
		if err := deleted(d.objs.Labels.Delete(tgid)); err != nil {
			return fmt.Errorf("forget process %d: %w", tgid, err)
		}
	}
	return nil
}

// eachLabelled calls fn with the number of each process that has a label.
func (d *Datapath) eachLabelled(fn func(tgid uint32)) error {
	const together = 1 << 12
	var (
		at    ebpf.MapBatchCursor
		tgids [together]uint32
	)
	labels := make([]bpf.DatapathLabel, together)
	for {
		n, err := d.objs.Labels.BatchLookup(&at, tgids[:], labels, nil)
		for _, tgid := range tgids[:n] {
			fn(tgid)
		}
		if err != nil {
			return deleted(err) // the last ones
		}
	}
}

// initialPIDs reports whether this process sees the initial pid namespace, whose inode number is fixed
// (PROC_PID_INIT_INO in include/linux/proc_ns.h).
func initialPIDs() bool {
	const initial = "pid:[4026531836]"
	ns, err := os.Readlink("/proc/self/ns/pid")
	return err == nil && ns == initial
}
