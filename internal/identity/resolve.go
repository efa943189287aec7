package identity

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"
	"syscall"

	"sidestep/internal/mountinfo"
	"sidestep/policy"
)

// linksMax is how many symbolic links a path may pass (MAXSYMLINKS in linux/namei.h).
const linksMax = 40

// What may be wrong with what a path leads to. [Resolve] also returns errors that wrap [syscall.ELOOP],
// [fs.ErrPermission] (naming the component), [policy.ErrRootPath], [policy.ErrPathTooDeep], [ErrNoMount] and
// [ErrOpaqueMount].
var (
	// ErrIsDirectory: the app names a program, but its path leads to a directory.
	ErrIsDirectory = errors.New("is a directory")
	// ErrNotDirectory: the app names a directory, or the path passes through one, but there is something else.
	ErrNotDirectory = errors.New("not a directory")
	// ErrNotRegular: the app names a program, but its path leads to a device, a socket or a pipe.
	ErrNotRegular = errors.New("not a regular file")
)

// A Target is what an app's path leads to.
type Target struct {
	// Path is as the user named it; with a final "/" it is a directory of programs.
	Path string
	// Canonical is the same without symbolic links, and without a final "/". Components that do not exist yet
	// stand as they were named.
	Canonical string
	// Exists reports whether there is something at Canonical.
	Exists bool
	// IsDir reports whether that is a directory.
	IsDir bool
	// Script reports whether the file starts with "#!"; then the kernel runs Interpreter.
	Script      bool
	Interpreter string

	// Identity is what the datapath recognises: a file, or a directory if Path ends in "/".
	Identity File
	// Below holds, for a directory of programs, the directories that other mounts show below it. They belong to
	// the app as the directory does. A mount that would bring the root directory into the app, and one on a
	// single file, is not among them.
	Below []File
	// Aliases holds the names that only an execve's argument can have: the datapath finds a script by that
	// string, started from the caller's root or working directory, and does not follow mounts and links on the
	// way. Same kind as Identity; neither Identity nor Below is among them.
	Aliases []File

	// Links holds the symbolic links that were passed, in order.
	Links []string
	// Watch holds every directory entry that the answer depends on.
	Watch []Entry
}

// Dir reports whether the app is a directory of programs.
func (t Target) Dir() bool { return strings.HasSuffix(t.Path, "/") }

// An Entry is a name in a directory. The zero Name stands for every name.
type Entry struct {
	Dir, Name string
}

// Resolve finds out what the app's path leads to, in the calling thread's mount namespace. A path that does not
// exist is no error. With an error the Target is filled in as far as that was possible; its Watch then says what
// has to change.
func Resolve(app policy.App) (Target, error) {
	mounts, err := mountinfo.Read()
	if err != nil {
		return Target{Path: app.Path}, err
	}
	return ResolveIn(mounts, app)
}

// ResolveIn is [Resolve] with a mount table that has been read before.
func ResolveIn(mounts mountinfo.Table, app policy.App) (Target, error) {
	t := Target{Path: app.Path}
	w := walk{mounts: mounts}
	info, werr := w.walk(app.Path)
	t.Canonical, t.Links = w.at, w.links
	err := t.judge(info, werr)
	id, iderr := FileAt(mounts, t.Canonical)
	if iderr == nil {
		t.Identity = id
		if t.Dir() {
			iderr = t.mountsBelow(mounts)
		}
		w.spellings(t.Canonical)
		t.Aliases = w.aliases(t)
	}
	t.Watch = unique(w.watch)
	if err == nil {
		err = iderr
	}
	if err == nil && strings.Count(t.Identity.Path, "/") > policy.DepthMax {
		err = policy.ErrPathTooDeep
	}
	if err != nil {
		return t, fmt.Errorf("resolve %s: %w", app.Path, err)
	}
	return t, nil
}

// judge fills in what is known of the thing itself and says whether it is what the app asks for.
func (t *Target) judge(info fs.FileInfo, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	t.Exists, t.IsDir = true, info.IsDir()
	switch {
	case t.Dir() && !t.IsDir:
		return fmt.Errorf("%s: %w", t.Canonical, ErrNotDirectory)
	case t.Dir():
		return nil
	case t.IsDir:
		return fmt.Errorf("%s: %w", t.Canonical, ErrIsDirectory)
	case !info.Mode().IsRegular():
		return fmt.Errorf("%s: %w", t.Canonical, ErrNotRegular)
	}
	t.Script, t.Interpreter, err = readScript(t.Canonical)
	return err
}

// mountsBelow finds the directories that are mounted below the app's. It refuses a directory that holds the root
// directory, under whatever name: that would exclude every program.
func (t *Target) mountsBelow(mounts mountinfo.Table) error {
	root, err := FileAt(mounts, "/")
	if err != nil {
		return err
	}
	if t.Identity.Covers(root) {
		return fmt.Errorf("%s: %w", t.Canonical, policy.ErrRootPath)
	}
	known := map[File]bool{t.Identity: true}
	for _, m := range mounts.Mounts() {
		f, ok := rootOf(m)
		if !ok || known[f] || f.Covers(root) || m.FSType == "autofs" || m.Deleted {
			continue
		}
		if !strings.HasPrefix(m.Point, t.Canonical+"/") || !mounts.Visible(m) {
			continue
		}
		if info, err := os.Lstat(m.Point); err == nil && info.IsDir() {
			known[f] = true
			t.Below = append(t.Below, f)
		}
	}
	return nil
}

// A walk follows paths one component at a time, as the kernel does, and keeps what it saw.
type walk struct {
	mounts mountinfo.Table
	at     string // where the latest walk has got to; no symbolic links in it
	todo   []string
	hops   int
	links  []string
	watch  []Entry
	named  []File // what the rest of the path is called from each directory on the way
}

// walk follows p to its end. The error wraps fs.ErrNotExist when a component is missing; then w.at is the whole
// path all the same, as it is with any other error.
func (w *walk) walk(p string) (fs.FileInfo, error) {
	w.at, w.todo, w.hops = "/", split(p), 0
	for len(w.todo) > 0 {
		if err := w.step(); err != nil {
			w.at = path.Join(w.at, path.Join(w.todo...))
			return nil, err
		}
	}
	return os.Lstat(w.at)
}

// step takes one component.
func (w *walk) step() error {
	w.name()
	name := w.todo[0]
	full := path.Join(w.at, name)
	if name != ".." {
		w.watch = append(w.watch, Entry{w.at, name})
	}
	info, err := os.Lstat(full)
	switch {
	case err != nil:
		return err
	case info.Mode()&fs.ModeSymlink != 0:
		return w.follow(full)
	case len(w.todo) > 1 && !info.IsDir():
		return fmt.Errorf("%s: %w", full, ErrNotDirectory)
	}
	w.at, w.todo = full, w.todo[1:]
	return nil
}

// follow puts the content of the symbolic link at full in the place of its name.
func (w *walk) follow(full string) error {
	if w.hops++; w.hops > linksMax {
		return &fs.PathError{Op: "follow", Path: full, Err: syscall.ELOOP}
	}
	to, err := os.Readlink(full)
	if err != nil {
		return err
	}
	w.links = append(w.links, full)
	if path.IsAbs(to) {
		w.at = "/"
	}
	w.todo = append(split(to), w.todo[1:]...)
	return nil
}

// split returns the components of p that lead anywhere.
func split(p string) []string {
	var names []string
	for name := range strings.SplitSeq(p, "/") {
		if name != "" && name != "." {
			names = append(names, name)
		}
	}
	return names
}
