package leak_test

import (
	"encoding/binary"
	"errors"
	"net/netip"

	"golang.org/x/sys/unix"

	"sidestep/internal/lab/actor"
)

// A kind is a sort of socket, and how it sends.
type kind struct {
	name     string
	typ      int
	protocol [2]int // for IPv4 and IPv6
	connects bool   // asks routing before it sends anything
	send     func(*try) error
	bindable bool // asks the engine before it binds
	mapped   bool // takes IPv4 addresses on an IPv6 socket
}

var kinds = []kind{
	{"TCP", unix.SOCK_STREAM, [2]int{}, true, (*try).connect, true, true},
	{"TCP fast open", unix.SOCK_STREAM, [2]int{}, true, (*try).fastOpen, true, true},
	{"UDP", unix.SOCK_DGRAM, [2]int{}, false, (*try).sendTo, true, true},
	{"connected UDP", unix.SOCK_DGRAM, [2]int{}, true, (*try).connectAndSend, true, true},
	{"UDP-Lite", unix.SOCK_DGRAM, twice(unix.IPPROTO_UDPLITE), false, (*try).sendTo, true, true},
	{"ping", unix.SOCK_DGRAM, pings, false, (*try).ping, false, false},
	{"raw ICMP", unix.SOCK_RAW, pings, false, (*try).ping, false, false},
	{"raw IP with a header", unix.SOCK_RAW, twice(unix.IPPROTO_RAW), false, (*try).forge, false, false},
}

var pings = [2]int{unix.IPPROTO_ICMP, unix.IPPROTO_ICMPV6}

func twice(protocol int) [2]int { return [2]int{protocol, protocol} }

func (t *try) connect() error {
	sa := actor.Sockaddr(t.to)
	_, err := t.a.Syscall(t.ctx, unix.SYS_CONNECT, int(t.s), sa, len(sa))
	return begun(err)
}

func (t *try) fastOpen() error {
	sa := actor.Sockaddr(t.to)
	_, err := t.a.Syscall(t.ctx, unix.SYS_SENDTO, int(t.s), []byte("early"), 5, unix.MSG_FASTOPEN, sa, len(sa))
	return begun(err)
}

// begun is no error if a connection is under way: nobody is there to answer.
func begun(err error) error {
	if errors.Is(err, unix.EINPROGRESS) {
		return nil
	}
	return err
}

func (t *try) sendTo() error { return t.message(actor.Sockaddr(t.to), []byte("a datagram")) }

func (t *try) connectAndSend() error {
	if err := t.connect(); err != nil {
		return err
	}
	return t.message(nil, []byte("a datagram"))
}

// ping sends an echo request. The kernel gives it a checksum, as far as somebody looks at it.
func (t *try) ping() error {
	echo := [2]byte{8, 128}[t.i]
	return t.message(actor.Sockaddr(netip.AddrPortFrom(t.to.Addr(), 0)), []byte{echo, 0, 0, 0, 0, 1, 0, 1})
}

// forge sends a datagram whose header says that it comes from the door's address.
func (t *try) forge() error {
	from := netip.AddrPortFrom(t.by.addrs[t.i], 9)
	return t.message(actor.Sockaddr(netip.AddrPortFrom(t.to.Addr(), 0)), datagram(from, t.to))
}

// message is sendmsg, with the try's control message.
func (t *try) message(to, data []byte) error {
	_, err := t.a.Syscall(t.ctx, unix.SYS_SENDMSG, int(t.s), actor.Words{
		to, len(to), actor.Words{data, len(data)}, 1, t.control, len(t.control), 0,
	}, unix.MSG_NOSIGNAL)
	return err
}

// datagram makes an IP packet with a UDP datagram.
func datagram(from, to netip.AddrPort) []byte {
	udp := binary.BigEndian.AppendUint16(nil, from.Port())
	udp = binary.BigEndian.AppendUint16(udp, to.Port())
	udp = binary.BigEndian.AppendUint16(udp, 16)
	udp = append(udp, 0, 0)
	udp = append(udp, "datagram"...)
	src, dst := from.Addr().AsSlice(), to.Addr().AsSlice()
	pseudo := append(append(append([]byte{}, src...), dst...), 0, unix.IPPROTO_UDP, 0, byte(len(udp)))
	binary.BigEndian.PutUint16(udp[6:], checksum(append(pseudo, udp...)))
	if len(dst) == 16 {
		head := []byte{0x60, 0, 0, 0, 0, byte(len(udp)), unix.IPPROTO_UDP, 64}
		return append(append(append(head, src...), dst...), udp...)
	}
	head := []byte{0x45, 0, 0, byte(20 + len(udp)), 0, 1, 0, 0, 64, unix.IPPROTO_UDP, 0, 0}
	head = append(append(head, src...), dst...)
	binary.BigEndian.PutUint16(head[10:], checksum(head))
	return append(head, udp...)
}

// checksum is the internet checksum of an even number of bytes.
func checksum(b []byte) uint16 {
	var sum uint32
	for ; len(b) > 0; b = b[2:] {
		sum += uint32(binary.BigEndian.Uint16(b))
	}
	for sum>>16 != 0 {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
