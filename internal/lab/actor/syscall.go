//go:build linux

package actor

import (
	"context"
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"
)

// Words is a structure in the actor's memory made of 64-bit words, each of them anything that [Actor.Syscall] takes: a
// struct iovec is Words{buf, len(buf)}.
type Words []any

// Syscall makes any system call in the actor and returns its result. An argument is an integer, a string (a pointer
// to a copy that ends in NUL), a []byte (a pointer to a copy, which is copied back after the call; nil is NULL) or
// [Words] (a pointer to them). The actor serves no other command during the call, so it should not block.
func (a *Actor) Syscall(ctx context.Context, nr uintptr, args ...any) (uint64, error) {
	rq := &request{op: opSyscall, flags: a.flags}
	if err := a.p.enter(ctx); err != nil {
		return 0, a.p.describe(rq, err)
	}
	defer a.p.leave()
	rq.arg[0] = uint64(nr)
	memory := memory{base: a.p.base}
	for i, arg := range args {
		word, err := memory.put(arg)
		if err == nil && i+1 == len(rq.arg) {
			err = unix.E2BIG
		}
		if err != nil {
			return 0, a.p.describe(rq, fmt.Errorf("argument %d: %w", i, err))
		}
		rq.arg[i+1] = word
	}
	rq.data = memory.data
	r, err := a.p.roundTrip(ctx, rq)
	if err == nil && len(r.data) != len(rq.data) {
		err = a.p.describe(rq, fmt.Errorf("%d bytes came back of %d", len(r.data), len(rq.data)))
	}
	if err == nil {
		memory.copyBack(r.data)
	}
	return uint64(r.ret), err
}

// memory is the data of a request, as it will lie in the actor.
type memory struct {
	base uint64
	data []byte
	back []window
}

// A window is a caller's buffer and where it lies in the data.
type window struct {
	buf []byte
	at  int
}

func (m *memory) put(arg any) (uint64, error) {
	switch v := arg.(type) {
	case int:
		return uint64(v), nil
	case uint32:
		return uint64(v), nil
	case uint64:
		return v, nil
	case uintptr:
		return uint64(v), nil
	case string:
		b, err := unix.ByteSliceFromString(v)
		return m.append(b), err
	case []byte:
		if v == nil {
			return 0, nil
		}
		at := m.append(v)
		m.back = append(m.back, window{v, int(at - m.base)})
		return at, nil
	case Words:
		var b []byte
		for _, word := range v {
			w, err := m.put(word)
			if err != nil {
				return 0, err
			}
			b = binary.NativeEndian.AppendUint64(b, w)
		}
		return m.append(b), nil
	default:
		return 0, fmt.Errorf("%T is no argument of a system call", arg)
	}
}

func (m *memory) append(b []byte) uint64 {
	at := len(m.data)
	m.data = append(m.data, b...)
	for len(m.data)%8 != 0 {
		m.data = append(m.data, 0)
	}
	return m.base + uint64(at)
}

func (m *memory) copyBack(data []byte) {
	for _, w := range m.back {
		copy(w.buf, data[w.at:])
	}
}

// Chdir changes the working directory.
func (a *Actor) Chdir(ctx context.Context, dir string) error {
	_, err := a.Syscall(ctx, unix.SYS_CHDIR, dir)
	return err
}

// Chroot changes the root directory, and the working directory to it.
func (a *Actor) Chroot(ctx context.Context, dir string) error {
	if _, err := a.Syscall(ctx, unix.SYS_CHROOT, dir); err != nil {
		return err
	}
	return a.Chdir(ctx, "/")
}

// Unshare moves the process to new namespaces, as CLONE_NEW... flags say.
func (a *Actor) Unshare(ctx context.Context, flags int) error {
	_, err := a.Syscall(ctx, unix.SYS_UNSHARE, flags)
	return err
}

// PrivateMounts moves the process to a mount namespace of its own, whose mounts nobody else sees.
func (a *Actor) PrivateMounts(ctx context.Context) error {
	if err := a.Unshare(ctx, unix.CLONE_NEWNS); err != nil {
		return err
	}
	_, err := a.Syscall(ctx, unix.SYS_MOUNT, "none", "/", 0, unix.MS_REC|unix.MS_PRIVATE, 0)
	return err
}

// BindMount mounts what is at source at target, too.
func (a *Actor) BindMount(ctx context.Context, source, target string) error {
	_, err := a.Syscall(ctx, unix.SYS_MOUNT, source, target, 0, unix.MS_BIND, 0)
	return err
}

// SetNS moves the process to the namespace of type nstype (CLONE_NEW..., or 0 for any) at path: /proc/1/ns/net.
func (a *Actor) SetNS(ctx context.Context, path string, nstype int) error {
	fd, err := a.Syscall(ctx, unix.SYS_OPENAT, unix.AT_FDCWD, path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	_, err = a.Syscall(ctx, unix.SYS_SETNS, fd, nstype)
	if _, closeErr := a.Syscall(ctx, unix.SYS_CLOSE, fd); err == nil {
		err = closeErr
	}
	return err
}
