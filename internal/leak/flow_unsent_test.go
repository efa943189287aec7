package leak_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"sidestep/internal/lab/actor"
)

// TestNothingUnsentLeavesAfterTheCut is about data that the kernel holds because the other end does not read: of a
// connection that is open, and of an orphan, which its program has closed. Whose an orphan is, nobody knows any more if
// its program had not been excluded yet.
func TestNothingUnsentLeavesAfterTheCut(t *testing.T) {
	t.Parallel()
	r := engaged(t)
	listed := r.install("listed")
	near, far := r.start(listed), r.elsewhere(r.world.Internet)
	for _, from := range []side{inside, outside} {
		var flows []*flow
		for _, host := range internet {
			sensor := r.stuff(near, far, host)
			packets, bytes := sensor.sent(from)
			err := sensor.drain()
			r.wait("unsent data to leave when it is read", func() bool { return sensor.payload(from, packets, bytes) })
			if err != nil {
				t.Errorf("%s: the sensor ends with %v", sensor.name, err)
			}
			flows = append(flows, r.stuff(near, far, host))
			if from == outside {
				orphan := r.stuff(near, far, host)
				orphan.name += ", closed"
				r.ok(near.CloseSocket(r.ctx, orphan.near.s))
				flows = append(flows, orphan)
			}
		}
		r.move(listed, !from)
		for _, f := range flows {
			f.wantNothingUnsent(fmt.Sprintf("once its app is %v", !from))
		}
	}
	r.wantNoMixture()
}

// stuff opens a connection whose other end does not read, and sends until the kernel takes no more.
func (r *rig) stuff(near, far *actor.Actor, host netip.Addr) *flow {
	r.t.Helper()
	f := r.open(actor.TCP, near, far, host)
	small := binary.NativeEndian.AppendUint32(nil, 64<<10)
	r.ok(near.SetSocketOption(r.ctx, f.near.s, unix.SOL_SOCKET, unix.SO_SNDBUF, small))
	data := make([]byte, 8<<10)
	for took := true; took; {
		r.settle()
		took = false
		var err error
		for err == nil {
			_, err = near.Syscall(r.ctx, unix.SYS_SENDTO, int(f.near.s), data, len(data), unix.MSG_DONTWAIT, 0, 0)
			took = took || err == nil
		}
		if !errors.Is(err, unix.EAGAIN) {
			r.ok(err)
		}
	}
	return f
}

// drain reads at the other end what is there. An error is the end.
func (f *flow) drain() error {
	for {
		got, err := f.peek(f.far)
		if errors.Is(err, unix.EAGAIN) {
			return nil
		}
		if err == nil && len(got) == 0 {
			err = io.EOF
		}
		if err != nil {
			return err
		}
	}
}

// payload reports whether the packets that left after so many packets and bytes carried data.
func (f *flow) payload(s side, packets, bytes uint64) bool {
	f.t.Helper()
	const bare = 40 + 20 + 12 // an IPv6 header, and a TCP header with timestamps
	p, b := f.sent(s)
	return b-bytes > bare*(p-packets)
}

// wantNothingUnsent fails if data leaves when the other end reads at last.
func (f *flow) wantNothingUnsent(when string) {
	f.t.Helper()
	f.settle()
	var packets, bytes [2]uint64
	for i, s := range []side{inside, outside} {
		packets[i], bytes[i] = f.sent(s)
	}
	var err error
	for range 3 { // each makes room for more
		if err == nil {
			err = f.drain()
			f.settle()
		}
	}
	if err != nil && !errors.Is(err, unix.ECONNRESET) {
		f.t.Errorf("%s %s: the other end reads until error %v, want none or ECONNRESET", f.name, when, err)
	}
	for i, s := range []side{inside, outside} {
		if f.payload(s, packets[i], bytes[i]) {
			f.t.Errorf("%s %s: unsent data has left %v", f.name, when, s)
		}
	}
}
