//go:build linux

package actor

import (
	"errors"
	"net"
	"net/netip"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// probe runs a probe and returns its exit status.
func (w *world) probe(args ...string) unix.Errno {
	w.t.Helper()
	path := filepath.Join(w.dir, "probe")
	w.ok(InstallProbe(path))
	err := exec.CommandContext(w.ctx, path, args...).Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return unix.Errno(exit.ExitCode())
	}
	w.ok(err)
	return 0
}

func TestProbeSendsDatagrams(t *testing.T) {
	w := newWorld(t)
	if status := w.probe(ProbeArgs(ProbeUDP, w.addr, 3)...); status != 0 {
		t.Fatalf("exit status %v", status)
	}
	for i := range 3 {
		if d := w.hear(); d.Index != i || d.PID != d.TID || d.PID == 0 {
			t.Errorf("heard %+v, want index %d", d, i)
		}
	}
	w.silent()
}

func TestProbeConnects(t *testing.T) {
	w := newWorld(t)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	w.ok(err)
	defer listener.Close()
	addr := listener.Addr().(*net.TCPAddr).AddrPort()
	for _, kind := range []ProbeKind{ProbeTCP, ProbeSYN} {
		if status := w.probe(ProbeArgs(kind, addr, 2)...); status != 0 {
			t.Fatalf("%s: exit status %v", kind, status)
		}
		for range 2 {
			conn, err := listener.Accept()
			w.ok(err)
			w.ok(conn.Close())
		}
	}
	w.ok(listener.Close())
	if status := w.probe(ProbeArgs(ProbeTCP, addr, 1)...); status != unix.ECONNREFUSED {
		t.Errorf("exit status %v, want ECONNREFUSED", status)
	}
}

func TestProbeReportsErrors(t *testing.T) {
	w := newWorld(t)
	broadcast := netip.MustParseAddrPort("255.255.255.255:9")
	if status := w.probe(ProbeArgs(ProbeUDP, broadcast, 1)...); status != unix.EACCES {
		t.Errorf("exit status %v, want EACCES", status)
	}
	good := SockaddrHex(w.addr)
	for _, args := range [][]string{
		nil, {"udp"}, {"udp", ""}, {"udp", good[1:]}, {"udp", "zz" + good}, {"udp", good + good}, {"udp", good[:30]},
		{"udp", good, "x"}, {"udp", good, "99999999999999999999"}, {"udp", good, "1", "1"}, {"carrier pigeon", good},
	} {
		if status := w.probe(args...); status != unix.EINVAL {
			t.Errorf("%q: exit status %v, want EINVAL", args, status)
		}
	}
	w.silent()
}
