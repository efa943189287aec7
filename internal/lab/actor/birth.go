//go:build linux

package actor

import (
	"context"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// A Birth is a way to make a process.
type Birth uint8

// The ways to make a process.
const (
	ByFork        Birth = iota // fork(); clone where the machine has none
	ByClone                    // clone(SIGCHLD)
	ByClone3                   // clone3()
	ByCloneParent              // clone(CLONE_PARENT): a sibling of its maker
	ByCloneVM                  // clone(CLONE_VM): a process that shares its maker's memory
	ByVfork                    // clone(CLONE_VM|CLONE_VFORK) on a stack of its own, as posix_spawn does
	ByDoubleFork               // a grandchild whose parent has ended: an orphan
	births
)

// Births are all ways to make a process.
func Births() []Birth {
	all := make([]Birth, births)
	for i := range all {
		all[i] = Birth(i)
	}
	return all
}

func (b Birth) String() string {
	return [...]string{"fork", "clone", "clone3", "clone parent", "clone vm", "vfork", "double fork"}[b]
}

func (b Birth) args() (how, flags uint64) {
	switch b {
	case ByFork:
		return byFork, 0
	case ByClone3:
		return byClone3, 0
	case ByCloneParent:
		return byClone, unix.CLONE_PARENT
	case ByCloneVM:
		return byClone, unix.CLONE_VM
	case ByVfork:
		return byClone, unix.CLONE_VM | unix.CLONE_VFORK
	case ByDoubleFork:
		return byDouble, 0
	default:
		return byClone, 0
	}
}

// A Via is a way to name the program of an exec.
type Via uint8

// The ways to name a program.
const (
	ViaPath  Via = iota // execve(Path), after chdir(Dir)
	ViaFD               // execveat(open(Path, O_PATH), "", AT_EMPTY_PATH), after chdir(Dir): fexecve
	ViaDirFD            // execveat(open(Dir, O_PATH), Path)
	ViaMemfd            // execveat of a copy in memory, which has no path
	vias
)

// Vias are all ways to name a program.
func Vias() []Via {
	all := make([]Via, vias)
	for i := range all {
		all[i] = Via(i)
	}
	return all
}

func (v Via) String() string {
	return [...]string{"path", "fd", "dirfd", "memfd"}[v]
}

// An Image says what to execute and how. The file must be an actor that [Install] wrote, a link to one, or a script
// that leads to one; only a [Storm] takes other programs.
type Image struct {
	Path string
	// Dir, if not empty, is the directory to change to first (ViaDirFD: to start from). It makes sense of a relative Path.
	Dir string
	// Args are the arguments, Args[0] included. Empty means Path alone.
	Args []string
	Via  Via
}

func (im Image) marshal() (data []byte, argc uint64, err error) {
	args := im.Args
	if len(args) == 0 {
		args = []string{im.Path}
	}
	if len(args) > argvMax {
		return nil, 0, fmt.Errorf("execute %s: %d arguments: %w", im.Path, len(args), unix.E2BIG)
	}
	for _, s := range append([]string{im.Path, im.Dir}, args...) {
		if data, err = appendString(data, s); err != nil {
			return nil, 0, fmt.Errorf("execute %q: %w", im.Path, err)
		}
	}
	return data, uint64(len(args)), nil
}

func appendString(data []byte, s string) ([]byte, error) {
	b, err := unix.ByteSliceFromString(s)
	return append(data, b...), err
}

// Fork makes a child by fork().
func (a *Actor) Fork(ctx context.Context) (*Actor, error) {
	return a.ForkBy(ctx, ByFork)
}

// ForkBy makes a process that goes on as a copy of this one. After ByVfork this one sleeps, deaf to commands, until
// the new one executes something or ends. After ByDoubleFork the process between has ended.
func (a *Actor) ForkBy(ctx context.Context, by Birth) (*Actor, error) {
	how, flags := by.args()
	return a.bear(ctx, &request{op: opBirth, arg: [7]uint64{how, flags}})
}

// ForkExec makes a process that executes im at once. ForkExec(ctx, ByVfork, im) is what posix_spawn does.
func (a *Actor) ForkExec(ctx context.Context, by Birth, im Image) (*Actor, error) {
	data, argc, err := im.marshal()
	if err != nil {
		return nil, err
	}
	how, flags := by.args()
	arg := [7]uint64{how, flags, uint64(im.Via), argc}
	return a.bear(ctx, &request{op: opSpawn, arg: arg, data: data})
}

func (a *Actor) bear(ctx context.Context, rq *request) (*Actor, error) {
	token, born, err := a.p.stage.expect()
	if err != nil {
		return nil, a.p.describe(rq, err)
	}
	defer a.p.stage.forget(token, born)
	rq.token = token
	if _, err := a.call(ctx, rq); err != nil {
		return nil, err
	}
	select {
	case p := <-born:
		return &Actor{p: p}, nil
	case <-ctx.Done():
		return nil, a.p.describe(rq, fmt.Errorf("no hello from the new process: %w", context.Cause(ctx)))
	}
}

// Exec executes the actor at path in place of the one that runs. The channel and all sockets stay.
func (a *Actor) Exec(ctx context.Context, path string) error {
	return a.ExecImage(ctx, Image{Path: path})
}

// ExecImage is [Actor.Exec] with all choices. If it fails, the process goes on as it was, but in im.Dir.
func (a *Actor) ExecImage(ctx context.Context, im Image) error {
	data, argc, err := im.marshal()
	if err != nil {
		return err
	}
	_, err = a.call(ctx, &request{op: opExec, arg: [7]uint64{0, 0, uint64(im.Via), argc}, data: data})
	return err
}

// A Storm is many short processes.
type Storm struct {
	// Count is how many, Width how many at a time (at most 64; 0 means 1).
	Count, Width int
	// To, if valid, is where each sends one datagram as the first thing it does.
	To netip.AddrPort
	// Image, if any, is what each executes instead, a probe for example. An actor ends at once.
	Image *Image
	// Vfork makes the parent sleep until each child has executed or ended.
	Vfork bool
}

// Storm runs a storm, and returns how many of its processes ended with status 0.
func (a *Actor) Storm(ctx context.Context, s Storm) (good int, err error) {
	rq := &request{op: opStorm, data: Sockaddr(s.To)}
	rq.arg[0], rq.arg[1] = uint64(s.Count), uint64(max(s.Width, 1))
	if s.Image != nil {
		rq.arg[2] = uint64(s.Image.Via)
		if rq.data, rq.arg[3], err = s.Image.marshal(); err != nil {
			return 0, err
		}
	}
	if s.Vfork {
		rq.arg[4] = unix.CLONE_VFORK
	}
	r, err := a.call(ctx, rq)
	return int(max(r.ret, 0)), err
}
