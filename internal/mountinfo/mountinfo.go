// Package mountinfo reads the kernel's table of mounts and answers which mount a path leads to.
//
// A [Table] is a value: [Read] takes it from the kernel, [Parse] from text, and every question is then answered
// without the kernel. It knows device numbers as the kernel does inside (a superblock's s_dev), which stat(2)
// does not show on btrfs and overlayfs.
package mountinfo

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
)

// File is where Read reads: the mounts of the calling thread's mount namespace. Opened and polled for POLLPRI it
// also tells when they change.
const File = "/proc/thread-self/mountinfo"

// A Mount is one line of mountinfo, with the kernel's escapes undone.
type Mount struct {
	ID     int
	Parent int
	// Dev is the superblock's s_dev, as the kernel writes it inside: major<<20 | minor.
	Dev uint32
	// Root is the directory (or file) of the filesystem that is mounted here. It does not start with "/" on nsfs
	// ("net:[4026531840]"), and starts with "/.." on a cgroup filesystem seen from below its root.
	Root string
	// Point is where it is mounted, as seen from this process's root directory.
	Point string
	// Deleted: the mounted directory or file has been removed since. Root is where it was.
	Deleted bool
	FSType  string
	Source  string
	// Super holds the superblock's options, comma separated.
	Super string
}

// Option reports whether the superblock has the option name.
func (m Mount) Option(name string) bool {
	return slices.Contains(strings.Split(m.Super, ","), name)
}

// A Table is all mounts of one mount namespace. The zero value has none.
type Table struct {
	mounts []Mount
	root   int // index in mounts of the mount that "/" is on, -1 when there is none
	child  map[place]int
}

// place is where a mount sits. Mounts stacked on one point are each other's children.
type place struct {
	parent int
	point  string
}

// New makes a Table of mounts, listed as the kernel lists them: where two sit in one place, the last hides the
// others.
func New(mounts []Mount) Table {
	t := Table{mounts: mounts, root: -1, child: make(map[place]int, len(mounts))}
	known := make(map[int]bool, len(mounts))
	for _, m := range mounts {
		known[m.ID] = true
	}
	for i, m := range mounts {
		if m.Parent != m.ID && known[m.Parent] {
			t.child[place{m.Parent, m.Point}] = i
		} else if m.Point == "/" {
			t.root = i
		}
	}
	return t
}

// Mounts returns every mount, hidden ones included, in the kernel's order.
func (t Table) Mounts() []Mount { return slices.Clone(t.mounts) }

// At returns the mount that the absolute path p leads to, and false when the table does not say. No component
// of p may be a symbolic link. A mount on "/" itself is not followed, as the kernel does not follow it either.
func (t Table) At(p string) (Mount, bool) {
	if t.root < 0 || len(t.mounts) == 0 || !path.IsAbs(p) {
		return Mount{}, false
	}
	p = path.Clean(p)
	at := t.mounts[t.root]
	for i := 1; i < len(p); i++ {
		if i+1 < len(p) && p[i+1] != '/' {
			continue
		}
		at = t.top(at, p[:i+1])
	}
	return at, true
}

// top returns the mount that is uppermost on point, starting in the mount m, or m when nothing is mounted there.
func (t Table) top(m Mount, point string) Mount {
	for range t.mounts { // never more steps than mounts, should a forged table have a cycle
		i, ok := t.child[place{m.ID, point}]
		if !ok {
			break
		}
		m = t.mounts[i]
	}
	return m
}

// Visible reports whether m is what its mount point leads to: not hidden by another mount on it or above it.
func (t Table) Visible(m Mount) bool {
	at, ok := t.At(m.Point)
	return ok && at.ID == m.ID
}

// Read returns the mounts of the calling thread's mount namespace.
func Read() (Table, error) {
	b, err := os.ReadFile(File)
	if err != nil {
		return Table{root: -1}, fmt.Errorf("read mounts: %w", err)
	}
	t, err := Parse(b)
	if err != nil {
		return t, fmt.Errorf("read mounts: %w", err)
	}
	return t, nil
}

// Parse reads the text of a mountinfo file. It returns every line it understood even when it returns an error
// for others.
func Parse(text []byte) (Table, error) {
	var mounts []Mount
	var errs []error
	for n, line := range bytes.Split(text, []byte("\n")) {
		if len(line) == 0 {
			continue
		}
		m, err := parseLine(string(line))
		if err != nil {
			errs = append(errs, fmt.Errorf("mountinfo line %d: %w", n+1, err))
			continue
		}
		mounts = append(mounts, m)
	}
	return New(mounts), errors.Join(errs...)
}

// errFields says that a line lacks fields that every line has.
var errFields = errors.New("too few fields")

// parseLine reads one line:
//
//	36 35 98:0 /root /point rw,noatime shared:1 - ext3 /dev/root rw,errors=continue
//	id parent  root  point  options    optional - type source    super
func parseLine(line string) (Mount, error) {
	head, tail, ok := strings.Cut(line, " - ")
	left := strings.Split(head, " ")
	// The source may be the empty string, and then two blanks follow each other.
	right := strings.SplitN(tail, " ", 3)
	if !ok || len(left) < 6 || len(right) < 2 {
		return Mount{}, errFields
	}
	id, err := strconv.Atoi(left[0])
	if err != nil {
		return Mount{}, fmt.Errorf("mount id: %w", err)
	}
	parent, err := strconv.Atoi(left[1])
	if err != nil {
		return Mount{}, fmt.Errorf("parent id: %w", err)
	}
	dev, err := parseDev(left[2])
	if err != nil {
		return Mount{}, err
	}
	m := Mount{ID: id, Parent: parent, Dev: dev, FSType: unescape(right[0]), Source: unescape(right[1])}
	// No file name holds a slash, so this ending can only be the kernel's remark.
	root, deleted := strings.CutSuffix(left[3], "//deleted")
	m.Root, m.Deleted, m.Point = unescape(root), deleted, unescape(left[4])
	if len(right) == 3 {
		m.Super = unescape(right[2])
	}
	if !path.IsAbs(m.Point) {
		return Mount{}, fmt.Errorf("mount point %q is not absolute", m.Point)
	}
	m.Point = path.Clean(m.Point)
	return m, nil
}

// parseDev reads "major:minor".
func parseDev(s string) (uint32, error) {
	maj, min, ok := strings.Cut(s, ":")
	if !ok {
		return 0, fmt.Errorf("device %q: no colon", s)
	}
	a, err := strconv.ParseUint(maj, 10, 12)
	if err != nil {
		return 0, fmt.Errorf("device %q: %w", s, err)
	}
	b, err := strconv.ParseUint(min, 10, 20)
	if err != nil {
		return 0, fmt.Errorf("device %q: %w", s, err)
	}
	return uint32(a)<<20 | uint32(b), nil
}

// unescape undoes the kernel's escapes: a backslash and three octal digits. Anything else stands for itself.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if v, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(v))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
