//go:build linux

package actor

import (
	"errors"
	"net"
	"net/netip"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// listenRow listens on ports that follow each other, for UDP, and returns the first.
func listenRow(w *world, n int) (base uint16, ears []*net.UDPConn) {
	w.t.Helper()
	loopback := netip.MustParseAddr("127.0.0.1")
	for base = 20000; base < 30000; base += uint16(n) {
		for i := range n {
			ear, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(loopback, base+uint16(i))))
			if err != nil {
				break
			}
			w.t.Cleanup(func() { _ = ear.Close() })
			ears = append(ears, ear)
		}
		if len(ears) == n {
			return base, ears
		}
		ears = nil
	}
	w.t.Fatal("no free ports")
	return 0, nil
}

func TestTimedProgramSendsAtEveryMoment(t *testing.T) {
	w := newWorld(t)
	path := filepath.Join(w.dir, "timed")
	w.ok(InstallTimed(path))
	rows := len(Moments())
	base, ears := listenRow(w, 2*rows)
	listener, err := net.Listen("tcp", netip.AddrPortFrom(w.addr.Addr(), base).String())
	w.ok(err)
	defer listener.Close()
	for _, order := range []TimedOrder{DatagramFirst, SYNFirst} {
		start := time.Now()
		cmd := exec.CommandContext(w.ctx, path, TimedArgs(order, netip.AddrPortFrom(w.addr.Addr(), base))...)
		w.ok(cmd.Run())
		if took, least := time.Since(start), 2*Moments()[rows-1]; took < least {
			t.Errorf("%s: took %v, want at least %v", order, took, least)
		}
		conn, err := listener.Accept()
		w.ok(err)
		w.ok(conn.Close())
		for i, ear := range ears {
			b := make([]byte, 100)
			w.ok(ear.SetReadDeadline(time.Now().Add(10 * time.Second)))
			n, err := ear.Read(b)
			w.ok(err)
			d, err := ParseDatagram(b[:n])
			w.ok(err)
			if first := d.TID == d.PID; d.Index != i%rows || d.PID != cmd.Process.Pid || first != (i < rows) {
				t.Errorf("%s: port %d heard %+v", order, i, d)
			}
		}
	}
}

func TestTimedProgramReportsErrors(t *testing.T) {
	w := newWorld(t)
	path := filepath.Join(w.dir, "timed")
	w.ok(InstallTimed(path))
	good := SockaddrHex(w.addr)
	for _, args := range [][]string{nil, {"ut"}, {"ut", ""}, {"uu", good}, {"u", good}, {"ut", "zz" + good}, {"ut", good, ""}} {
		err := exec.CommandContext(w.ctx, path, args...).Run()
		if exit, ok := errors.AsType[*exec.ExitError](err); !ok || unix.Errno(exit.ExitCode()) != unix.EINVAL {
			t.Errorf("%q: %v, want EINVAL", args, err)
		}
	}
}
