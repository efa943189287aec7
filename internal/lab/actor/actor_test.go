//go:build linux

package actor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sidestep/internal/lab/labtest"
)

func itoa(n int) string { return strconv.Itoa(n) }

func TestSend(t *testing.T) {
	w := newWorld(t)
	w.ok(w.root.Send(w.ctx, w.addr, 3))
	for i := range 3 {
		want := Datagram{PID: w.root.PID(), TID: w.root.PID(), Index: i}
		if got := w.hear(); got != want {
			t.Errorf("got %+v, want %+v", got, want)
		}
	}
	w.silent()
	// 255.255.255.255 without SO_BROADCAST is EACCES, everywhere.
	w.wantErr(w.root.Send(w.ctx, netip.MustParseAddrPort("255.255.255.255:9"), 1), unix.EACCES)
	w.wantErr(w.root.Send(w.ctx, netip.AddrPort{}, 1), unix.EBADMSG)
}

func TestThreadSendsFirst(t *testing.T) {
	w := newWorld(t)
	seen := map[int]bool{w.root.PID(): true}
	for range 20 {
		w.ok(w.root.OnThread().Send(w.ctx, w.addr, 1))
		d := w.hear()
		if d.PID != w.root.PID() || d.TID == d.PID {
			t.Fatalf("got %+v, want another thread of %d", d, w.root.PID())
		}
		seen[d.TID] = true
	}
	if len(seen) < 2 {
		t.Error("no thread was new")
	}
	info, err := w.root.OnThread().Info(w.ctx)
	w.ok(err)
	if info.PID != w.root.PID() || info.TID == info.PID {
		t.Errorf("got %+v from a thread", info)
	}
}

func TestConnect(t *testing.T) {
	w := newWorld(t)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	w.ok(err)
	defer listener.Close()
	addr := listener.Addr().(*net.TCPAddr).AddrPort()
	for _, a := range []*Actor{w.root, w.root.OnThread()} {
		local, err := a.Connect(w.ctx, addr)
		w.ok(err)
		conn, err := listener.Accept()
		w.ok(err)
		if got := conn.RemoteAddr().(*net.TCPAddr).AddrPort(); got != local {
			t.Errorf("local address %v, the peer sees %v", local, got)
		}
		w.ok(conn.Close())
	}
	w.ok(listener.Close())
	local, err := w.root.Connect(w.ctx, addr)
	w.wantErr(err, unix.ECONNREFUSED)
	if local.Addr() != addr.Addr() {
		t.Errorf("local address %v of a refused connection", local)
	}
}

func TestIPv6(t *testing.T) {
	w := newWorld(t)
	listener, err := net.Listen("tcp6", "[::1]:0")
	if err != nil {
		labtest.Skip(t, fmt.Sprintf("no IPv6: %v", err))
	}
	defer listener.Close()
	addr := listener.Addr().(*net.TCPAddr).AddrPort()
	local, err := w.root.Connect(w.ctx, addr)
	w.ok(err)
	if local.Addr() != addr.Addr() {
		t.Errorf("got local address %v", local)
	}
	s, err := w.root.Open(w.ctx, UDPConnected, addr)
	w.ok(err)
	w.ok(w.root.CloseSocket(w.ctx, s))
}

func TestSocketsSurviveForkAndExec(t *testing.T) {
	w := newWorld(t)
	s, err := w.root.Open(w.ctx, UDPConnected, w.addr)
	w.ok(err)
	local, err := w.root.LocalAddr(w.ctx, s)
	w.ok(err)
	child := w.fork(w.root)
	w.ok(child.Exec(w.ctx, w.path))
	w.ok(child.SendOn(w.ctx, s, netip.AddrPort{}))
	if d := w.hear(); d.PID != child.PID() {
		t.Errorf("heard %+v", d)
	}
	if again, err := child.LocalAddr(w.ctx, s); err != nil || again != local {
		t.Errorf("local address %v, %v; want %v", again, err, local)
	}
	w.ok(child.CloseSocket(w.ctx, s))
	w.wantErr(child.SendOn(w.ctx, s, w.addr), unix.EBADF)
	w.ok(w.root.SendOn(w.ctx, s, netip.AddrPort{}))
	w.hear()

	u, err := w.root.Open(w.ctx, UDP, w.addr)
	w.ok(err)
	w.ok(w.root.SetSocketOption(w.ctx, u, unix.SOL_SOCKET, unix.SO_REUSEADDR, []byte{1, 0, 0, 0}))
	if on, err := w.root.SocketOption(w.ctx, u, unix.SOL_SOCKET, unix.SO_REUSEADDR); err != nil || on != 1 {
		t.Errorf("option %d, %v; want 1", on, err)
	}
	w.ok(w.root.SendOn(w.ctx, u, w.addr))
	w.hear()
	w.wantErr(w.root.SendOn(w.ctx, u, netip.AddrPort{}), unix.EDESTADDRREQ)
}

func TestActorsTalkTCP(t *testing.T) {
	w := newWorld(t)
	server, client := w.root, w.fork(w.root)
	listener, err := server.ListenTCP(w.ctx, netip.MustParseAddrPort("127.0.0.1:0"))
	w.ok(err)
	addr, err := server.LocalAddr(w.ctx, listener)
	w.ok(err)
	out, err := client.Open(w.ctx, TCP, addr)
	w.ok(err)
	in, err := server.Accept(w.ctx, listener)
	w.ok(err)
	w.ok(client.SendOn(w.ctx, out, netip.AddrPort{}))
	b, err := server.Receive(w.ctx, in)
	w.ok(err)
	if d, err := ParseDatagram(b); err != nil || d.PID != client.PID() {
		t.Errorf("received %+v, %v", d, err)
	}
	w.ok(client.Exit(w.ctx, 0))
	if b, err = server.Receive(w.ctx, in); err != nil || len(b) != 0 {
		t.Errorf("received %q, %v; want the end", b, err)
	}
	w.ok(server.CloseSocket(w.ctx, listener))
	_, err = server.Open(w.ctx, TCP, addr)
	w.wantErr(err, unix.ECONNREFUSED)
}

func TestSyscallPassesStructures(t *testing.T) {
	w := newWorld(t)
	var fds [8]byte
	_, err := w.root.Syscall(w.ctx, unix.SYS_PIPE2, fds[:], 0)
	w.ok(err)
	r, out := int(fds[0]), int(fds[4])
	iov := Words{[]byte("side"), 4, []byte("step!"), 4}
	n, err := w.root.Syscall(w.ctx, unix.SYS_WRITEV, out, iov, 2)
	w.ok(err)
	got := make([]byte, 20)
	if m, err := w.root.Syscall(w.ctx, unix.SYS_READ, r, got, len(got)); err != nil || m != 8 || n != 8 {
		t.Errorf("read %d, %v; wrote %d", m, err, n)
	}
	if string(got[:8]) != "sidestep" {
		t.Errorf("got %q", got)
	}
	_, err = w.root.Syscall(w.ctx, unix.SYS_GETPID, 1, 2, 3, 4, 5, 6, 7)
	w.wantErr(err, unix.E2BIG)
	_, err = w.root.Syscall(w.ctx, unix.SYS_GETPID, 1.5)
	if err == nil {
		t.Error("a float was taken")
	}
	_, err = w.root.Syscall(w.ctx, unix.SYS_WRITE, out, make([]byte, dataMax+1), 1)
	w.wantErr(err, unix.E2BIG)
}

func TestStorm(t *testing.T) {
	w := newWorld(t)
	probe := filepath.Join(w.dir, "probe")
	w.ok(InstallProbe(probe))
	aProbe := &Image{Path: probe, Args: append([]string{probe}, ProbeArgs(ProbeUDP, w.addr, 1)...)}
	for _, c := range []struct {
		name  string
		storm Storm
		heard bool
	}{
		{"fork", Storm{Count: 100}, false},
		{"wide", Storm{Count: 100, Width: 32}, false},
		{"vfork", Storm{Count: 100, Vfork: true}, false},
		{"fork and send", Storm{Count: 20, Width: 3, To: w.addr}, true},
		{"exec an actor", Storm{Count: 20, Width: 4, Image: &Image{Path: w.path}}, false},
		{"exec a probe", Storm{Count: 20, Width: 4, Image: aProbe}, true},
		{"exec a probe by vfork", Storm{Count: 20, Width: 4, Image: aProbe, Vfork: true}, true},
	} {
		good, err := w.root.Storm(w.ctx, c.storm)
		if err != nil || good != c.storm.Count {
			t.Errorf("%s: %d went well, %v", c.name, good, err)
		}
		for i := 0; c.heard && i < c.storm.Count; i++ {
			w.hear()
		}
		w.silent()
	}
	if good, err := w.root.Storm(w.ctx, Storm{Count: 5, Image: &Image{Path: "/nowhere"}}); good != 0 || err != nil {
		t.Errorf("%d went well, %v", good, err)
	}
	_, err := w.root.Storm(w.ctx, Storm{Count: 5, Width: 65})
	w.wantErr(err, unix.EINVAL)
}

func TestStormLeavesNoZombies(t *testing.T) {
	w := newWorld(t)
	child := w.fork(w.root)
	done := make(chan error, 1)
	go func() {
		_, err := w.root.Storm(w.ctx, Storm{Count: 300})
		done <- err
	}()
	w.ok(child.Exit(w.ctx, 0)) // during the storm, with luck
	w.ok(<-done)
	if _, err := w.root.Syscall(w.ctx, unix.SYS_WAIT4, -1, 0, unix.WNOHANG, 0); !errors.Is(err, unix.ECHILD) {
		t.Errorf("the actor has children left: %v", err)
	}
}

func TestChrootStillForksAndExecs(t *testing.T) {
	w := newWorld(t)
	a := w.fork(w.root)
	w.needNamespaces(a)
	w.install("jail/bin/inner")
	w.ok(a.Chroot(w.ctx, filepath.Join(w.dir, "jail")))
	w.ok(a.Exec(w.ctx, "/bin/inner"))
	child := w.fork(a)
	if exe := exeOf(t, child); exe != filepath.Join(w.dir, "jail/bin/inner") {
		t.Errorf("runs %s", exe)
	}
	born, err := child.ForkExec(w.ctx, ByVfork, Image{Path: "inner", Dir: "/bin"})
	w.ok(err)
	w.ok(born.Send(w.ctx, w.addr, 1))
	w.wantErr(child.Exec(w.ctx, w.path), unix.ENOENT)
}

func TestBindMountInPrivateNamespace(t *testing.T) {
	w := newWorld(t)
	a := w.fork(w.root)
	w.needNamespaces(a)
	w.ok(a.PrivateMounts(w.ctx))
	w.install("from/here")
	target := filepath.Join(w.dir, "to")
	w.ok(os.Mkdir(target, 0o755))
	w.ok(a.BindMount(w.ctx, filepath.Join(w.dir, "from"), target))
	if entries, err := os.ReadDir(target); err != nil || len(entries) != 0 {
		t.Errorf("the mount is visible outside: %v, %v", entries, err)
	}
	w.ok(a.Exec(w.ctx, filepath.Join(target, "here")))
	w.ok(w.fork(a).Send(w.ctx, w.addr, 1))
	w.wantErr(w.root.Exec(w.ctx, filepath.Join(target, "here")), unix.ENOENT)
}

func TestNamespaceOfAnother(t *testing.T) {
	w := newWorld(t)
	a := w.fork(w.root)
	w.needNamespaces(a)
	w.ok(a.Unshare(w.ctx, unix.CLONE_NEWNET))
	b := w.fork(a)
	netOf := func(a *Actor) string {
		link, err := os.Readlink(filepath.Join("/proc", itoa(a.PID()), "ns/net"))
		w.ok(err)
		return link
	}
	if netOf(a) == netOf(w.root) || netOf(b) != netOf(a) {
		t.Errorf("network namespaces: %s, %s, %s", netOf(w.root), netOf(a), netOf(b))
	}
	// The stage is reached from there, and the loopback is another.
	w.wantErr(b.Send(w.ctx, w.addr, 1), unix.ENETUNREACH)
	if os.Geteuid() == 0 {
		w.ok(b.SetNS(w.ctx, filepath.Join("/proc", itoa(w.root.PID()), "ns/net"), unix.CLONE_NEWNET))
		w.ok(b.Send(w.ctx, w.addr, 1))
		w.hear()
	}
	w.wantErr(b.SetNS(w.ctx, "/nowhere", 0), unix.ENOENT)
}

func TestStartOptions(t *testing.T) {
	w := newWorld(t)
	env, err := exec.LookPath("env")
	w.ok(err)
	started := 0
	a, err := w.stage.Start(w.ctx, w.path, Options{
		Launcher: []string{env, "--"},
		Dir:      "/",
		Start:    func(cmd *exec.Cmd) error { started++; return cmd.Start() },
	})
	w.ok(err)
	if cwd, err := os.Readlink(filepath.Join("/proc", itoa(a.PID()), "cwd")); err != nil || cwd != "/" || started != 1 {
		t.Errorf("cwd %q, %v; started %d times", cwd, err, started)
	}
	a, err = w.stage.Start(w.ctx, w.path, Options{Args: []string{"mimic", "--flag"}})
	w.ok(err)
	if cmdline := cmdlineOf(t, a); cmdline != "mimic --flag" {
		t.Errorf("command line %q", cmdline)
	}
	// A launcher that leaves before its actor is ready; the actor becomes an orphan.
	a, err = w.stage.Start(w.ctx, w.path, Options{Launcher: []string{"/bin/sh", "-c", `"$0" &`}})
	w.ok(err)
	w.ok(a.Send(w.ctx, w.addr, 1))

	_, err = w.stage.Start(w.ctx, "/nowhere", Options{})
	w.wantErr(err, unix.ENOENT)
	if _, err = w.stage.Start(w.ctx, "/bin/false", Options{}); err == nil {
		t.Error("false became an actor")
	}
	ctx, cancel := context.WithTimeout(w.ctx, 20*time.Millisecond)
	defer cancel()
	_, err = w.stage.Start(ctx, "/bin/true", Options{})
	w.wantErr(err, context.DeadlineExceeded)
}

func cmdlineOf(t *testing.T, a *Actor) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("/proc", itoa(a.PID()), "cmdline"))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(strings.ReplaceAll(string(b), "\x00", " "))
}
