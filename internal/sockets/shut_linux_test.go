package sockets

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"sidestep/internal/lab/actor"
)

const (
	ours   uint32 = 0x1000_0000
	mask   uint32 = 0x7000_0000
	theirs uint32 = 0x8000_0007 // outside of mask
)

// A mouth is a kind of socket that needs no peer to send, and something that it can send.
type mouth struct {
	addr          netip.Addr
	typ, protocol int
	whole         bool // packets with their headers
	message       []byte
}

// mouths are all kinds of socket that can send without a peer. They send echo requests, or to a port where nobody is.
func mouths() map[string]mouth {
	echo4, echo6 := make([]byte, 64), make([]byte, 64)
	echo4[0], echo6[0] = 8, 128
	binary.BigEndian.PutUint16(echo4[2:], 0xf7ff)
	whole4 := append([]byte{0x45, 8: 64, 9: unix.IPPROTO_ICMP, 12: 127, 15: 1, 16: 127, 19: 1}, echo4...)
	whole6 := append([]byte{0x60, 5: 64, 6: unix.IPPROTO_ICMPV6, 7: 64, 23: 1, 39: 1}, echo6...)
	return map[string]mouth{
		"udp4":       {addr: here4, typ: unix.SOCK_DGRAM, message: echo4},
		"udp6":       {addr: here6, typ: unix.SOCK_DGRAM, message: echo6},
		"udp mapped": {addr: mapped, typ: unix.SOCK_DGRAM, message: echo4},
		"ping4":      {addr: here4, typ: unix.SOCK_DGRAM, protocol: unix.IPPROTO_ICMP, message: echo4},
		"ping6":      {addr: here6, typ: unix.SOCK_DGRAM, protocol: unix.IPPROTO_ICMPV6, message: echo6},
		"raw4":       {addr: here4, typ: unix.SOCK_RAW, protocol: unix.IPPROTO_ICMP, message: echo4},
		"raw6":       {addr: here6, typ: unix.SOCK_RAW, protocol: unix.IPPROTO_ICMPV6, message: echo6},
		"raw4 whole": {addr: here4, typ: unix.SOCK_RAW, protocol: unix.IPPROTO_ICMP, whole: true, message: whole4},
		"raw6 whole": {addr: here6, typ: unix.SOCK_RAW, protocol: unix.IPPROTO_ICMPV6, whole: true, message: whole6},
	}
}

// to is where a mouth sends: raw sockets know no port.
func (m mouth) to() unix.Sockaddr {
	if m.typ == unix.SOCK_RAW {
		return sockaddr(netip.AddrPortFrom(m.addr, 0))
	}
	return sockaddr(netip.AddrPortFrom(m.addr, 9))
}

func (b *bench) mouth(m mouth) int {
	b.Helper()
	s := b.socket(m.addr, m.typ, m.protocol)
	switch {
	case m.whole && m.addr.Is4():
		b.ok(unix.SetsockoptInt(s, unix.SOL_IP, unix.IP_HDRINCL, 1))
	case m.whole:
		b.ok(unix.SetsockoptInt(s, unix.SOL_IPV6, unix.IPV6_HDRINCL, 1))
	}
	return s
}

// shut shuts a socket of this process.
func (b *bench) shut(s int) {
	b.Helper()
	b.ok(Shut(os.Getpid(), s, b.cookie(s), mask))
}

func TestShutSocketNeverSendsAgain(t *testing.T) {
	b := newBench(t)
	for name, m := range mouths() {
		s := b.mouth(m)
		b.ok(unix.Sendto(s, m.message, 0, m.to()))
		b.shut(s)
		b.want(name, unix.Sendto(s, m.message, 0, m.to()), unix.EPIPE)
		for range 2 {
			b.ok(unix.Connect(s, m.to()))
			b.want(name+", connected", unix.Sendto(s, m.message, 0, nil), unix.EPIPE)
			b.want(name+", connected", unix.Sendto(s, m.message, 0, m.to()), unix.EPIPE)
			b.ok(disconnect(s))
			b.want(name+", disconnected", unix.Sendto(s, m.message, 0, m.to()), unix.EPIPE)
		}
	}
}

func TestShutSocketNeverSendsAgainEvenIfItWasConnected(t *testing.T) {
	b := newBench(t)
	for name, m := range mouths() {
		s := b.mouth(m)
		b.ok(unix.Connect(s, m.to()))
		b.shut(s)
		b.want(name, unix.Sendto(s, m.message, 0, nil), unix.EPIPE)
		b.ok(disconnect(s))
		b.want(name+", disconnected", unix.Sendto(s, m.message, 0, m.to()), unix.EPIPE)
	}
}

// A raw socket that writes no IP headers is not asked by the kernel whether it has been shut down.
func TestShutRawSocketSendsNothingShortEither(t *testing.T) {
	b := newBench(t)
	for _, name := range []string{"raw4", "raw6"} {
		m := mouths()[name]
		s := b.mouth(m)
		b.shut(s)
		b.want(name, unix.Sendto(s, m.message[:8], 0, m.to()), unix.EINVAL)
	}
}

func TestDatagramThatWasBegunGoesBeforeTheMark(t *testing.T) {
	b := newBench(t)
	for _, addr := range []netip.Addr{here4, here6, mapped} {
		ear := b.udp(addr.Unmap())
		to := sockaddr(netip.AddrPortFrom(addr, b.local(ear).Port()))
		s := b.socket(addr, unix.SOCK_DGRAM, 0)
		b.ok(unix.Sendto(s, []byte("before"), unix.MSG_MORE, to))
		b.shut(s)
		b.want("the rest", unix.Sendto(s, []byte("after"), 0, to), unix.EPIPE)
		buf := make([]byte, 16)
		n, err := unix.Read(ear, buf)
		b.ok(err)
		if got := string(buf[:n]); got != "before" {
			t.Errorf("heard %q", got)
		}
	}
}

func TestOnlyTheBitsOfTheMaskAreCleared(t *testing.T) {
	b := newBench(t)
	verbs := map[string]func(pid, fd int, cookie uint64, mask uint32) error{"shut": Shut, "unmark": Unmark}
	marks := map[uint32]uint32{ours | theirs: theirs, mask | theirs: theirs, ours: 0, theirs: theirs}
	for name, clear := range verbs {
		s := b.udp(here6)
		for before, want := range marks {
			b.setMark(s, before)
			b.ok(clear(os.Getpid(), s, b.cookie(s), mask))
			if got := b.mark(s); got != want {
				t.Errorf("%s: got mark %#x, want %#x", name, got, want)
			}
		}
	}
}

func TestUnmarkedSocketStillSends(t *testing.T) {
	b := newBench(t)
	client, server, _ := b.connection(here4)
	b.setMark(client, ours)
	b.ok(Unmark(os.Getpid(), client, b.cookie(client), mask))
	b.lives(client, server)
}

func TestAnotherCookieShutsNothing(t *testing.T) {
	b := newBench(t)
	s, ear := b.udp(here4), b.udp(here4)
	b.setMark(s, ours)
	for _, cookie := range []uint64{0, b.cookie(s) + 1, b.cookie(ear)} {
		b.ok(Shut(os.Getpid(), s, cookie, mask))
		b.ok(Unmark(os.Getpid(), s, cookie, mask))
	}
	if got := b.mark(s); got != ours {
		t.Errorf("got mark %#x", got)
	}
	b.dial(s, here4, ear)
	b.lives(s, ear)
}

func TestShutReachesAnotherProcess(t *testing.T) {
	b := newBench(t)
	a := b.actor()
	end := netip.AddrPortFrom(here4, 9)
	s, err := a.Open(t.Context(), actor.UDP, end)
	b.ok(err)
	child, err := a.Fork(t.Context())
	b.ok(err)
	seen := b.borrow(a.PID(), int(s))
	b.setMark(seen, ours|theirs)
	b.ok(a.SendOn(t.Context(), s, end))

	b.ok(Shut(a.PID(), int(s), b.cookie(seen)+1, mask))
	b.ok(a.SendOn(t.Context(), s, end))
	b.ok(Shut(a.PID(), int(s), b.cookie(seen), mask))
	b.want("send", a.SendOn(t.Context(), s, end), unix.EPIPE)
	b.want("child's send", child.SendOn(t.Context(), s, end), unix.EPIPE)
	if got := b.mark(seen); got != theirs {
		t.Errorf("got mark %#x", got)
	}
}

func TestShutOfWhatIsGoneIsNoError(t *testing.T) {
	b := newBench(t)
	a := b.actor()
	s, err := a.Open(t.Context(), actor.UDP, netip.AddrPortFrom(here4, 9))
	b.ok(err)
	cookie := b.cookie(b.borrow(a.PID(), int(s)))
	b.ok(a.CloseSocket(t.Context(), s))
	b.ok(Shut(a.PID(), int(s), cookie, mask))
	b.ok(a.Kill(t.Context()))
	b.ok(Shut(a.PID(), int(s), cookie, mask))

	file, err := os.Open(".") // no socket
	b.ok(err)
	defer file.Close()
	b.ok(Shut(os.Getpid(), int(file.Fd()), cookie, mask))
	path, err := unix.Open(".", unix.O_PATH|unix.O_CLOEXEC, 0)
	b.ok(err)
	defer unix.Close(path)
	b.ok(Shut(os.Getpid(), path, cookie, mask))
}

func TestShutReachesAThreadWithDescriptorsOfItsOwn(t *testing.T) {
	b := newBench(t)
	end := sockaddr(netip.AddrPortFrom(here4, 9))
	err := b.ns.Do(func() error { // on a thread that ends with it
		if err := unix.Unshare(unix.CLONE_FILES); err != nil {
			return err
		}
		s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		cookie, err := unix.GetsockoptUint64(s, unix.SOL_SOCKET, unix.SO_COOKIE)
		if err != nil {
			return err
		}
		err = Shut(os.Getpid(), s, cookie, mask)
		b.want("send after the process was asked", unix.Sendto(s, nil, 0, end), nil)
		err = errors.Join(err, Shut(unix.Gettid(), s, cookie, mask))
		b.want("send after the thread was asked", unix.Sendto(s, nil, 0, end), unix.EPIPE)
		return err
	})
	b.sinceThreads(err)
}

func TestShutReachesAProcessThatLostItsLeader(t *testing.T) {
	b := newBench(t)
	a := b.actor()
	end := netip.AddrPortFrom(here4, 9)
	s, err := a.Open(t.Context(), actor.UDP, end)
	b.ok(err)
	cookie := b.cookie(b.borrow(a.PID(), int(s)))
	b.ok(a.EndLeader(t.Context()))
	info, err := a.Info(t.Context())
	b.ok(err)
	b.sinceThreads(Shut(info.TID, int(s), cookie, mask))
	b.want("send", a.SendOn(t.Context(), s, end), unix.EPIPE)
}

// sinceThreads skips a test that needs to open a thread that leads no process, where the kernel cannot.
func (b *bench) sinceThreads(err error) {
	b.Helper()
	if errors.Is(err, unix.EINVAL) {
		b.Skip("needs Linux 6.9")
	}
	b.ok(err)
}

// actor starts a process in the namespace.
func (b *bench) actor() *actor.Actor {
	b.Helper()
	dir := b.TempDir()
	path := dir + "/actor"
	b.ok(actor.Install(path))
	stage, err := actor.Listen(dir)
	b.ok(err)
	b.Cleanup(func() { b.ok(stage.Close()) })
	a, err := stage.Start(b.Context(), path, actor.Options{Start: b.ns.Start})
	b.ok(err)
	return a
}

// borrow returns a descriptor of our own for another process's socket.
func (b *bench) borrow(pid, fd int) int {
	b.Helper()
	s, err := borrow(pid, fd)
	b.ok(err)
	b.Cleanup(func() { _ = unix.Close(s) })
	return s
}
