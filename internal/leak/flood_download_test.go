package leak_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"sidestep/internal/lab"
)

// A download is a connection of an included program, this one, on which bytes come without a break.
type download struct {
	*rig
	conn    *net.TCPConn
	service netip.AddrPort
	from    netip.AddrPort // its local end
	got     atomic.Int64
	stop    context.CancelFunc
	wg      sync.WaitGroup
}

const (
	downloadChunk = 4 << 10
	downloadEvery = 2 * time.Millisecond
)

// pattern is the byte at a position: one that is missing, or there twice, moves all after it.
func pattern(position int64) byte {
	return byte(position ^ position>>8 ^ position>>16)
}

// download starts a download through the tunnel, and shows that it is one.
func (r *rig) download() *download {
	r.t.Helper()
	return r.downloadFrom(internet4(servicePort), sources[inside][0])
}

// downloadFrom is download from another service, to which this machine is known by the address as.
func (r *rig) downloadFrom(service netip.AddrPort, as netip.Addr) *download {
	r.t.Helper()
	conn, err := r.world.Machine.Dial(r.ctx, "tcp", service.String())
	r.ok(err)
	d := &download{rig: r, conn: conn.(*net.TCPConn), service: service, from: netip.MustParseAddrPort(conn.LocalAddr().String())}
	if d.from.Addr() != as {
		r.t.Fatalf("the download comes to %v, want it in the tunnel", d.from)
	}
	ctx, stop := context.WithCancel(r.ctx)
	d.stop = stop
	r.t.Cleanup(func() { conn.Close(); stop(); d.wg.Wait() })
	sent := make(chan int64, 1)
	d.wg.Go(func() { sent <- d.ask(ctx) })
	d.wg.Go(func() { d.receive(sent) })
	d.grows()
	return d
}

// ask sends what the service is to return, and returns how much that was.
func (d *download) ask(ctx context.Context) (sent int64) {
	defer d.conn.CloseWrite()
	tick := time.NewTicker(downloadEvery)
	defer tick.Stop()
	chunk := make([]byte, downloadChunk)
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return sent
		}
		for i := range chunk {
			chunk[i] = pattern(sent + int64(i))
		}
		n, err := d.conn.Write(chunk)
		sent += int64(n)
		if err != nil {
			if !errors.Is(err, net.ErrClosed) {
				d.t.Errorf("the download's other direction: %v", err)
			}
			return sent
		}
	}
}

// receive fails unless every byte that was asked for comes, and then the end.
func (d *download) receive(sent <-chan int64) {
	r := bufio.NewReader(d.conn)
	greeting, err := r.ReadString('\n')
	for err == nil {
		var b byte
		if b, err = r.ReadByte(); err != nil {
			break
		}
		if want := pattern(d.got.Load()); b != want {
			err = fmt.Errorf("byte %d is %d, want %d", d.got.Load(), b, want)
		}
		d.got.Add(1)
	}
	if err != io.EOF {
		if !errors.Is(err, net.ErrClosed) {
			d.t.Errorf("the download: %v", err)
		}
		d.conn.Close()
		return
	}
	if want := d.from.String() + "\n"; greeting != want {
		d.t.Errorf("the download's peer says %q, want %q", greeting, want)
	}
	if want := <-sent; d.got.Load() != want {
		d.t.Errorf("the download has ended after %d bytes, want %d", d.got.Load(), want)
	}
}

// grows waits until more has been received.
func (d *download) grows() {
	d.t.Helper()
	before := d.got.Load()
	d.wait("the download to go on", func() bool { return d.got.Load() > before+downloadChunk })
}

// finish ends the download, and fails unless it is complete and came through the tunnel.
func (d *download) finish() {
	d.t.Helper()
	d.grows()
	d.stop()
	d.wg.Wait()
	flows, err := d.wire(inside).Flows()
	d.ok(err)
	m := lab.Match{Direction: lab.Received, Proto: lab.TCP, SrcPort: d.service.Port(), DstPort: d.from.Port()}
	var came uint64
	for _, f := range flows {
		if m.Has(f) {
			came += f.Bytes
		}
	}
	if got := d.got.Load(); came < uint64(got) {
		d.t.Errorf("%d bytes of the download came through the tunnel, want all %d", came, got)
	}
}
