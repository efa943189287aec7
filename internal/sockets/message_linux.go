package sockets

import (
	"bytes"
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Layout of linux/inet_diag.h: a socket id is ports, addresses and link (the name), then the cookie; an answer is four
// bytes, of which the first is the family, and then the id.
const (
	nameLen       = 2 + 2 + 16 + 16 + 4
	idLen         = nameLen + 8
	requestLen    = 8 + idLen
	answerHeadLen = 4
	noCookie      = ^uint64(0)
)

// request encodes a struct inet_diag_req_v2 that asks for the socket of f, in any of the given states.
func (f Flow) request(states uint32) []byte {
	b := make([]byte, 0, requestLen)
	b = append(b, f.family(), f.Protocol, 0, 0)
	b = binary.NativeEndian.AppendUint32(b, states)
	return append(b, f.id()...)
}

// id encodes a struct inet_diag_sockid.
func (f Flow) id() []byte {
	b := make([]byte, 0, idLen)
	b = binary.BigEndian.AppendUint16(b, f.Local.Port())
	b = binary.BigEndian.AppendUint16(b, f.Remote.Port())
	for _, addr := range []netip.Addr{f.Local.Addr(), f.Remote.Addr()} {
		var padded [16]byte
		copy(padded[:], addr.AsSlice())
		b = append(b, padded[:]...)
	}
	b = binary.NativeEndian.AppendUint32(b, uint32(f.Link))
	cookie := f.Cookie
	if cookie == 0 {
		cookie = noCookie
	}
	b = binary.NativeEndian.AppendUint32(b, uint32(cookie))
	return binary.NativeEndian.AppendUint32(b, uint32(cookie>>32))
}

// cookieIn returns the cookie in a struct inet_diag_msg if that describes the socket of f, and not another that would
// get the flow's packets.
func (f Flow) cookieIn(answer []byte) (uint64, bool) {
	if len(answer) < answerHeadLen+idLen || answer[0] != f.family() {
		return 0, false
	}
	id := answer[answerHeadLen:][:idLen]
	if !bytes.Equal(id[:nameLen], f.id()[:nameLen]) {
		return 0, false
	}
	low, high := binary.NativeEndian.Uint32(id[nameLen:]), binary.NativeEndian.Uint32(id[nameLen+4:])
	return uint64(high)<<32 | uint64(low), true
}

func (f Flow) family() uint8 {
	if f.Local.Addr().Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// question is f as the kernel wants it in a question: that about UDP it takes for the ends of a packet that arrives.
func (f Flow) question() Flow {
	if f.Protocol == unix.IPPROTO_UDP {
		f.Local, f.Remote = f.Remote, f.Local
	}
	return f
}
