package leak_test

import (
	"encoding/binary"
	"errors"
	"testing"

	"golang.org/x/sys/unix"

	"sidestep/internal/lab/actor"
)

// From include/uapi/linux/io_uring.h.
const (
	ringEnterWait   = 1 << 0 // IORING_ENTER_GETEVENTS
	ringEnterWakeup = 1 << 1 // IORING_ENTER_SQ_WAKEUP
	ringSetupPoll   = 1 << 1 // IORING_SETUP_SQPOLL: a thread of the kernel submits
	ringOffsetSQEs  = 0x10000000
	ringOpConnect   = 16
	ringOpSend      = 26
	ringOpSocket    = 45
	ringAsync       = 1 << 4 // IOSQE_ASYNC: another thread of the kernel does the work
	ringEntries     = 8
	sqeSize         = 64
	cqeSize         = 16
)

// A ring is an io_uring of an actor, and a page of memory for what it sends.
type ring struct {
	*rig
	a          *actor.Actor
	fd         uint64
	setup      int
	async      byte
	rings      uint64 // where both queues are in the actor
	sqes, page uint64
	params     []byte // struct io_uring_params
	done       uint32 // how many requests were made
}

// ring sets up an io_uring.
func (r *rig) ring(a *actor.Actor, setup int) *ring {
	r.t.Helper()
	u := &ring{rig: r, a: a, setup: setup, params: make([]byte, 120)}
	binary.NativeEndian.PutUint32(u.params[8:], uint32(setup))
	var err error
	u.fd, err = a.Syscall(r.ctx, unix.SYS_IO_URING_SETUP, ringEntries, u.params)
	if errors.Is(err, unix.ENOSYS) {
		r.t.Skip("this kernel has no io_uring")
	}
	r.ok(err)
	u.rings = u.mmap(4096, unix.MAP_SHARED|unix.MAP_POPULATE, u.fd, 0)
	u.sqes = u.mmap(4096, unix.MAP_SHARED|unix.MAP_POPULATE, u.fd, ringOffsetSQEs)
	u.page = u.mmap(4096, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS, ^uint64(0), 0)
	return u
}

func (u *ring) mmap(size, flags int, fd uint64, offset int) uint64 {
	u.t.Helper()
	at, err := u.a.Syscall(u.ctx, unix.SYS_MMAP, 0, size, unix.PROT_READ|unix.PROT_WRITE, flags, fd, offset)
	u.ok(err)
	return at
}

// The fields of struct io_uring_params that say where things are in the rings.
func (u *ring) sq(field int) uint64 { return u.rings + u.offset(40+4*field) }
func (u *ring) cq(field int) uint64 { return u.rings + u.offset(80+4*field) }

func (u *ring) offset(at int) uint64 {
	return uint64(binary.NativeEndian.Uint32(u.params[at:]))
}

const (
	fieldHead  = 0
	fieldTail  = 1
	fieldArray = 6
	fieldCQEs  = 5
)

// write and read are about the actor's memory.
func (u *ring) write(at uint64, b []byte) {
	u.t.Helper()
	local := []unix.Iovec{{Base: &b[0], Len: uint64(len(b))}}
	_, err := unix.ProcessVMWritev(u.a.PID(), local, []unix.RemoteIovec{{Base: uintptr(at), Len: len(b)}}, 0)
	u.ok(err)
}

func (u *ring) read(at uint64, size int) []byte {
	u.t.Helper()
	b := make([]byte, size)
	local := []unix.Iovec{{Base: &b[0], Len: uint64(size)}}
	_, err := unix.ProcessVMReadv(u.a.PID(), local, []unix.RemoteIovec{{Base: uintptr(at), Len: size}}, 0)
	u.ok(err)
	return b
}

func word(v uint32) []byte { return binary.NativeEndian.AppendUint32(nil, v) }

// do makes one request and waits for its result. The words are fd, offset, address and length of a struct io_uring_sqe.
func (u *ring) do(op byte, fd uint32, offset, address uint64, length uint32) (int, error) {
	u.t.Helper()
	slot := uint64(u.done % ringEntries)
	sqe := append([]byte{op, u.async, 0, 0}, word(fd)...)
	sqe = binary.NativeEndian.AppendUint64(sqe, offset)
	sqe = binary.NativeEndian.AppendUint64(sqe, address)
	sqe = append(sqe, word(length)...)
	u.write(u.sqes+slot*sqeSize, append(sqe, make([]byte, sqeSize-len(sqe))...))
	u.write(u.sq(fieldArray)+4*slot, word(uint32(slot)))
	u.write(u.sq(fieldTail), word(u.done+1))
	enter := ringEnterWait
	if u.setup&ringSetupPoll != 0 {
		enter |= ringEnterWakeup
	}
	_, err := u.a.Syscall(u.ctx, unix.SYS_IO_URING_ENTER, u.fd, 1, 1, enter, 0, 0)
	u.ok(err)
	at := u.cq(fieldCQEs) + uint64(u.done%(2*ringEntries))*cqeSize
	result := int32(binary.NativeEndian.Uint32(u.read(at+8, 4)))
	u.done++
	u.write(u.cq(fieldHead), word(u.done))
	if result < 0 {
		return -1, unix.Errno(-result)
	}
	return int(result), nil
}

func (u *ring) socket(domain, typ int) (actor.Socket, error) {
	s, err := u.do(ringOpSocket, uint32(domain), uint64(typ), 0, 0)
	return actor.Socket(s), err
}

func (u *ring) connect(s actor.Socket, sa []byte) error {
	u.write(u.page, sa)
	_, err := u.do(ringOpConnect, uint32(s), uint64(len(sa)), u.page, 0)
	return err
}

func (u *ring) send(s actor.Socket, data []byte) error {
	u.write(u.page, data)
	_, err := u.do(ringOpSend, uint32(s), 0, u.page, uint32(len(data)))
	return err
}

// TestRingOfAnExcludedProgramLeadsOutside is about sockets that an io_uring makes, connects and sends on: at once, by a
// worker, or by a thread that looks for requests. Ring and worker may be older than the exclusion.
func TestRingOfAnExcludedProgramLeadsOutside(t *testing.T) {
	t.Parallel()
	r := engaged(t)
	listed := r.install("listed")
	app, host := r.start(listed), r.elsewhere(r.world.Internet)
	rings := map[string]*ring{
		"at once":     r.ring(app, 0),
		"by a worker": r.ring(app, 0),
		"by a thread": r.ring(app, ringSetupPoll),
	}
	rings["by a worker"].async = ringAsync
	for _, want := range []side{inside, outside, inside} {
		for name, u := range rings {
			for i, f := range speeches[:2] {
				for _, kind := range []actor.SocketKind{actor.TCP, actor.UDPConnected} {
					e := r.expect(kind, host, internet[i])
					e.name += " " + name
					s, err := u.socket(f.domain, e.socketType())
					r.ok(err)
					r.ok(u.connect(s, actor.Sockaddr(e.at)))
					e.meet(app, s)
					r.ok(u.send(s, water))
					_, err = host.Receive(r.short(), e.far.s)
					r.ok(err)
					e.wantOn(want, "")
				}
			}
		}
		r.move(listed, !want)
	}
	r.wantNoMixture()
}
