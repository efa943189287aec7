package check

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// answerLimit is how long the answers of this machine's own resolvers are waited for.
const answerLimit = time.Second

// An errand is one thing for a sending process to do.
type errand struct {
	Kind  Kind           `json:"kind"`
	To    netip.AddrPort `json:"to"`
	Label string         `json:"label"`
	// Await: wait for an answer.
	Await bool `json:"await"`
}

// A reply is what a sending process says of an errand.
type reply struct {
	From netip.AddrPort `json:"from"`
	// Refused is the kernel's error, where it took nothing.
	Refused string `json:"refused"`
	// Answered: there was an answer, where one was awaited.
	Answered bool `json:"answered"`
}

// Send is the life of a sending process. It reads its errands from in, does them, and replies on out. It keeps its
// sockets until in ends, so that no two probes ever have the same port.
func Send(in io.Reader, out io.Writer) error {
	var errands []errand
	if err := json.NewDecoder(in).Decode(&errands); err != nil {
		return fmt.Errorf("read what to send: %w", err)
	}
	replies := make([]reply, len(errands))
	sockets := make([]int, len(errands))
	for i, e := range errands {
		fd, from, err := e.send()
		if fd >= 0 {
			defer unix.Close(fd)
		}
		sockets[i], replies[i].From = fd, from
		if err != nil {
			replies[i].Refused = err.Error()
		}
	}
	until := time.Now().Add(answerLimit)
	for i, e := range errands {
		if e.Await && replies[i].Refused == "" {
			replies[i].Answered = answered(sockets[i], time.Until(until))
		}
	}
	if err := json.NewEncoder(out).Encode(replies); err != nil {
		return fmt.Errorf("say what was sent: %w", err)
	}
	_, err := io.Copy(io.Discard, in)
	return err
}

// send does the errand, and returns the socket, and the address that the kernel chose for it.
func (e errand) send() (fd int, from netip.AddrPort, err error) {
	family, kind := unix.AF_INET, unix.SOCK_DGRAM
	if e.To.Addr().Is6() {
		family = unix.AF_INET6
	}
	if e.Kind == TCP {
		kind = unix.SOCK_STREAM
	}
	fd, err = unix.Socket(family, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, from, err
	}
	to, err := sockaddr(e.To)
	if err != nil {
		return fd, from, err
	}
	// A port of its own: one that connect chooses may be another socket's too.
	if err := unix.Bind(fd, anyPort(family)); err != nil {
		return fd, from, err
	}
	if err := unix.Connect(fd, to); err != nil && !errors.Is(err, unix.EINPROGRESS) {
		return fd, from, err
	}
	if from, err = localAddr(fd); err != nil || e.Kind == TCP {
		return fd, from, err
	}
	_, err = unix.Write(fd, payload(e.Kind, e.Label))
	return fd, from, err
}

// answered reports whether a datagram comes in time.
func answered(fd int, limit time.Duration) bool {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	_, err := unix.Poll(fds, int(max(limit, 0).Milliseconds()))
	for until := time.Now().Add(limit); errors.Is(err, unix.EINTR) && time.Now().Before(until); {
		_, err = unix.Poll(fds, int(time.Until(until).Milliseconds()))
	}
	if fds[0].Revents == 0 {
		return false
	}
	_, err = unix.Read(fd, make([]byte, snapLength)) // an error is "connection refused"
	return err == nil
}

func anyPort(family int) unix.Sockaddr {
	if family == unix.AF_INET6 {
		return &unix.SockaddrInet6{}
	}
	return &unix.SockaddrInet4{}
}

func sockaddr(a netip.AddrPort) (unix.Sockaddr, error) {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}, nil
	}
	sa := &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
	if zone := a.Addr().Zone(); zone != "" {
		link, err := net.InterfaceByName(zone)
		if err != nil {
			return nil, fmt.Errorf("interface %s: %w", zone, err)
		}
		sa.ZoneId = uint32(link.Index)
	}
	return sa, nil
}

func localAddr(fd int) (netip.AddrPort, error) {
	sa, err := unix.Getsockname(fd)
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port)), err
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr), uint16(sa.Port)), err
	}
	return netip.AddrPort{}, err
}
