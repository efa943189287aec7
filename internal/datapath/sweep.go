package datapath

import (
	"errors"
	"fmt"
	"os"

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
	var (
		tgid uint32
		l    bpf.DatapathLabel
		gone []uint32
	)
	labels := d.objs.Labels.Iterate()
	for labels.Next(&tgid, &l) {
		if errors.Is(unix.Kill(int(tgid), 0), unix.ESRCH) {
			gone = append(gone, tgid)
		}
	}
	if err := labels.Err(); err != nil {
		return fmt.Errorf("look for labels of processes that are gone: %w", err)
	}
	for _, tgid := range gone {
		if err := deleted(d.objs.Labels.Delete(tgid)); err != nil {
			return fmt.Errorf("forget process %d: %w", tgid, err)
		}
	}
	return nil
}

// initialPIDs reports whether this process sees the initial pid namespace, whose inode number is fixed
// (PROC_PID_INIT_INO in include/linux/proc_ns.h).
func initialPIDs() bool {
	const initial = "pid:[4026531836]"
	ns, err := os.Readlink("/proc/self/ns/pid")
	return err == nil && ns == initial
}
