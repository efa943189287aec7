// Package identity turns a path as users write it into the identity by which the datapath knows a program.
//
// A path is only a name: it leads through symbolic links and mounts, and in another mount namespace it may lead
// elsewhere. What names a program everywhere is its filesystem and the path within that filesystem, a [File]:
// it survives an upgrade that puts a new file in the old one's place, it can be given for a file that does not
// exist yet, and a bind mount does not change it.
//
//	/bin/curl ──links──▶ /usr/bin/curl ──mounts──▶ File{254:0, /usr/bin/curl} ──seed──▶ Key
//	           [Resolve]                [FileAt]                               [Hasher]
//
// [Watcher] tells when the first two steps have to be done again.
package identity

import (
	"errors"
	"fmt"
	"path"
	"strings"

	"sidestep/internal/mountinfo"
)

// What may keep a path from having an identity.
var (
	// ErrNoMount: the mount table does not say which mount the path is on, because this process's root
	// directory is not the root of a mount.
	ErrNoMount = errors.New("no mount covers the path")
	// ErrOpaqueMount: the mount does not tell which part of its filesystem it shows.
	ErrOpaqueMount = errors.New("the path within the filesystem is not known")
)

// A File names a file or directory: a filesystem and the path within it.
type File struct {
	// Dev is the superblock's s_dev as the kernel writes it inside: major<<20 | minor. It is not always the
	// st_dev of stat(2).
	Dev uint32
	// Path is absolute and clean; "/" is the superblock's root.
	Path string
}

// Base returns the last component of the path, and "/" for the root.
func (f File) Base() string { return path.Base(f.Path) }

// Covers reports whether g is f or lies below it.
func (f File) Covers(g File) bool {
	return f.Dev == g.Dev && (f.Path == g.Path || f.Path == "/" || strings.HasPrefix(g.Path, f.Path+"/"))
}

func (f File) String() string {
	return fmt.Sprintf("%d:%d %s", f.Dev>>20, f.Dev&(1<<20-1), f.Path)
}

// below returns the file that rest names when one starts at f. rest has no ".." in it.
func (f File) below(rest string) File {
	return File{Dev: f.Dev, Path: path.Join(f.Path, rest)}
}

// FileAt returns the identity of an absolute path without symbolic links. The path need not exist.
func FileAt(mounts mountinfo.Table, p string) (File, error) {
	p = path.Clean(p)
	m, ok := mounts.At(p)
	if !ok {
		return File{}, fmt.Errorf("%s: %w", p, ErrNoMount)
	}
	f, ok := rootOf(m)
	if !ok {
		return File{}, fmt.Errorf("%s: mount %s of type %s: %w", p, m.Point, m.FSType, ErrOpaqueMount)
	}
	return f.below(strings.TrimPrefix(p, m.Point)), nil
}

// rootOf returns the identity of what m shows, and false if m does not tell.
func rootOf(m mountinfo.Mount) (File, bool) {
	if !path.IsAbs(m.Root) || m.Root == "/.." || strings.HasPrefix(m.Root, "/../") {
		return File{}, false
	}
	return File{Dev: m.Dev, Path: path.Clean(m.Root)}, true
}
