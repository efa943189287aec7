package main

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// From linux/connector.h and linux/cn_proc.h.
const (
	cnProc       = 1 // CN_IDX_PROC, CN_VAL_PROC
	cnListen     = 1 // PROC_CN_MCAST_LISTEN
	cnSize       = 20
	procExec     = 0x00000002
	procDataAt   = unix.NLMSG_HDRLEN + cnSize + 16 // what, cpu, time, then the event's own data
	procSmallest = procDataAt + 8
)

// A procConnector hears of every exec on the machine, through the kernel's process events connector.
type procConnector struct {
	sock int
	buf  [8192]byte
}

// newProcConnector fails in any other network namespace than the machine's first.
func newProcConnector() (*procConnector, error) {
	sock, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, unix.NETLINK_CONNECTOR)
	if err != nil {
		return nil, fmt.Errorf("open process connector: %w", err)
	}
	err = unix.Bind(sock, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: cnProc})
	if err == nil {
		err = unix.Sendto(sock, listenMessage(), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
	}
	if err != nil {
		unix.Close(sock)
		return nil, fmt.Errorf("open process connector: %w", err)
	}
	return &procConnector{sock: sock}, nil
}

// listenMessage is nlmsghdr, cn_msg and the operation.
func listenMessage() []byte {
	const total = unix.NLMSG_HDRLEN + cnSize + 4
	ne := binary.NativeEndian
	m := ne.AppendUint32(nil, total)
	m = ne.AppendUint16(m, unix.NLMSG_DONE)
	m = append(m, make([]byte, 10)...) // flags, sequence, port
	m = ne.AppendUint32(m, cnProc)
	m = ne.AppendUint32(m, cnProc)
	m = append(m, make([]byte, 8)...) // sequence, acknowledgement
	m = ne.AppendUint16(m, 4)
	m = append(m, 0, 0) // flags
	return ne.AppendUint32(m, cnListen)
}

// next waits for the next exec and returns its process. It fails with ENOBUFS if events were lost; there are more.
func (c *procConnector) next() (pid int, err error) {
	for {
		n, _, err := unix.Recvfrom(c.sock, c.buf[:], 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return 0, err
		}
		if pid, ok := execOf(c.buf[:n]); ok {
			return pid, nil
		}
	}
}

// execOf returns the process of an exec event.
func execOf(m []byte) (pid int, ok bool) {
	if len(m) < procSmallest || binary.NativeEndian.Uint32(m[unix.NLMSG_HDRLEN+cnSize:]) != procExec {
		return 0, false
	}
	return int(binary.NativeEndian.Uint32(m[procDataAt+4:])), true
}
