package demo

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"sidestep/internal/lab"
	"sidestep/internal/lab/actor"
)

// talkLimit is how long a program may take to say everything.
const talkLimit = 8 * time.Second

// A family is one of the two internets, with the addresses that the machine has on its two sides.
type family struct {
	server netip.Addr
	own    [sides]netip.Addr
}

func families() []family {
	at := netip.MustParseAddr
	return []family{
		{at(lab.Internet4), [sides]netip.Addr{at(lab.Machine4), at(lab.Tunnel4)}},
		{at(lab.Internet6), [sides]netip.Addr{at(lab.Machine6), at(lab.Tunnel6)}},
	}
}

// talk makes a program do all that programs do: a TCP connection, a UDP question and a question to a name server, over
// IPv4 and IPv6, and sees to it that the other end knows it by the address of its side.
func (p part) talk(ctx context.Context, a *actor.Actor) error {
	ctx, cancel := context.WithTimeout(ctx, talkLimit)
	defer cancel()
	for _, f := range families() {
		to := netip.AddrPortFrom(f.server, p.port)
		for _, speak := range []func(context.Context, *actor.Actor, netip.AddrPort) (string, error){askTCP, askUDP, askDNS} {
			seen, err := speak(ctx, a, to)
			if err != nil {
				return fmt.Errorf("%s: talk to %v: %w", p.row, to, err)
			}
			if seen != f.own[p.side].String() {
				return fmt.Errorf("%s: %v sees it come from %s, which is not the %v's address: %w", p.row, to, seen, p.side, errWrong)
			}
		}
	}
	return nil
}

// connect opens a connection and leaves it open.
func (p part) connect(ctx context.Context, a *actor.Actor) (actor.Socket, error) {
	ctx, cancel := context.WithTimeout(ctx, talkLimit)
	defer cancel()
	conn, err := a.Open(ctx, actor.TCP, netip.AddrPortFrom(families()[0].server, p.port))
	if err != nil {
		return -1, err
	}
	_, err = a.Receive(ctx, conn) // the service speaks first
	return conn, err
}

// overWith fails unless a connection has been closed.
func (p part) overWith(ctx context.Context, a *actor.Actor, conn actor.Socket) error {
	err := a.SendOn(ctx, conn, netip.AddrPort{})
	if !errors.Is(err, unix.ECONNABORTED) && !errors.Is(err, unix.EPIPE) {
		return fmt.Errorf("%s: sending on an old connection: %v, expected that it is closed: %w", p.row, err, errWrong)
	}
	return a.CloseSocket(ctx, conn)
}

// askTCP asks the service over TCP where it comes from, and closes in good order: the service's last word is heard.
func askTCP(ctx context.Context, a *actor.Actor, to netip.AddrPort) (string, error) {
	s, err := a.Open(ctx, actor.TCP, to)
	if err != nil {
		return "", err
	}
	answer, err := a.Receive(ctx, s)
	return address(answer), errors.Join(err, a.CloseSocket(ctx, s))
}

// askUDP asks the service over UDP.
func askUDP(ctx context.Context, a *actor.Actor, to netip.AddrPort) (string, error) {
	s, err := a.Open(ctx, actor.UDPConnected, to)
	if err != nil {
		return "", err
	}
	err = a.SendOn(ctx, s, netip.AddrPort{})
	var answer []byte
	if err == nil {
		answer, err = a.Receive(ctx, s)
	}
	return address(answer), errors.Join(err, a.CloseSocket(ctx, s))
}

// address is the first line of a service's answer, without the port.
func address(answer []byte) string {
	line, _, _ := strings.Cut(string(answer), "\n")
	from, err := netip.ParseAddrPort(line)
	if err != nil {
		return ""
	}
	return from.Addr().String()
}

// askDNS asks the name server at to's address, from to's port.
func askDNS(ctx context.Context, a *actor.Actor, to netip.AddrPort) (seen string, err error) {
	question, err := new(dns.Msg).SetQuestion("whoami.test.", dns.TypeTXT).Pack()
	if err != nil {
		return "", err
	}
	s, err := a.Socket(ctx, to, unix.SOCK_DGRAM)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, a.CloseSocket(ctx, s)) }()
	anyAddr := netip.IPv6Unspecified()
	if to.Addr().Is4() {
		anyAddr = netip.IPv4Unspecified()
	}
	if err := a.Bind(ctx, s, netip.AddrPortFrom(anyAddr, to.Port())); err != nil {
		return "", err
	}
	if err := a.ConnectSocket(ctx, s, netip.AddrPortFrom(to.Addr(), dnsPort)); err != nil {
		return "", err
	}
	if _, err := a.Syscall(ctx, unix.SYS_SENDTO, int(s), question, len(question), 0, 0, 0); err != nil {
		return "", err
	}
	packed, err := a.Receive(ctx, s)
	if err != nil {
		return "", err
	}
	var answer dns.Msg
	if err := answer.Unpack(packed); err != nil {
		return "", fmt.Errorf("read the name server's answer: %w", err)
	}
	for _, rr := range answer.Answer {
		if txt, ok := rr.(*dns.TXT); ok && len(txt.Txt) > 0 {
			return txt.Txt[0], nil
		}
	}
	return "", errors.New("the name server did not answer the question")
}

// freshStarts is how often a program is started from nothing.
const freshStarts = 200

// startAfresh starts the program at path again and again. Each sends one datagram with its first instructions.
func (p part) startAfresh(ctx context.Context, starter *actor.Actor, path string) error {
	ctx, cancel := context.WithTimeout(ctx, talkLimit)
	defer cancel()
	for _, f := range families() {
		args := append([]string{path}, actor.ProbeArgs(actor.ProbeUDP, netip.AddrPortFrom(f.server, p.port), 1)...)
		good, err := starter.Storm(ctx, actor.Storm{
			Count: freshStarts / 2, Width: 8, Image: &actor.Image{Path: path, Args: args},
		})
		if err != nil {
			return err
		}
		if good != freshStarts/2 {
			return fmt.Errorf("%s: of %d starts %d could not send", p.row, freshStarts/2, freshStarts/2-good)
		}
	}
	return nil
}
