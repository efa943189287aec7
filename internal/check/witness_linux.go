package check

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A witness sees what leaves the machine by any interface, tunnels included: a packet socket gets a copy of every packet
// on its way into a device. What leaves before it is asked waits in its queue.
type witness struct {
	file *os.File
}

// openWitness opens a witness of all probes whose labels begin with run. It needs CAP_NET_RAW.
func openWitness(run string) (*witness, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open packet socket: %w", err)
	}
	w := &witness{os.NewFile(uintptr(fd), "packet socket")}
	code := filter([4]byte([]byte(run)))
	prog := unix.SockFprog{Len: uint16(len(code)), Filter: &code[0]}
	// It gets packets once it is bound, and by then the filter is there.
	err = unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &prog)
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: networkOrder(unix.ETH_P_ALL)}) // of all interfaces
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("prepare packet socket: %w", err), w.Close())
	}
	return w, nil
}

// networkOrder returns the number whose bytes in memory are v in network order.
func networkOrder(v uint16) uint16 {
	b := [2]byte{byte(v >> 8), byte(v)}
	return *(*uint16)(unsafe.Pointer(&b))
}

// Close gives the socket back.
func (w *witness) Close() error { return w.file.Close() }

// watch calls fn with each packet, in the order in which they left, until there is none left and enough says so, or
// until the time is over. What fn is given is fn's until it returns.
func (w *witness) watch(ctx context.Context, limit time.Duration, fn func(packet), enough func() bool) error {
	conn, err := w.file.SyscallConn()
	if err == nil {
		err = w.file.SetReadDeadline(time.Now().Add(limit))
	}
	stop := context.AfterFunc(ctx, func() { _ = w.file.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	b := make([]byte, snapLength)
	for err == nil {
		var n int
		var from unix.Sockaddr
		var failed error
		err = conn.Read(func(fd uintptr) bool {
			n, from, failed = unix.Recvfrom(int(fd), b, 0)
			return !errors.Is(failed, unix.EAGAIN) || enough()
		})
		if errors.Is(failed, unix.EAGAIN) && err == nil {
			return nil
		}
		err = errors.Join(err, failed)
		if p, ok := parse(b[:max(n, 0)]); err == nil && ok {
			p.by = from.(*unix.SockaddrLinklayer).Ifindex
			fn(p)
		}
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return nil
	}
	return fmt.Errorf("read packets: %w", err)
}

// lost returns how many packets there was no room for.
func (w *witness) lost() (int, error) {
	conn, err := w.file.SyscallConn()
	if err != nil {
		return 0, fmt.Errorf("ask for lost packets: %w", err)
	}
	var stats *unix.TpacketStats
	var failed error
	err = conn.Control(func(fd uintptr) {
		stats, failed = unix.GetsockoptTpacketStats(int(fd), unix.SOL_PACKET, unix.PACKET_STATISTICS)
	})
	if err := errors.Join(err, failed); err != nil {
		return 0, fmt.Errorf("ask for lost packets: %w", err)
	}
	return int(stats.Drops), nil
}

// find says by which interfaces the probes left.
func (w *witness) find(ctx context.Context, n network, facts []fact) error {
	err := w.watch(ctx, leaveLimit, func(p packet) { n.sight(facts, p) }, func() bool { return sighted(facts) })
	if err != nil {
		return err
	}
	lost, err := w.lost()
	for i := range facts {
		if lost > 0 && len(facts[i].left) == 0 {
			facts[i].doubt = fmt.Sprintf("%d packets left unseen", lost)
		}
	}
	return err
}
