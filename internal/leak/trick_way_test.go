package leak_test

import (
	"encoding/binary"
	"errors"
	"net/netip"

	"golang.org/x/sys/unix"
)

// A way is what a program does with a socket to have its packets leave by a door.
type way struct {
	name    string
	prepare func(*try) error
	// refusal is the error that an excluded program gets for it; nil: it does not matter which, or whether.
	refusal func(k kind) error
	only6   bool
}

// applies reports whether there is such a way for this kind of socket.
func (w way) applies(f speech, k kind) bool {
	return (k.mapped || !f.mapped) && (!w.only6 || f.i == 1)
}

// plain is to do nothing: the system's routes lead an included program there.
var plain = way{name: "nothing", prepare: func(*try) error { return nil }}

var ways = []way{
	plain,
	{name: "SO_BINDTODEVICE", prepare: (*try).bindToDevice, refusal: refusedLink},
	{name: "SO_BINDTOIFINDEX", prepare: (*try).bindToIndex, refusal: refusedLink},
	{name: "IP_UNICAST_IF", prepare: (*try).unicastIf},
	{name: "IP_PKTINFO with the link", prepare: (*try).infoLink},
	{name: "IP_PKTINFO with the address", prepare: (*try).infoAddr, refusal: refusedSource},
	{name: "IPV6_PKTINFO for good", prepare: (*try).infoForGood, only6: true},
	{name: "bind", prepare: (*try).bind, refusal: refusedBind},
	{name: "bind with IP_FREEBIND", prepare: (*try).freeBind, refusal: refusedBind},
	{name: "bind with IP_TRANSPARENT", prepare: (*try).transparentBind, refusal: refusedBind},
	{name: "SO_MARK 0", prepare: func(t *try) error { return t.setMark(0) }},
	{name: "SO_MARK of a rule", prepare: func(t *try) error { return t.setMark(t.by.mark) }},
}

func refusedLink(k kind) error {
	if k.connects {
		return unix.ENETUNREACH
	}
	return nil
}

func refusedSource(k kind) error {
	if k.bindable && !k.connects {
		return unix.EPERM
	}
	return nil
}

func refusedBind(k kind) error {
	if k.bindable {
		return unix.EADDRNOTAVAIL
	}
	return nil
}

func (t *try) bindToDevice() error {
	return t.a.SetSocketOption(t.ctx, t.s, unix.SOL_SOCKET, unix.SO_BINDTODEVICE, []byte(t.by.link))
}

func (t *try) bindToIndex() error {
	index := binary.NativeEndian.AppendUint32(nil, uint32(t.by.index))
	return t.a.SetSocketOption(t.ctx, t.s, unix.SOL_SOCKET, unix.SO_BINDTOIFINDEX, index)
}

func (t *try) unicastIf() error {
	index := binary.BigEndian.AppendUint32(nil, uint32(t.by.index))
	return t.set(unix.IP_UNICAST_IF, unix.IPV6_UNICAST_IF, index)
}

func (t *try) infoLink() error {
	t.control = t.info(netip.Addr{}, t.by.index)
	return nil
}

func (t *try) infoAddr() error {
	t.control = t.info(t.by.addrs[t.i], 0)
	return nil
}

// info is the control message that names an address or a link.
func (t *try) info(src netip.Addr, index int) []byte {
	if t.domain == unix.AF_INET {
		p := unix.Inet4Pktinfo{Ifindex: int32(index)}
		if src.IsValid() {
			p.Spec_dst = src.As4()
		}
		return unix.PktInfo4(&p)
	}
	p := unix.Inet6Pktinfo{Ifindex: uint32(index)}
	if t.mapped && !src.IsValid() {
		src = netip.IPv4Unspecified()
	}
	if src.IsValid() {
		p.Addr = src.As16()
	}
	return unix.PktInfo6(&p)
}

func (t *try) infoForGood() error {
	src := t.by.addrs[t.i].As16()
	value := binary.NativeEndian.AppendUint32(src[:], uint32(t.by.index))
	return t.a.SetSocketOption(t.ctx, t.s, unix.SOL_IPV6, unix.IPV6_PKTINFO, value)
}

func (t *try) bind() error { return t.a.Bind(t.ctx, t.s, t.addr(t.by.addrs[t.i], 0)) }

func (t *try) freeBind() error {
	on := binary.NativeEndian.AppendUint32(nil, 1)
	return errors.Join(t.set(unix.IP_FREEBIND, unix.IPV6_FREEBIND, on), t.bind())
}

func (t *try) transparentBind() error {
	on := binary.NativeEndian.AppendUint32(nil, 1)
	return errors.Join(t.set(unix.IP_TRANSPARENT, unix.IPV6_TRANSPARENT, on), t.bind())
}

func (t *try) setMark(mark uint32) error {
	value := binary.NativeEndian.AppendUint32(nil, mark)
	return t.a.SetSocketOption(t.ctx, t.s, unix.SOL_SOCKET, unix.SO_MARK, value)
}

// set sets an option for the address family, which has a number for each.
func (t *try) set(v4, v6 int, value []byte) error {
	if t.i == 0 {
		return t.a.SetSocketOption(t.ctx, t.s, unix.SOL_IP, v4, value)
	}
	return t.a.SetSocketOption(t.ctx, t.s, unix.SOL_IPV6, v6, value)
}
