package lab

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"sidestep/internal/lab/labtest"
)

// A mourner learns from the kernel when namespaces have been destroyed. It gives each a number that is valid in its
// own namespace, and the kernel tells when it takes the number back.
type mourner struct {
	n    *Namespace
	sock int
	next int
	left map[int32]bool
}

func newMourner(t *testing.T) *mourner {
	t.Helper()
	labtest.NeedRoot(t)
	n, err := NewNamespace()
	if err != nil {
		t.Fatal(err)
	}
	m := &mourner{n: n, left: map[int32]bool{}}
	err = n.Do(func() error {
		m.sock, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		tv := unix.NsecToTimeval(patience.Nanoseconds())
		return errors.Join(
			unix.SetsockoptTimeval(m.sock, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv),
			unix.Bind(m.sock, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}),
			unix.SetsockoptInt(m.sock, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, unix.RTNLGRP_NSID))
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(unix.Close(m.sock), n.Close()); err != nil {
			t.Error(err)
		}
	})
	return m
}

// watch makes the mourner wait for the end of the namespace behind path.
func (m *mourner) watch(t *testing.T, path string) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	m.next++
	m.left[int32(m.next)] = true
	err = m.n.withNetlink(func(h *netlink.Handle) error { return h.SetNetNsIdByFd(int(f.Fd()), m.next) })
	if err != nil {
		t.Fatal(err)
	}
}

// wait returns when the kernel has destroyed every namespace that is watched.
func (m *mourner) wait(t *testing.T) {
	t.Helper()
	buf := make([]byte, 8192)
	for len(m.left) > 0 {
		n, _, err := unix.Recvfrom(m.sock, buf, 0)
		if err != nil {
			t.Fatalf("%d namespaces still exist: %v", len(m.left), err)
		}
		// One message each: nlmsghdr, rtgenmsg (padded), then the attribute NETNSA_NSID.
		if n >= 28 && binary.NativeEndian.Uint16(buf[4:]) == unix.RTM_DELNSID {
			delete(m.left, int32(binary.NativeEndian.Uint32(buf[24:])))
		}
	}
}

// descriptors returns what this process has open.
func descriptors(t *testing.T) []string {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	var open []string
	for _, e := range entries {
		target, err := os.Readlink("/proc/self/fd/" + e.Name())
		if err == nil { // the directory itself is closed by now
			open = append(open, e.Name()+" "+target)
		}
	}
	return open
}

// wantSame fails the test if this process has something open that it had not before.
func wantSame(t *testing.T, before []string) {
	t.Helper()
	for _, fd := range descriptors(t) {
		if !slices.Contains(before, fd) {
			t.Errorf("left open: %s", fd)
		}
	}
}

func TestCloseLeavesNothing(t *testing.T) {
	m := newMourner(t)
	before := descriptors(t)
	w := newWorld(t, Options{})
	conn, err := w.Machine.Dial(testContext(t), "tcp", Internet4+":7000") // open until the end: the hard case
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range w.namespaces() {
		m.watch(t, n.Path())
	}
	if err := errors.Join(conn.Close(), w.Close(), w.Close()); err != nil {
		t.Fatal(err)
	}
	wantSame(t, before)
	m.wait(t)
}

func TestWorldIsInvisibleOutside(t *testing.T) {
	newWorld(t, Options{})
	links, err := netlink.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	for _, link := range links {
		if name := link.Attrs().Name; slices.Contains([]string{"lan0", "vpn0", "net0"}, name) {
			t.Errorf("link %s in the namespace of the test", name)
		}
	}
}

// A fuse is a context that is cancelled when it has been asked n times.
type fuse struct {
	context.Context
	left atomic.Int32
}

func (f *fuse) Err() error {
	if f.left.Add(-1) < 0 {
		return context.Canceled
	}
	return nil
}

func TestCancelledNewLeavesNothing(t *testing.T) {
	labtest.NeedRoot(t)
	before := descriptors(t)
	for n := range int32(100) {
		ctx := &fuse{Context: context.Background()}
		ctx.left.Store(n)
		w, err := New(ctx, Options{})
		if err == nil {
			if n < 5 {
				t.Errorf("New looked at its context %d times only", n)
			}
			if err := w.Close(); err != nil {
				t.Error(err)
			}
			break
		}
		if !errors.Is(err, context.Canceled) {
			t.Errorf("New cancelled at step %d: %v", n, err)
		}
	}
	wantSame(t, before)
}

func TestCloseKillsProcessesAndTheirChildren(t *testing.T) {
	w := newWorld(t, Options{NoTunnel: true})
	cmd, out, err := role("parent")
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Machine.Start(cmd); err != nil {
		t.Fatal(err)
	}
	var grandchild int
	if _, err := fmt.Fscan(out, &grandchild); err != nil {
		t.Fatal(err)
	}
	fd := pidfd(t, grandchild)
	if !inNamespace(grandchild, w.Machine.Inode()) {
		t.Error("the grandchild is not in the machine's namespace")
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	waitDead(t, fd)
	if err := cmd.Wait(); err == nil {
		t.Error("the child ended well, want killed")
	}
}

func TestKilledBuilderLeavesNothing(t *testing.T) {
	m := newMourner(t)
	cmd, out, err := role("builder")
	if err != nil {
		t.Fatal(err)
	}
	// The builder and everything that it starts hold the pipe, so its end is the end of them all.
	last, held, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer last.Close()
	cmd.Stderr = held
	if err := errors.Join(cmd.Start(), held.Close()); err != nil {
		t.Fatal(err)
	}
	var fds [4]int
	if _, err := fmt.Fscan(out, &fds[0], &fds[1], &fds[2], &fds[3]); err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		m.watch(t, fmt.Sprintf("/proc/%d/fd/%d", cmd.Process.Pid, fd))
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // killed, as it should be
	if err := last.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if said, err := io.ReadAll(last); err != nil || len(said) != 0 {
		t.Errorf("the builder's processes: %v, they said %q", err, said)
	}
	m.wait(t)
}

// pidfd opens a process.
func pidfd(t *testing.T, pid int) int {
	t.Helper()
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

// waitDead waits until the process that was opened is dead.
func waitDead(t *testing.T, fd int) {
	t.Helper()
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(patience/time.Millisecond))
	if n != 1 {
		t.Errorf("the process is still alive: %v", err)
	}
}
