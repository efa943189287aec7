package leak_test

import (
	"context"
	"io"
	"net"
	"os"
	"testing"

	"sidestep"
	"sidestep/internal/lab"
	"sidestep/internal/lab/labtest"
)

// BenchmarkPackets notes what the hooks cost traffic: without an engine, with one, and with one that knows the flow. All
// of it goes to the machine's own LAN, so the way is the same. Compare within one run; -count shows the spread.
func BenchmarkPackets(b *testing.B) {
	labtest.NeedRoot(b)
	w, err := lab.New(b.Context(), lab.Options{})
	must(b, err)
	defer func() { must(b, w.Close()) }()
	sink := listen(b, w)
	for _, engine := range []string{"off", "on", "labelled"} {
		stop := func() {}
		if engine != "off" {
			stop = start(b, w, engine == "labelled")
		}
		b.Run("udp-connected/"+engine, func(b *testing.B) { send(b, w, "udp", sink, 64) })
		b.Run("udp-sendto/"+engine, func(b *testing.B) { sendTo(b, w, sink, 64) })
		b.Run("tcp-connect/"+engine, func(b *testing.B) { connect(b, w, sink) })
		b.Run("tcp-bulk/"+engine, func(b *testing.B) { send(b, w, "tcp", sink, 64<<10) })
		stop()
	}
}

func must(b *testing.B, err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}

// listen makes a server on the LAN, TCP and UDP, that takes whatever comes.
func listen(b *testing.B, w *lab.World) string {
	b.Helper()
	var l net.Listener
	must(b, w.Router.Do(func() (err error) {
		l, err = new(net.ListenConfig).Listen(b.Context(), "tcp4", lab.LAN4+":0")
		return err
	}))
	b.Cleanup(func() { l.Close() })
	var u net.PacketConn
	must(b, w.Router.Do(func() (err error) {
		u, err = new(net.ListenConfig).ListenPacket(b.Context(), "udp4", l.Addr().String())
		return err
	}))
	b.Cleanup(func() { u.Close() }) // what it does not read is dropped
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				io.Copy(io.Discard, conn)
				conn.Close()
			}()
		}
	}()
	return l.Addr().String()
}

// start starts an engine, and excludes this process if it is to know the flows.
func start(b *testing.B, w *lab.World, labelled bool) (stop func()) {
	b.Helper()
	var e *sidestep.Engine
	must(b, w.Machine.Do(func() (err error) {
		e, err = sidestep.New(sidestep.Options{State: b.TempDir()})
		return err
	}))
	ctx, cancel := context.WithCancel(context.WithoutCancel(b.Context()))
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	<-e.Ready()
	if labelled {
		self, err := os.Executable()
		must(b, err)
		_, err = e.Exclude(ctx, []string{self})
		must(b, err)
	}
	return func() {
		cancel()
		must(b, <-done)
	}
}

func send(b *testing.B, w *lab.World, network, to string, size int) {
	conn, err := w.Machine.Dial(b.Context(), network, to)
	must(b, err)
	defer conn.Close()
	b.SetBytes(int64(size))
	buf := make([]byte, size)
	for b.Loop() {
		if _, err := conn.Write(buf); err != nil {
			b.Fatal(err)
		}
	}
}

func sendTo(b *testing.B, w *lab.World, to string, size int) {
	var conn net.PacketConn
	must(b, w.Machine.Do(func() (err error) {
		conn, err = new(net.ListenConfig).ListenPacket(b.Context(), "udp4", ":0")
		return err
	}))
	defer conn.Close()
	addr, err := net.ResolveUDPAddr("udp4", to)
	must(b, err)
	buf := make([]byte, size)
	for b.Loop() {
		if _, err := conn.WriteTo(buf, addr); err != nil {
			b.Fatal(err)
		}
	}
}

func connect(b *testing.B, w *lab.World, to string) {
	for b.Loop() {
		conn, err := w.Machine.Dial(b.Context(), "tcp", to)
		must(b, err)
		must(b, conn.(*net.TCPConn).SetLinger(0)) // a reset, or ports in TIME-WAIT run out
		must(b, conn.Close())
	}
}
