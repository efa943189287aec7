package sockets

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// pidfdThread (PIDFD_THREAD, Linux 6.9) opens any thread, also one that leads no process.
const pidfdThread = unix.O_EXCL

// Shut shuts down, for good, the sending half of the socket that descriptor fd of process pid is, if its cookie is the
// one given. Then it clears the bits mask of the socket's mark.
//
// It is for sockets without a peer. Sending over them fails with EPIPE from now on, whatever their program connects
// them to or disconnects them from. A datagram that its program has begun with
// MSG_MORE is sent first, as it is. A raw socket is made to expect whole packets (IP_HDRINCL), because the kernel lets
// only those be shut down; too short a packet is EINVAL then. A program can take back that option, and a TCP socket
// forgets its shutdown when it is disconnected; UDP and ping sockets never do.
//
// A process or descriptor that is gone is no error. Since Linux 6.9 pid may be a thread: one whose process has lost
// its leader, or with descriptors of its own.
func Shut(pid, fd int, cookie uint64, mask uint32) error {
	return onSocket(pid, fd, cookie, func(s int) error {
		if err := shut(s); err != nil {
			return fmt.Errorf("shut down: %w", err)
		}
		return unmark(s, mask)
	})
}

// Unmark clears the bits mask of the mark of the socket that descriptor fd of process pid is, if its cookie is the one
// given. A process or descriptor that is gone is no error.
func Unmark(pid, fd int, cookie uint64, mask uint32) error {
	return onSocket(pid, fd, cookie, func(s int) error { return unmark(s, mask) })
}

// onSocket calls do with a descriptor of our own for the socket, unless that is gone.
func onSocket(pid, fd int, cookie uint64, do func(s int) error) error {
	s, err := borrow(pid, fd)
	if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EBADF) {
		return nil
	}
	if err == nil {
		defer unix.Close(s)
		var is uint64
		is, err = unix.GetsockoptUint64(s, unix.SOL_SOCKET, unix.SO_COOKIE)
		if err == nil && is != cookie || errors.Is(err, unix.ENOTSOCK) || errors.Is(err, unix.EBADF) {
			return nil // the number means something else by now; EBADF is an O_PATH descriptor
		}
	}
	if err == nil {
		err = do(s)
	}
	if err != nil {
		return fmt.Errorf("socket %d of process %d: %w", fd, pid, err)
	}
	return nil
}

// borrow returns a descriptor of our own for what descriptor fd of a process or thread is.
func borrow(pid, fd int) (int, error) {
	process, err := unix.PidfdOpen(pid, pidfdThread)
	if errors.Is(err, unix.EINVAL) { // before Linux 6.9
		process, err = unix.PidfdOpen(pid, 0)
	}
	if err != nil {
		return -1, fmt.Errorf("open process: %w", err)
	}
	defer unix.Close(process)
	s, err := unix.PidfdGetfd(process, fd, 0)
	if err != nil {
		return -1, fmt.Errorf("get descriptor: %w", err)
	}
	return s, nil
}

func shut(s int) error {
	// A socket without a peer says ENOTCONN, after it has been shut down.
	if err := unix.Shutdown(s, unix.SHUT_WR); err != nil && !errors.Is(err, unix.ENOTCONN) {
		return err
	}
	typ, err := unix.GetsockoptInt(s, unix.SOL_SOCKET, unix.SO_TYPE)
	if err != nil {
		return err
	}
	protocol, err := unix.GetsockoptInt(s, unix.SOL_SOCKET, unix.SO_PROTOCOL)
	if err != nil {
		return err
	}
	switch {
	case typ == unix.SOCK_RAW:
		return expectHeaders(s)
	case protocol == unix.IPPROTO_UDP:
		// A datagram that has been begun would take everything that is added to it along, past the shutdown.
		return unix.SetsockoptInt(s, unix.SOL_UDP, unix.UDP_CORK, 0)
	}
	return nil
}

// expectHeaders makes a raw socket expect whole packets.
func expectHeaders(s int) error {
	domain, err := unix.GetsockoptInt(s, unix.SOL_SOCKET, unix.SO_DOMAIN)
	if err != nil {
		return err
	}
	if domain == unix.AF_INET6 {
		return unix.SetsockoptInt(s, unix.SOL_IPV6, unix.IPV6_HDRINCL, 1)
	}
	return unix.SetsockoptInt(s, unix.SOL_IP, unix.IP_HDRINCL, 1)
}

func unmark(s int, mask uint32) error {
	value, err := unix.GetsockoptInt(s, unix.SOL_SOCKET, unix.SO_MARK)
	if err != nil {
		return fmt.Errorf("read mark: %w", err)
	}
	mark := uint32(value)
	if mark&mask == 0 {
		return nil
	}
	if err := unix.SetsockoptInt(s, unix.SOL_SOCKET, unix.SO_MARK, int(mark&^mask)); err != nil {
		return fmt.Errorf("set mark: %w", err)
	}
	return nil
}
