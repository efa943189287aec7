package leak_test

import (
	"encoding/binary"
	"testing"

	"golang.org/x/sys/unix"

	"sidestep/internal/lab/actor"
)

// pours are the ways to send on a connection.
var pours = []struct {
	name string
	send func(r *rig, a *actor.Actor, s int) error
}{
	{"write", func(r *rig, a *actor.Actor, s int) error {
		return r.call(a, unix.SYS_WRITE, s, water, len(water))
	}},
	{"writev", func(r *rig, a *actor.Actor, s int) error {
		return r.call(a, unix.SYS_WRITEV, s, actor.Words{water, len(water)}, 1)
	}},
	{"send", func(r *rig, a *actor.Actor, s int) error {
		return r.call(a, unix.SYS_SENDTO, s, water, len(water), 0, 0, 0)
	}},
	{"send out of band", func(r *rig, a *actor.Actor, s int) error {
		return r.call(a, unix.SYS_SENDTO, s, water, len(water), unix.MSG_OOB, 0, 0)
	}},
	{"send without a copy", func(r *rig, a *actor.Actor, s int) error {
		on := binary.NativeEndian.AppendUint32(nil, 1)
		if err := a.SetSocketOption(r.ctx, actor.Socket(s), unix.SOL_SOCKET, unix.SO_ZEROCOPY, on); err != nil {
			return err
		}
		return r.call(a, unix.SYS_SENDTO, s, water, len(water), unix.MSG_ZEROCOPY, 0, 0)
	}},
	{"sendmmsg", func(r *rig, a *actor.Actor, s int) error {
		message := actor.Words{0, 0, actor.Words{water, len(water)}, 1, 0, 0, 0, 0}
		return r.call(a, unix.SYS_SENDMMSG, s, message, 1, 0)
	}},
	{"sendfile", func(r *rig, a *actor.Actor, s int) error {
		f, err := a.Syscall(r.ctx, unix.SYS_OPENAT, unix.AT_FDCWD, "/proc/self/exe", unix.O_RDONLY, 0)
		if err != nil {
			return err
		}
		return r.call(a, unix.SYS_SENDFILE, s, f, 0, len(water))
	}},
	{"splice", func(r *rig, a *actor.Actor, s int) error {
		ends := make([]byte, 8)
		if err := r.call(a, unix.SYS_PIPE2, ends, 0); err != nil {
			return err
		}
		out, in := binary.NativeEndian.Uint32(ends), binary.NativeEndian.Uint32(ends[4:])
		if err := r.call(a, unix.SYS_WRITE, in, water, len(water)); err != nil {
			return err
		}
		return r.call(a, unix.SYS_SPLICE, out, 0, s, 0, len(water), 0)
	}},
	{"io_uring", func(r *rig, a *actor.Actor, s int) error {
		return r.ring(a, 0).send(actor.Socket(s), water)
	}},
}

var water = []byte("sixteen bytes...")

// call makes a system call whose result does not matter.
func (r *rig) call(a *actor.Actor, nr uintptr, args ...any) error {
	_, err := a.Syscall(r.ctx, nr, args...)
	return err
}

// TestNoWayOfSendingBringsAConnectionBack pours into connections of every age: new ones, and ones that have been cut.
func TestNoWayOfSendingBringsAConnectionBack(t *testing.T) {
	t.Parallel()
	r := engaged(t)
	listed := r.install("listed")
	app, host := r.start(listed), r.elsewhere(r.world.Internet)
	r.deafToPipes(app)
	for _, from := range []side{inside, outside} {
		cut := make([][]*flow, len(pours))
		for i, p := range pours {
			for _, at := range internet {
				f := r.open(actor.TCP, app, host, at)
				f.name += " by " + p.name
				if err := p.send(r, app, int(f.near.s)); err != nil {
					t.Errorf("%s: %v", f.name, err)
				}
				if got, err := host.Receive(r.short(), f.far.s); err != nil || len(got) == 0 {
					t.Errorf("%s: the other end receives %q and error %v", f.name, got, err)
				}
				f.wantOn(from, "before")
				cut[i] = append(cut[i], f)
			}
		}
		r.move(listed, !from)
		for i, p := range pours {
			for _, f := range cut[i] {
				was := f.both()
				if err := p.send(r, app, int(f.near.s)); err == nil {
					t.Errorf("%s: the program can send once its app is %v", f.name, !from)
				}
				f.settle()
				if now := f.both(); now != was {
					t.Errorf("%s: packets that left inside and outside were %d, and are %d", f.name, was, now)
				}
			}
		}
	}
	r.wantNoMixture()
}

// deafToPipes has the actor ignore SIGPIPE, which ends who writes to a connection that is over.
func (r *rig) deafToPipes(a *actor.Actor) {
	r.t.Helper()
	const ignore = 1 // SIG_IGN
	r.ok(r.call(a, unix.SYS_RT_SIGACTION, int(unix.SIGPIPE), actor.Words{ignore, 0, 0, 0}, 0, 8))
}
