package mountinfo

import (
	"cmp"
	"errors"
	"slices"
)

// What a machine may lack. Every error of Cgroup2Root and BPFFS wraps one of them or is about reading mounts.
var (
	ErrNoCgroup2 = errors.New("no cgroup2 filesystem is mounted")
	ErrNoBPFFS   = errors.New("no bpf filesystem is mounted")
)

// Cgroup2Root returns the directory where the root of the cgroup2 hierarchy is mounted, wherever that is.
func Cgroup2Root() (string, error) {
	t, err := Read()
	if p, ok := t.Cgroup2Root(); ok {
		return p, nil
	}
	return "", cmp.Or(err, ErrNoCgroup2)
}

// BPFFS returns the directory where a bpf filesystem is mounted.
func BPFFS() (string, error) {
	t, err := Read()
	if p, ok := t.BPFFS(); ok {
		return p, nil
	}
	return "", cmp.Or(err, ErrNoBPFFS)
}

// Cgroup2Root returns where the root of the cgroup2 hierarchy is mounted, and false when it is not.
func (t Table) Cgroup2Root() (string, bool) {
	return t.whole("cgroup2", "/sys/fs/cgroup")
}

// BPFFS returns where a bpf filesystem is mounted, and false when it is not.
func (t Table) BPFFS() (string, bool) {
	return t.whole("bpf", "/sys/fs/bpf")
}

// whole returns a mount point that shows the whole of a filesystem of the type: the usual one if it is there,
// else the shortest.
func (t Table) whole(fstype, usual string) (string, bool) {
	var points []string
	for _, m := range t.mounts {
		if m.FSType == fstype && m.Root == "/" && t.Visible(m) {
			points = append(points, m.Point)
		}
	}
	if len(points) == 0 {
		return "", false
	}
	return slices.MinFunc(points, func(a, b string) int {
		return cmp.Or(rank(a, usual)-rank(b, usual), len(a)-len(b), cmp.Compare(a, b))
	}), true
}

// rank puts the usual mount point before all others.
func rank(point, usual string) int {
	if point == usual {
		return 0
	}
	return 1
}
