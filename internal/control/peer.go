package control

import (
	"errors"
	"fmt"
	"net"
	"runtime"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A peer is the process that opened a connection, as the kernel noted it then: what the process became since,
// or to whom it passed the connection, does not matter.
type peer struct {
	pid, uid, gid int
	groups        []uint32
	// pidfd pins the process's identity: while it says that the process lives, pid is that process.
	pidfd int
}

// access says who may call.
type access struct {
	uid int // the daemon's own user
	gid int // members of this group; negative: there is no such group
}

// allows reports whether p may call.
func (a access) allows(p *peer) bool {
	if p.uid == 0 || p.uid == a.uid {
		return true
	}
	return a.gid >= 0 && (p.gid == a.gid || slices.Contains(p.groups, uint32(a.gid)))
}

// peerOf asks the kernel who is at the other end of c.
func peerOf(c net.Conn) (*peer, error) {
	uc, ok := c.(*net.UnixConn)
	if !ok {
		return nil, fmt.Errorf("read peer credentials: %T is no unix socket", c)
	}
	raw, err := uc.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("read peer credentials: %w", err)
	}
	var p *peer
	var perr error
	if err := raw.Control(func(fd uintptr) { p, perr = readPeer(int(fd)) }); err != nil {
		return nil, fmt.Errorf("read peer credentials: %w", err)
	}
	if perr != nil {
		return nil, fmt.Errorf("read peer credentials: %w", perr)
	}
	return p, nil
}

func readPeer(fd int) (*peer, error) {
	cred, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return nil, fmt.Errorf("SO_PEERCRED: %w", err)
	}
	groups, err := peerGroups(fd)
	if err != nil {
		return nil, fmt.Errorf("SO_PEERGROUPS: %w", err)
	}
	p := &peer{pid: int(cred.Pid), uid: int(cred.Uid), gid: int(cred.Gid), groups: groups, pidfd: -1}
	pidfd, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PEERPIDFD)
	if err != nil { // before 6.5, or the process is gone already
		pidfd, err = unix.PidfdOpen(p.pid, 0)
	}
	if err == nil {
		p.pidfd = pidfd
		runtime.AddCleanup(p, func(fd int) { unix.Close(fd) }, pidfd)
	}
	return p, nil
}

// peerGroups returns the peer's supplementary groups.
func peerGroups(fd int) ([]uint32, error) {
	groups := make([]uint32, 64)
	for {
		size := uint32(len(groups)) * 4
		_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_PEERGROUPS,
			uintptr(unsafe.Pointer(&groups[0])), uintptr(unsafe.Pointer(&size)), 0)
		switch {
		case errno == 0:
			return groups[:size/4], nil
		case errno == unix.ERANGE && int(size/4) > len(groups):
			groups = make([]uint32, size/4)
		default:
			return nil, errno
		}
	}
}

// alive says whether pid still is the process that opened the connection.
func (p *peer) alive() error {
	switch {
	case p.pid <= 0:
		return errors.New("the caller is in a pid namespace that the daemon does not see")
	case p.pidfd < 0:
		return errors.New("the process that opened the connection is gone")
	}
	if err := unix.PidfdSendSignal(p.pidfd, 0, nil, 0); err != nil && err != unix.EPERM {
		return fmt.Errorf("the process that opened the connection is gone: %w", err)
	}
	return nil
}
