package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"
)

// An initramfs is the guest's root directory, in the format that kernels unpack ("newc", see the kernel's
// Documentation/driver-api/early-userspace/buffer-format.rst). It is not compressed: emulated kernels are slow.
type initramfs struct {
	w    *bufio.Writer
	dirs map[string]bool
	ino  int
	err  error
}

const (
	typeDir  = 0o040000
	typeFile = 0o100000
	typeLink = 0o120000
)

// writeInitramfs makes a file of what fill puts in.
func writeInitramfs(name string, fill func(*initramfs) error) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	fs := &initramfs{w: bufio.NewWriter(f), dirs: map[string]bool{".": true, "/": true}}
	err = fill(fs)
	fs.entry("TRAILER!!!", 0, owner{}, 0, strings.NewReader(""))
	return errors.Join(err, fs.err, fs.w.Flush(), f.Close())
}

// file puts a file of this machine's at a path.
func (fs *initramfs) file(at, from string) error {
	f, err := os.Open(from)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	fs.dir(path.Dir(at))
	fs.entry(at, typeFile|int(info.Mode().Perm()), owner{}, info.Size(), f)
	return fs.err
}

// text puts a file with these contents at a path.
func (fs *initramfs) text(at, contents string) {
	fs.dir(path.Dir(at))
	fs.entry(at, typeFile|0o644, owner{}, int64(len(contents)), strings.NewReader(contents))
}

// link puts a symbolic link at a path.
func (fs *initramfs) link(at, to string) {
	fs.dir(path.Dir(at))
	fs.entry(at, typeLink|0o777, owner{}, int64(len(to)), strings.NewReader(to))
}

// dir makes a directory and those above it.
func (fs *initramfs) dir(at string) {
	at = path.Clean(at)
	if fs.dirs[at] {
		return
	}
	fs.dirs[at] = true
	fs.dir(path.Dir(at))
	fs.entry(at, typeDir|0o755, owner{}, 0, strings.NewReader(""))
}

// sources puts this repository's files at a path: tests read their data and each other.
func (fs *initramfs) sources(at, root string, names []string) error {
	for _, name := range names {
		if err := fs.file(path.Join(at, name), filepath.Join(root, name)); err != nil {
			return err
		}
	}
	return nil
}

// tree puts in all that is in a directory, with modes and owners. Devices are the kernel's to make.
func (fs *initramfs) tree(root string) error {
	return filepath.WalkDir(root, func(name string, d iofs.DirEntry, err error) error {
		if err != nil || name == root {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		s := info.Sys().(*syscall.Stat_t)
		at, mode, by := strings.TrimPrefix(name, root), int(s.Mode), owner{s.Uid, s.Gid}
		switch d.Type() {
		case iofs.ModeDir:
			fs.dirs[at] = true
			fs.entry(at, mode, by, 0, strings.NewReader(""))
		case iofs.ModeSymlink:
			to, err := os.Readlink(name)
			if err != nil {
				return err
			}
			fs.entry(at, mode, by, int64(len(to)), strings.NewReader(to))
		case 0:
			f, err := os.Open(name)
			if err != nil {
				return err
			}
			defer f.Close()
			fs.entry(at, mode, by, info.Size(), f)
		}
		return fs.err
	})
}

// An owner is a user and a group; the zero one is root.
type owner struct{ user, group uint32 }

func (fs *initramfs) entry(at string, mode int, by owner, size int64, contents io.Reader) {
	if fs.err != nil {
		return
	}
	fs.ino++
	name := strings.TrimPrefix(at, "/") + "\x00"
	// Magic, then: inode, mode, owner, group, links, time, size, device and device of the node, length of the name, check.
	header := fmt.Sprintf("070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x",
		fs.ino, mode, by.user, by.group, 1, 0, size, 0, 0, 0, 0, len(name), 0)
	_, err := io.WriteString(fs.w, header+name+pad(len(header)+len(name)))
	n, copyErr := io.CopyN(fs.w, contents, size)
	_, padErr := io.WriteString(fs.w, pad(int(n)))
	fs.err = errors.Join(err, copyErr, padErr)
}

// pad fills up to the next multiple of four.
func pad(n int) string { return "\x00\x00\x00"[:-n&3] }
