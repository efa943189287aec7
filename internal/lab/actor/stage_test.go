//go:build linux

package actor

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
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
)

var localhost = netip.MustParseAddrPort("127.0.0.1:0")

// driveUntilKilled is the other half of TestDeathOfTheDriverEndsAllActors.
func driveUntilKilled(dir string) {
	must := func(err error) {
		if err != nil {
			fmt.Println("error:", err)
			os.Exit(1)
		}
	}
	ctx := context.Background()
	stage, err := Listen(dir)
	must(err)
	root, err := stage.Start(ctx, filepath.Join(dir, "actor"), Options{})
	must(err)
	pids := []string{itoa(root.PID())}
	for _, by := range Births() {
		maker, err := root.Fork(ctx)
		must(err)
		child, err := maker.ForkBy(ctx, by)
		must(err)
		pids = append(pids, itoa(maker.PID()), itoa(child.PID()))
	}
	// One that waits, one in a storm.
	ear, err := root.ListenTCP(ctx, localhost)
	must(err)
	waiting, err := root.Fork(ctx)
	must(err)
	go func() { _, _ = waiting.Accept(ctx, ear) }()
	stormy, err := root.Fork(ctx)
	must(err)
	go func() { _, _ = stormy.Storm(ctx, Storm{Count: 1 << 30}) }()
	fmt.Println(strings.Join(append(pids, itoa(waiting.PID()), itoa(stormy.PID())), " "))
	select {}
}

func TestDeathOfTheDriverEndsAllActors(t *testing.T) {
	w := newWorld(t)
	dir := filepath.Join(w.dir, "driver")
	w.install("driver/actor")
	cmd := exec.CommandContext(w.ctx, "/proc/self/exe")
	cmd.Env = append(os.Environ(), driverEnv+"="+dir)
	out, err := cmd.StdoutPipe()
	w.ok(err)
	w.ok(cmd.Start())
	line, err := bufio.NewReader(out).ReadString('\n')
	w.ok(err)
	var handles []int
	for _, field := range strings.Fields(line) {
		pid, err := strconv.Atoi(field)
		if err != nil {
			t.Fatal(line)
		}
		fd, err := unix.PidfdOpen(pid, 0)
		w.ok(err)
		defer unix.Close(fd)
		handles = append(handles, fd)
	}
	if want := 1 + 2*int(births) + 2; len(handles) != want {
		t.Fatalf("%d actors, want %d", len(handles), want)
	}
	w.ok(cmd.Process.Kill())
	_ = cmd.Wait()
	for _, fd := range handles {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 10000)
		if err != nil || n != 1 {
			t.Fatalf("an actor lives on without its driver: %d, %v", n, err)
		}
	}
}

func TestCloseEndsAllAndLeaksNothing(t *testing.T) {
	w := newWorld(t) // first: the runtime's own descriptors are open now
	before := openFiles(t)
	dir := t.TempDir()
	stage, err := Listen(dir)
	w.ok(err)
	root, err := stage.Start(w.ctx, w.path, Options{})
	w.ok(err)
	pids := []int{root.PID()}
	for _, by := range Births() {
		child, err := root.ForkBy(w.ctx, by)
		w.ok(err)
		pids = append(pids, child.PID())
		if by == ByVfork {
			w.ok(child.Exit(w.ctx, 0))
		}
	}
	w.ok(stage.Close())
	w.ok(stage.Close())
	for _, pid := range pids {
		if state, ok := stateOf(pid); ok && state != 'Z' && state != 'X' {
			t.Errorf("process %d is in state %c", pid, state)
		}
	}
	w.wantErr(root.Send(w.ctx, w.addr, 1), ErrGone)
	_, err = stage.Start(w.ctx, w.path, Options{})
	if err == nil {
		t.Error("a closed stage started an actor")
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 0 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
	if after := openFiles(t); after > before {
		t.Errorf("%d files are open, %d were", after, before)
	}
}

func openFiles(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

func TestDriverLeavesNoZombies(t *testing.T) {
	w := newWorld(t)
	child, err := w.root.ForkBy(w.ctx, ByCloneParent) // a child of this very process
	w.ok(err)
	if info := w.info(child); info.PPID != os.Getpid() {
		t.Fatalf("parent %d, want %d", info.PPID, os.Getpid())
	}
	w.ok(child.Exit(w.ctx, 0))
	if state, ok := stateOf(child.PID()); ok {
		t.Errorf("still there, in state %c", state)
	}
}

func TestContextEndsACall(t *testing.T) {
	w := newWorld(t)
	ctx, cancel := context.WithCancelCause(w.ctx)
	reason := errors.New("enough")
	ear, err := w.root.ListenTCP(w.ctx, localhost)
	w.ok(err)
	done := make(chan error, 1)
	go func() {
		_, err := w.root.Accept(ctx, ear)
		done <- err
	}()
	cancel(reason)
	w.wantErr(<-done, reason)
	// The actor still waits; a connection ends that, and the late reply is nobody's.
	addr, err := w.stageMate().Connect(w.ctx, w.boundTo(ear))
	w.ok(err)
	if !addr.IsValid() {
		t.Error("no local address")
	}
	w.info(w.root)

	ctx2, cancel2 := context.WithTimeout(w.ctx, 50*time.Millisecond)
	defer cancel2()
	_, err = w.root.Accept(ctx2, ear) // the connection above
	w.ok(err)
	_, err = w.root.Accept(ctx2, ear)
	if !errors.Is(err, unix.ETIMEDOUT) && !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	w.wantErr(w.root.Wait(ctx2), context.DeadlineExceeded)
	w.wantErr(w.root.Send(ctx2, w.addr, 1), context.DeadlineExceeded)
	w.info(w.root)
}

// stageMate is an actor that is busy with nothing.
func (w *world) stageMate() *Actor {
	a, err := w.stage.Start(w.ctx, w.path, Options{})
	w.ok(err)
	return a
}

// boundTo finds the address of the root's socket without asking the root.
func (w *world) boundTo(s Socket) netip.AddrPort {
	w.t.Helper()
	fd, err := unix.PidfdOpen(w.root.PID(), 0)
	w.ok(err)
	defer unix.Close(fd)
	copied, err := unix.PidfdGetfd(fd, int(s), 0)
	w.ok(err)
	defer unix.Close(copied)
	sa, err := unix.Getsockname(copied)
	w.ok(err)
	in := sa.(*unix.SockaddrInet4)
	return netip.AddrPortFrom(netip.AddrFrom4(in.Addr), uint16(in.Port))
}

func TestKillDuringACall(t *testing.T) {
	w := newWorld(t)
	a := w.fork(w.root)
	ear, err := a.ListenTCP(w.ctx, localhost)
	w.ok(err)
	done := make(chan error, 1)
	go func() {
		_, err := a.Accept(w.ctx, ear)
		done <- err
	}()
	w.ok(a.Kill(w.ctx))
	w.wantErr(<-done, ErrGone)
	w.ok(a.Wait(w.ctx))
	w.ok(a.Kill(w.ctx))
	if a.Alive() {
		t.Error("alive after Kill")
	}
}

func TestStrangersAreSentAway(t *testing.T) {
	w := newWorld(t)
	addr := &net.UnixAddr{Name: filepath.Join(w.dir, stageSocket), Net: "unixpacket"}
	hello := make([]byte, replySize)
	copy(hello, []byte{0x63, 0x74, 0x6f, 0x72})
	hello[16] = 1 // a token that nobody expects
	for _, message := range [][]byte{[]byte("good morning"), hello} {
		conn, err := net.DialUnix("unixpacket", nil, addr)
		w.ok(err)
		_, err = conn.Write(message)
		w.ok(err)
		if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Errorf("%q: got %v, want the end", message, err)
		}
		w.ok(conn.Close())
	}
}

func TestListenTwice(t *testing.T) {
	w := newWorld(t)
	_, err := Listen(w.dir)
	w.wantErr(err, unix.EADDRINUSE)
	_, err = Listen(filepath.Join(w.dir, "nowhere"))
	w.wantErr(err, unix.ENOENT)
	deep := filepath.Join(w.dir, strings.Repeat("long/", 40))
	w.ok(os.MkdirAll(deep, 0o755))
	stage, err := Listen(deep)
	w.ok(err)
	a, err := stage.Start(w.ctx, w.path, Options{})
	w.ok(err)
	_, err = a.Fork(w.ctx)
	w.ok(err)
	w.ok(stage.Close())
}

func BenchmarkStep(b *testing.B) {
	dir := b.TempDir()
	path := filepath.Join(dir, "actor")
	if err := Install(path); err != nil {
		b.Fatal(err)
	}
	stage, err := Listen(dir)
	if err != nil {
		b.Fatal(err)
	}
	defer stage.Close()
	ctx := b.Context()
	root, err := stage.Start(ctx, path, Options{})
	if err != nil {
		b.Fatal(err)
	}
	run := func(name string, step func() error) {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if err := step(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	forkAndExit := func(child *Actor, err error) error {
		if err != nil {
			return err
		}
		return child.Exit(ctx, 0)
	}
	run("info", func() error { _, err := root.Info(ctx); return err })
	run("thread", func() error { _, err := root.OnThread().Info(ctx); return err })
	run("exec", func() error { return root.Exec(ctx, path) })
	run("fork+exit", func() error { return forkAndExit(root.Fork(ctx)) })
	run("spawn+exit", func() error { return forkAndExit(root.ForkExec(ctx, ByVfork, Image{Path: path})) })
	run("storm", func() error { _, err := root.Storm(ctx, Storm{Count: 1}); return err })
}
