package sockets

import (
	"errors"
	"net/netip"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

const (
	tcp = unix.IPPROTO_TCP
	udp = unix.IPPROTO_UDP
)

func TestDestroyedConnectionIsAbortedHereAndResetThere(t *testing.T) {
	b := newBench(t)
	for _, addr := range []netip.Addr{here4, here6, mapped} {
		for _, known := range []bool{true, false} {
			client, server, listener := b.connection(addr)
			f := b.flow(tcp, client)
			if !known {
				f.Cookie = 0
			}
			b.ok(b.closer.Destroy(f))
			b.want("read", read(client), unix.ECONNABORTED)
			b.want("peer's read", read(server), unix.ECONNRESET)

			b.dial(b.socket(addr, unix.SOCK_STREAM, 0), addr, listener)
			b.accept(listener)
		}
	}
}

func TestDestroyWakesWhoWaits(t *testing.T) {
	b := newBench(t)
	client, _, _ := b.connection(here4)
	waits := make(chan error, 1)
	go func() { waits <- read(client) }()
	b.ok(b.closer.Destroy(b.flow(tcp, client)))
	b.want("read", <-waits, unix.ECONNABORTED)
}

func TestAnotherCookieDestroysNothing(t *testing.T) {
	b := newBench(t)
	client, server, _ := b.connection(here4)
	f := b.flow(tcp, client)
	f.Cookie += 1 << 32
	b.ok(b.closer.Destroy(f))
	b.lives(client, server)

	ear := b.udp(here6)
	mouth := b.socket(here6, unix.SOCK_DGRAM, 0)
	b.dial(mouth, here6, ear)
	f = b.flow(udp, mouth)
	f.Cookie++
	b.ok(b.closer.Destroy(f))
	b.lives(mouth, ear)
}

func TestDestroyedUDPSocketLosesPeerAndPort(t *testing.T) {
	b := newBench(t)
	for _, addr := range []netip.Addr{here4, here6, mapped} {
		for _, known := range []bool{true, false} {
			ear := b.udp(addr.Unmap())
			s := b.socket(addr, unix.SOCK_DGRAM, 0)
			b.dial(s, addr, ear)
			f := b.flow(udp, s)
			if !known {
				f.Cookie = 0
			}
			b.ok(b.closer.Destroy(f))
			b.want("read", read(s), unix.ECONNABORTED)
			_, err := unix.Getpeername(s)
			b.want("getpeername", err, unix.ENOTCONN)
			if port := b.local(s).Port(); port != 0 {
				t.Errorf("%v still has port %d", f, port)
			}
			_, err = unix.Write(s, []byte("x"))
			b.want("write", err, unix.EDESTADDRREQ)

			b.dial(s, addr, ear)
			b.lives(s, ear)
		}
	}
}

func TestDestroyedUDPSocketsThatShareAnAddressEndOneByOne(t *testing.T) {
	b := newBench(t)
	ear := b.udp(here4)
	var flows []Flow
	var all []int
	for range 2 {
		s := b.socket(here4, unix.SOCK_DGRAM, 0)
		b.ok(unix.SetsockoptInt(s, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1))
		b.ok(unix.Bind(s, sockaddr(netip.AddrPortFrom(here4, 7))))
		b.dial(s, here4, ear)
		all, flows = append(all, s), append(flows, b.flow(udp, s))
	}
	for range flows {
		b.ok(errors.Join(b.closer.Destroy(flows[0]), b.closer.Destroy(flows[1])))
	}
	for _, s := range all {
		b.want("read", read(s), unix.ECONNABORTED)
	}
}

// A port that the kernel chose, even in bind(), is nobody's again.
func TestDestroyedUDPSocketKeepsThePortThatItAskedFor(t *testing.T) {
	b := newBench(t)
	ear := b.udp(here4)
	for asked, want := range map[uint16]uint16{7: 7, 0: 0} {
		s := b.socket(here4, unix.SOCK_DGRAM, 0)
		b.ok(unix.Bind(s, sockaddr(netip.AddrPortFrom(here4, asked))))
		b.dial(s, here4, ear)
		b.ok(b.closer.Destroy(b.flow(udp, s)))
		if got := b.local(s).Port(); got != want {
			t.Errorf("asked for port %d: got %d, want %d", asked, got, want)
		}
	}
}

func TestSocketBoundToALinkIsFoundByTheLink(t *testing.T) {
	b := newBench(t)
	const lo = 1
	for protocol, typ := range map[uint8]int{tcp: unix.SOCK_STREAM, udp: unix.SOCK_DGRAM} {
		server := b.listen(here4)
		if protocol == udp {
			server = b.udp(here4)
		}
		s := b.socket(here4, typ, 0)
		b.ok(unix.BindToDevice(s, "lo"))
		b.dial(s, here4, server)
		f := b.flow(protocol, s)
		for _, cookie := range []uint64{f.Cookie, 0} {
			f.Cookie = cookie
			b.ok(b.closer.Destroy(f))
			_, err := unix.Write(s, []byte("x"))
			b.ok(err)
		}
		f.Link = lo
		b.ok(b.closer.Destroy(f))
		b.want("read", read(s), unix.ECONNABORTED)
		link, err := unix.GetsockoptInt(s, unix.SOL_SOCKET, unix.SO_BINDTOIFINDEX)
		b.ok(err)
		if want := map[uint8]int{tcp: lo, udp: 0}[protocol]; link != want {
			t.Errorf("protocol %d: bound to link %d, want %d", protocol, link, want)
		}
	}
}

// Without the connection the kernel would find the listener, which gets the flow's packets now.
func TestFlowThatIsGoneTakesNobodyAlong(t *testing.T) {
	b := newBench(t)
	client, server, listener := b.connection(here4)
	f := b.flow(tcp, server)
	b.ok(disconnect(client)) // with a reset
	b.want("read", read(server), unix.ECONNRESET)
	for _, cookie := range []uint64{f.Cookie, 0} {
		f.Cookie = cookie
		b.ok(b.closer.Destroy(f))
		b.dial(b.socket(here4, unix.SOCK_STREAM, 0), here4, listener)
		b.accept(listener)
	}

	ear := b.udp(here4)
	f = Flow{Protocol: udp, Local: b.local(ear), Remote: f.Remote}
	b.ok(b.closer.Destroy(f))
	s := b.socket(here4, unix.SOCK_DGRAM, 0)
	b.dial(s, here4, ear)
	b.lives(s, ear)
}

func TestConnectionInTimeWaitCanBeDestroyed(t *testing.T) {
	b := newBench(t)
	client, server, _ := b.connection(here4)
	f := b.flow(tcp, client)
	b.ok(unix.Shutdown(client, unix.SHUT_WR))
	b.ok(read(server)) // the end
	b.ok(unix.Shutdown(server, unix.SHUT_WR))
	b.ok(read(client)) // the end: what is left is in TIME-WAIT

	s := b.socket(here4, unix.SOCK_STREAM, 0)
	b.want("bind", unix.Bind(s, sockaddr(f.Local)), unix.EADDRINUSE)
	b.ok(b.closer.Destroy(f))
	b.ok(unix.Bind(s, sockaddr(f.Local)))
}

// A listener with TCP_DEFER_ACCEPT leaves connections in SYN-RECV until there are data.
func TestConnectionInSynRecvCanBeDestroyed(t *testing.T) {
	b := newBench(t)
	listener := b.listen(here4)
	b.ok(unix.SetsockoptInt(listener, unix.SOL_TCP, unix.TCP_DEFER_ACCEPT, 60))
	s := b.socket(here4, unix.SOCK_STREAM, 0)
	b.dial(s, here4, listener)
	b.ok(b.closer.Destroy(Flow{Protocol: tcp, Local: b.local(listener), Remote: b.local(s)}))
	_, err := unix.Write(s, []byte("x"))
	b.ok(err)
	b.want("read", read(s), unix.ECONNRESET)

	again := b.socket(here4, unix.SOCK_STREAM, 0)
	b.dial(again, here4, listener)
	_, err = unix.Write(again, []byte("x"))
	b.ok(err)
	b.lives(again, b.accept(listener))
}

func TestCloserOfAnotherNamespaceDestroysNothing(t *testing.T) {
	b, other := newBench(t), newBench(t)
	client, server, _ := b.connection(here4)
	b.ok(other.closer.Destroy(b.flow(tcp, client)))
	b.lives(client, server)
}

func TestManyMayDestroyAtOnce(t *testing.T) {
	b := newBench(t)
	var all sync.WaitGroup
	var clients []int
	for range 50 {
		client, _, _ := b.connection(here6)
		clients = append(clients, client)
		f := b.flow(tcp, client)
		all.Go(func() {
			if err := errors.Join(b.closer.Destroy(f), b.closer.Destroy(f)); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	for _, s := range clients {
		b.want("read", read(s), unix.ECONNABORTED)
	}
}

func TestProtocolThatCannotBeDestroyedIsSaid(t *testing.T) {
	b := newBench(t)
	end := netip.AddrPortFrom(here4, 7)
	err := b.closer.Destroy(Flow{Protocol: unix.IPPROTO_ICMP, Local: end, Remote: end})
	b.want("destroy", err, ErrUnsupported)

	err = b.closer.Destroy(Flow{Protocol: tcp, Local: end, Remote: netip.AddrPortFrom(here6, 7)})
	want := "destroy socket tcp 127.0.0.1:7 > [::1]:7: addresses of two families"
	if err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

// TestKernelSaysWhatItHasNot: a protocol without a module is told from a socket that is gone.
func TestKernelSaysWhatItHasNot(t *testing.T) {
	b := newBench(t)
	for protocol, want := range map[uint8]bool{tcp: true, udp: true, unix.IPPROTO_IGMP: false} {
		if got, err := b.closer.knows(protocol); got != want || err != nil {
			t.Errorf("protocol %d: got %v, %v, want %v", protocol, got, err, want)
		}
	}
}
