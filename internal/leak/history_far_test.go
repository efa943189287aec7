package leak_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"time"

	"sidestep/internal/lab"
)

// The far ends of the flows of a history that the lab's services do not serve: of loopback, and of servers.

// namespace is where the peers of a place are.
func (h *history) namespace(p place) *lab.Namespace {
	if p == nearby {
		return h.world.Router
	}
	return h.world.Internet
}

// call connects to a server on the machine from the address of a peer, who echoes. It gives up after a while.
func (h *history) call(p *peer, to netip.AddrPort, patience time.Duration) error {
	ctx, cancel := context.WithTimeout(h.ctx, patience)
	defer cancel()
	d := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(p.at.Addr().Unmap(), 0))}
	var conn net.Conn
	err := h.namespace(p.place).Do(func() (err error) {
		conn, err = d.DialContext(ctx, "tcp", to.String())
		return err
	})
	if err != nil {
		return err
	}
	h.serve(conn, func() error {
		_, err := io.Copy(struct{ io.Writer }{conn}, struct{ io.Reader }{conn})
		return err
	})
	return nil
}

// whisper sends a datagram to the machine from the address of a peer.
func (h *history) whisper(p *peer, to netip.AddrPort) error {
	var conn net.Conn
	d := net.Dialer{LocalAddr: net.UDPAddrFromAddrPort(netip.AddrPortFrom(p.at.Addr().Unmap(), 0))}
	err := h.namespace(p.place).Do(func() (err error) {
		conn, err = d.DialContext(h.ctx, "udp", to.String())
		return err
	})
	if err != nil {
		return err
	}
	_, err = io.WriteString(conn, "whisper")
	return errors.Join(err, conn.Close())
}

// serve runs a task until it ends by itself, or c is closed at the end of the test.
func (h *history) serve(c io.Closer, task func() error) {
	stop := context.AfterFunc(h.end, func() { _ = c.Close() })
	h.far.Go(func() {
		defer c.Close()
		defer stop()
		_ = task() // an error is the other end's way to say that it has had enough
	})
}

// serveLoopback serves the machine's own programs as the lab's services serve others.
func (h *history) serveLoopback() {
	h.t.Helper()
	var end context.CancelFunc
	h.end, end = context.WithCancel(h.ctx)
	h.t.Cleanup(func() {
		end()
		h.far.Wait()
	})
	for _, network := range networks[loopback] {
		at := netip.AddrPortFrom(network.Addr(), servicePort)
		var tcp *net.TCPListener
		var udp *net.UDPConn
		h.ok(h.world.Machine.Do(func() (err error) {
			if tcp, err = net.ListenTCP("tcp", net.TCPAddrFromAddrPort(at)); err == nil {
				udp, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(at))
			}
			return err
		}))
		h.serve(udp, func() error { return answer(udp) })
		h.serve(tcp, func() error {
			for {
				conn, err := tcp.AcceptTCP()
				if err != nil {
					return err
				}
				h.serve(conn, func() error { return greet(conn) })
			}
		})
	}
}

// greet tells a client where it comes from, and echoes.
func greet(conn *net.TCPConn) error {
	if _, err := fmt.Fprintf(conn, "%v\n", conn.RemoteAddr()); err != nil {
		return err
	}
	_, err := io.Copy(struct{ io.Writer }{conn}, struct{ io.Reader }{conn})
	return err
}

// isLost reports whether fewer answers of a peer have reached this machine than datagrams have been sent to it: on a machine
// that is busy the lab loses some.
func (h *history) isLost(p *peer) bool {
	h.t.Helper()
	if p.place == loopback {
		return false
	}
	came, err := h.wire(p.trace.wire).Count(lab.Match{Direction: lab.Received, Proto: lab.UDP, Src: p.at.Addr().Unmap()})
	h.ok(err)
	h.t.Logf("%d answers to %d datagrams have come: %s", came, p.trace.want, p.trace.what)
	return came < p.trace.want
}

// answer answers every datagram with where it comes from, and itself.
func answer(conn *net.UDPConn) error {
	b := make([]byte, 1500)
	for {
		n, from, err := conn.ReadFromUDPAddrPort(b)
		if errors.Is(err, net.ErrClosed) {
			return err
		}
		if err == nil {
			_, _ = conn.WriteToUDPAddrPort(append([]byte(from.String()+"\n"), b[:n]...), from)
		}
	}
}
