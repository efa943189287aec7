package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"syscall"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"
)

// maxDatagram is the largest UDP payload that is answered whole.
const maxDatagram = 64 << 10

// A service tells every client the address it came from, and then echoes.
//
// Over TCP it writes "address:port\n" when it accepts, and returns every byte from then on. Over UDP it answers each
// datagram with "address:port\n" followed by the datagram. It listens on the same ports for IPv4 and IPv6. On port 53
// it is a name server, see [answer].
type service struct {
	ctx    context.Context // ends when the service closes
	cancel context.CancelFunc
	wg     sync.WaitGroup // all goroutines

	closers []io.Closer
	names   []*dns.Server
}

// serve starts a service in the namespace.
func serve(n *Namespace, ports []uint16) (*service, error) {
	s := &service{}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	err := n.Do(func() error {
		for _, port := range ports {
			if port == dnsPort {
				continue
			}
			if err := s.listen(port); err != nil {
				return fmt.Errorf("serve port %d: %w", port, err)
			}
		}
		if err := s.listenDNS(); err != nil {
			return fmt.Errorf("serve names: %w", err)
		}
		return nil
	})
	if err != nil {
		return nil, errors.Join(err, s.close())
	}
	return s, nil
}

// close ends the service. Connections that are open are reset, so that the kernel keeps nothing of them.
func (s *service) close() error {
	s.cancel()
	var errs []error
	for _, c := range s.closers {
		errs = append(errs, c.Close())
	}
	for _, srv := range s.names {
		errs = append(errs, srv.Shutdown())
	}
	s.wg.Wait()
	return errors.Join(errs...)
}

// listen opens the sockets for one port in the calling thread's namespace.
func (s *service) listen(port uint16) error {
	tcp, udp, err := listenBoth(port)
	if err != nil {
		return err
	}
	s.closers = append(s.closers, tcp, udp)
	s.wg.Go(func() { s.accept(tcp) })
	s.wg.Go(func() { answerDatagrams(udp) })
	return nil
}

// listenBoth opens a TCP and a UDP socket for both families in the calling thread's namespace.
func listenBoth(port uint16) (net.Listener, *net.UDPConn, error) {
	cfg := net.ListenConfig{Control: func(network, _ string, c syscall.RawConn) error {
		if network != "udp6" { // "udp6" is what [::] becomes, and serves IPv4 too
			return nil
		}
		return control(c, func(fd int) error {
			return unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1)
		})
	}}
	address := fmt.Sprintf("[::]:%d", port)
	tcp, err := cfg.Listen(context.Background(), "tcp", address)
	if err != nil {
		return nil, nil, err
	}
	udp, err := cfg.ListenPacket(context.Background(), "udp", address)
	if err != nil {
		return nil, nil, errors.Join(err, tcp.Close())
	}
	return tcp, udp.(*net.UDPConn), nil
}

// accept serves TCP clients until the listener is closed.
func (s *service) accept(l net.Listener) {
	for {
		conn, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // the client gave up before it was accepted
		}
		s.wg.Go(func() { s.echo(conn.(*net.TCPConn)) })
	}
}

// echo serves one TCP client.
func (s *service) echo(conn *net.TCPConn) {
	defer conn.Close()
	stop := context.AfterFunc(s.ctx, func() {
		conn.SetLinger(0)
		conn.Close()
	})
	defer stop()
	if _, err := io.WriteString(conn, plain(conn.RemoteAddr())+"\n"); err != nil {
		return
	}
	// Hidden in structs the sockets cannot splice: the runtime would keep a pipe for it after the world is gone.
	// An error is the client's way to say that it has had enough.
	_, _ = io.Copy(struct{ io.Writer }{conn}, struct{ io.Reader }{conn})
}

// answerDatagrams serves UDP clients until the socket is closed.
func answerDatagrams(conn *net.UDPConn) {
	buf, oob := make([]byte, maxDatagram), make([]byte, 128)
	for {
		n, oobn, _, from, err := conn.ReadMsgUDPAddrPort(buf, oob)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // an ICMP error about an earlier answer
		}
		client := netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
		reply := append([]byte(client.String()+"\n"), buf[:n]...)
		// A client that is out of reach gets no answer, that is all.
		_, _, _ = conn.WriteMsgUDPAddrPort(reply, replySource(oob[:oobn]), from)
	}
}

// replySource returns the control message that sends an answer from the address that the question was sent to. The
// interface is left to routing: a question that leaked through the wrong one still belongs to its source address.
func replySource(oob []byte) []byte {
	hdr, data, _, err := unix.ParseOneSocketControlMessage(oob)
	if err != nil || hdr.Type != unix.IPV6_PKTINFO || len(data) < unix.SizeofInet6Pktinfo {
		return nil
	}
	info := unix.Inet6Pktinfo{Addr: [16]byte(data[:16])}
	return unix.PktInfo6(&info)
}

// plain returns an address without the trace of how IPv4 travels through an IPv6 socket.
func plain(a net.Addr) string {
	ap, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return a.String()
	}
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port()).String()
}
