//go:build linux

package actor

import (
	"net"
	"net/netip"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// flood starts a flood with one thread of each kind, all to the port at.
func (w *world) flood(at uint16) *Flood {
	w.t.Helper()
	path := filepath.Join(w.dir, "flood")
	w.ok(InstallFlood(path))
	var lines []FloodLine
	for _, kind := range []FloodKind{FloodTCP, FloodUDP, FloodSendTo} {
		lines = append(lines, FloodLine{kind, netip.AddrPortFrom(netip.MustParseAddr("127.0.0.0"), at)})
	}
	f, err := StartFlood(path, lines, (*exec.Cmd).Start)
	w.ok(err)
	w.t.Cleanup(func() { w.ok(f.Stop()) })
	return f
}

// until waits until each thread of the flood is so far.
func (w *world) until(f *Flood, what string, so func(Tally) bool) {
	w.t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		tallies, err := f.Tallies()
		w.ok(err)
		n := 0
		for _, t := range tallies {
			if so(t) {
				n++
			}
		}
		if n == len(tallies) {
			return
		}
		select {
		case <-tick.C:
		case <-w.ctx.Done():
			w.t.Fatalf("waited in vain for %s: %v", what, tallies)
		}
	}
}

func TestFloodSendsToEveryPeerFromOneSocketOnly(t *testing.T) {
	w := newWorld(t)
	l, err := net.Listen("tcp4", "0.0.0.0:0")
	w.ok(err)
	defer l.Close()
	w.flood(l.Addr().(*net.TCPAddr).AddrPort().Port())
	peers := map[string]bool{}
	for range 20 {
		conn, err := l.Accept()
		w.ok(err)
		defer conn.Close()
		if peer := conn.LocalAddr().String(); peers[peer] {
			t.Errorf("two connections to %s", peer)
		} else {
			peers[peer] = true
		}
		b := make([]byte, 1<<10)
		n, err := conn.Read(b)
		w.ok(err)
		if d, err := ParseDatagram(b[:min(n, datagramSize)]); err != nil {
			t.Errorf("received %+v, %v", d, err)
		}
	}
}

func TestFloodTriesAgainAfterErrors(t *testing.T) {
	w := newWorld(t)
	l, err := net.Listen("tcp4", "0.0.0.0:0")
	w.ok(err)
	f := w.flood(l.Addr().(*net.TCPAddr).AddrPort().Port())
	conn, err := l.Accept()
	w.ok(err)
	w.ok(conn.Close())
	w.ok(l.Close())
	w.until(f, "errors, and rounds and sockets after them", func(t Tally) bool {
		failed := map[FloodKind]bool{
			FloodTCP:    t.Errors[unix.ECONNREFUSED] > 20 && t.Errors[unix.EPIPE] > 20,
			FloodUDP:    t.Errors[unix.ECONNREFUSED] > 20,
			FloodSendTo: true,
		}
		return failed[t.Kind] && t.Sent > 0 && t.Rounds > 50 && t.Sockets > 12
	})
}
