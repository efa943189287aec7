package lab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

//go:generate go tool bpf2go -target bpfel -tags linux -type flow_key -type flow_count counter bpf/wire.c -- -O2 -Wall -Werror -I/usr/include/x86_64-linux-gnu

// readBatch is how many flows are read from the kernel at once.
const readBatch = 4096

// ErrUncounted says that a wire saw more flows than it can tell apart, so its counts are not the whole truth.
var ErrUncounted = errors.New("packets passed uncounted")

// Wires are the two ways out of the machine.
type Wires struct {
	Uplink *Wire // tapped on the router's end of the cable, or of both: what arrives there has really left the machine
	Tunnel *Wire // tapped on the machine's tunnel interface, before encryption
}

// A Wire counts all packets that pass a link, or several, in the kernel, without losing any.
//
// It goes on counting when the link is deleted and made again. Its methods may be called at any time, from any
// goroutine, until the world is closed.
type Wire struct {
	far     bool // the tap is on the other end of the link, so what it receives, the machine sent
	objects counterObjects

	mu   sync.Mutex
	taps []int // AF_PACKET sockets; none when there is no link
}

// newWire loads a counter that can tell flows flows apart. It taps no link yet.
func newWire(far bool, flows int) (*Wire, error) {
	spec, err := loadCounter()
	if err != nil {
		return nil, fmt.Errorf("new wire: %w", err)
	}
	if flows > 0 {
		spec.Maps["flows"].MaxEntries = uint32(flows)
	}
	w := &Wire{far: far}
	if err := spec.LoadAndAssign(&w.objects, nil); err != nil {
		return nil, fmt.Errorf("new wire: %w", err)
	}
	return w, nil
}

// attach taps a link of the namespace, beside those that are tapped.
func (w *Wire) attach(n *Namespace, link string) error {
	tap := -1
	err := n.withNetlink(func(h *netlink.Handle) error {
		return withLink(h, link, func(l netlink.Link) (err error) {
			tap, err = openTap(l.Attrs().Index, w.objects.Count)
			return err
		})
	})
	if err != nil {
		return fmt.Errorf("tap %s: %w", link, err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.taps = append(w.taps, tap)
	return nil
}

// detach ends the taps and keeps the counts.
func (w *Wire) detach() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, tap := range w.taps {
		unix.Close(tap)
	}
	w.taps = nil
}

// close ends the taps and forgets the counts.
func (w *Wire) close() error {
	w.detach()
	return w.objects.Close()
}

// openTap opens a packet socket on the link that runs the filter on every packet. The socket receives only once it is
// bound, and by then the filter is there.
func openTap(link int, filter *ebpf.Program) (int, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ATTACH_BPF, filter.FD())
	if err != nil {
		unix.Close(fd)
		return -1, os.NewSyscallError("setsockopt", err)
	}
	err = unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: bigEndian16(unix.ETH_P_ALL), Ifindex: link})
	if err != nil {
		unix.Close(fd)
		return -1, os.NewSyscallError("bind", err)
	}
	return fd, nil
}

// bigEndian16 returns the number whose bytes in memory are v in network order.
func bigEndian16(v uint16) uint16 {
	b := [2]byte{byte(v >> 8), byte(v)}
	return *(*uint16)(unsafe.Pointer(&b))
}

// Count returns how many packets of the flows that m selects have passed.
func (w *Wire) Count(m Match) (packets uint64, err error) {
	flows, err := w.Flows()
	return flows.Count(m), err
}

// Wait waits until at least n packets of the flows that m selects have passed.
func (w *Wire) Wait(ctx context.Context, m Match, n uint64) error {
	var seen uint64
	err := Poll(ctx, func() (bool, error) {
		var err error
		seen, err = w.Count(m)
		return seen >= n, err
	})
	if err != nil {
		return fmt.Errorf("wait for %d packets, %d passed: %w", n, seen, err)
	}
	return nil
}

// Flows returns everything that has passed so far, in no order. It fails with [ErrUncounted] rather than leave
// something out.
func (w *Wire) Flows() (Flows, error) {
	var flows Flows
	err := w.each(w.objects.Flows.BatchLookup, func(key counterFlowKey, count counterFlowCount) {
		flows = append(flows, w.flow(key, count))
	})
	if err != nil {
		return nil, fmt.Errorf("read wire: %w", err)
	}
	var uncounted uint64
	if err := w.objects.Uncounted.Get(&uncounted); err != nil {
		return nil, fmt.Errorf("read wire: %w", err)
	}
	if uncounted != 0 {
		return nil, fmt.Errorf("read wire: %d: %w", uncounted, ErrUncounted)
	}
	return flows, nil
}

// Reset forgets everything that has passed so far, and makes room for new flows. A packet that passes meanwhile may be
// booked to the wrong flow: to measure a difference while there is traffic, use [Flows.Since].
func (w *Wire) Reset() error {
	err := w.each(w.objects.Flows.BatchLookupAndDelete, func(counterFlowKey, counterFlowCount) {})
	if err == nil {
		err = w.objects.Uncounted.Set(uint64(0))
	}
	if err != nil {
		return fmt.Errorf("reset wire: %w", err)
	}
	return nil
}

// A batch reads some entries of a map and advances the cursor.
type batch func(cursor *ebpf.MapBatchCursor, keys, values any, opts *ebpf.BatchOptions) (int, error)

// each calls fn with every entry that next reads.
func (w *Wire) each(next batch, fn func(counterFlowKey, counterFlowCount)) error {
	var cursor ebpf.MapBatchCursor
	keys := make([]counterFlowKey, readBatch)
	counts := make([]counterFlowCount, readBatch)
	for {
		n, err := next(&cursor, keys, counts, nil)
		if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return err
		}
		for i := range n {
			fn(keys[i], counts[i])
		}
		if err != nil {
			return nil
		}
	}
}

// flow translates what the kernel counted, turning it round if the tap is on the far end.
func (w *Wire) flow(key counterFlowKey, count counterFlowCount) Flow {
	f := Flow{
		Direction: Direction(key.Direction),
		Family:    Family(key.Family),
		Proto:     key.Proto,
		SrcPort:   key.SrcPort,
		DstPort:   key.DstPort,
		Packets:   count.Packets,
		Bytes:     count.Bytes,
	}
	if w.far {
		f.Direction = Received + Sent - f.Direction
	}
	switch f.Family {
	case IPv4:
		f.Src, f.Dst = netip.AddrFrom4([4]byte(key.Src[:4])), netip.AddrFrom4([4]byte(key.Dst[:4]))
	case IPv6:
		f.Src, f.Dst = netip.AddrFrom16(key.Src), netip.AddrFrom16(key.Dst)
	}
	return f
}
