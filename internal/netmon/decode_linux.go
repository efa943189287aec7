package netmon

import (
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"net/netip"

	"golang.org/x/sys/unix"
)

// errShort is what a message that ends too early gives.
var errShort = errors.New("message too short")

// Lengths and attribute numbers that golang.org/x/sys/unix does not name (linux/netconf.h, linux/rtnetlink.h).
const (
	netconfHeaderLen = 4 // struct netconfmsg is one byte, and padded
	netconfIfindex   = 1
	netconfRPFilter  = 3
	netconfAll       = -1 // the ifindex that means conf.all
	ruleInvert       = 0x2
	maskAttrType     = 0x3fff // without NLA_F_NESTED and NLA_F_NET_BYTEORDER
)

// attributes yields the type and value of each attribute in b and stops at the first that does not fit.
func attributes(b []byte) iter.Seq2[uint16, []byte] {
	return func(yield func(uint16, []byte) bool) {
		for len(b) >= unix.SizeofRtAttr {
			n := int(binary.NativeEndian.Uint16(b))
			if n < unix.SizeofRtAttr || n > len(b) {
				return
			}
			if !yield(binary.NativeEndian.Uint16(b[2:])&maskAttrType, b[unix.SizeofRtAttr:n]) {
				return
			}
			b = b[min((n+unix.RTA_ALIGNTO-1)&^(unix.RTA_ALIGNTO-1), len(b)):]
		}
	}
}

func decodeLink(m []byte) (Link, error) {
	if len(m) < unix.SizeofIfInfomsg {
		return Link{}, fmt.Errorf("decode link: %w", errShort)
	}
	flags := binary.NativeEndian.Uint32(m[8:])
	l := Link{
		Index:        int(int32(binary.NativeEndian.Uint32(m[4:]))),
		Up:           flags&unix.IFF_UP != 0,
		Running:      flags&unix.IFF_RUNNING != 0,
		Loopback:     flags&unix.IFF_LOOPBACK != 0,
		PointToPoint: flags&unix.IFF_POINTOPOINT != 0,
	}
	for t, v := range attributes(m[unix.SizeofIfInfomsg:]) {
		switch t {
		case unix.IFLA_IFNAME:
			l.Name = text(v)
		case unix.IFLA_MTU:
			l.MTU = int(number(v))
		case unix.IFLA_MASTER:
			l.Master = int(number(v))
		case unix.IFLA_LINKINFO:
			for t, v := range attributes(v) {
				if t == unix.IFLA_INFO_KIND {
					l.Kind = text(v)
				}
			}
		}
	}
	return l, nil
}

func decodeAddr(m []byte) (Addr, error) {
	if len(m) < unix.SizeofIfAddrmsg {
		return Addr{}, fmt.Errorf("decode address: %w", errShort)
	}
	var local, address netip.Addr
	flags := uint32(m[2])
	for t, v := range attributes(m[unix.SizeofIfAddrmsg:]) {
		switch t {
		case unix.IFA_LOCAL:
			local, _ = netip.AddrFromSlice(v)
		case unix.IFA_ADDRESS:
			address, _ = netip.AddrFromSlice(v)
		case unix.IFA_FLAGS:
			flags = number(v)
		}
	}
	a := Addr{
		Link:      int(binary.NativeEndian.Uint32(m[4:])),
		Tentative: flags&unix.IFA_F_TENTATIVE != 0,
	}
	switch {
	case !local.IsValid():
		local = address // IPv6 without a peer has only this one
	case local != address:
		a.Peer = address
	}
	a.Prefix = netip.PrefixFrom(local, int(m[1]))
	return a, nil
}

func decodeRule(m []byte) (Rule, error) {
	if len(m) < unix.SizeofRtMsg {
		return Rule{}, fmt.Errorf("decode rule: %w", errShort)
	}
	r := Rule{
		Family:            family(m[0]),
		Table:             uint32(m[4]),
		Action:            RuleAction(m[7]),
		Invert:            binary.NativeEndian.Uint32(m[8:])&ruleInvert != 0,
		SuppressPrefixLen: -1,
		Narrow:            m[3] != 0,
	}
	for t, v := range attributes(m[unix.SizeofRtMsg:]) {
		r.set(t, v, m)
	}
	return r, nil
}

func (r *Rule) set(t uint16, v, m []byte) {
	switch t {
	case unix.FRA_DST:
		r.Dst = prefix(v, m[1])
	case unix.FRA_SRC:
		r.Src = prefix(v, m[2])
	case unix.FRA_IIFNAME:
		r.IIF = text(v)
	case unix.FRA_OIFNAME:
		r.OIF = text(v)
	case unix.FRA_GOTO:
		r.Target = number(v)
	case unix.FRA_PRIORITY:
		r.Priority = number(v)
	case unix.FRA_FWMARK:
		r.Mark = number(v)
	case unix.FRA_FWMASK:
		r.Mask = number(v)
	case unix.FRA_TABLE:
		r.Table = number(v)
	case unix.FRA_SUPPRESS_PREFIXLEN:
		r.SuppressPrefixLen = int(int32(number(v)))
	case unix.FRA_L3MDEV:
		r.L3MDev = len(v) > 0 && v[0] != 0
	case unix.FRA_PROTOCOL:
		if len(v) > 0 {
			r.Protocol = v[0]
		}
	case unix.FRA_TUN_ID, unix.FRA_UID_RANGE, unix.FRA_IP_PROTO, unix.FRA_SPORT_RANGE, unix.FRA_DPORT_RANGE:
		r.Narrow = true
	}
}

func decodeRoute(m []byte) (Route, error) {
	if len(m) < unix.SizeofRtMsg {
		return Route{}, fmt.Errorf("decode route: %w", errShort)
	}
	fam := family(m[0])
	r := Route{
		Dst: prefix(fam.Default().Addr().AsSlice(), m[1]), TOS: m[3], Table: uint32(m[4]), Protocol: m[5],
		Scope: m[6], Type: RouteType(m[7]),
	}
	nh := Nexthop{Weight: 1}
	nh.setFlags(binary.NativeEndian.Uint32(m[8:]))
	for t, v := range attributes(m[unix.SizeofRtMsg:]) {
		switch t {
		case unix.RTA_DST:
			r.Dst = prefix(v, m[1])
		case unix.RTA_SRC:
			r.From = prefix(v, m[2])
		case unix.RTA_PREFSRC:
			r.Src, _ = netip.AddrFromSlice(v)
		case unix.RTA_PRIORITY:
			r.Metric = number(v)
		case unix.RTA_TABLE:
			r.Table = number(v)
		case unix.RTA_METRICS:
			r.Metrics = string(v)
		case unix.RTA_PREF:
			r.Pref = preference(v)
		case unix.RTA_MULTIPATH:
			r.Nexthops = decodeNexthops(v)
		default:
			r.Encap = nh.set(t, v) || r.Encap
		}
	}
	// A refusal names lo in IPv6, and means nothing by it.
	if len(r.Nexthops) == 0 && r.Type < Blackhole && nh.OIF != 0 {
		r.Nexthops = []Nexthop{nh}
	}
	return r, nil
}

// set reports whether the attribute means that packets are wrapped.
func (n *Nexthop) set(t uint16, v []byte) (encap bool) {
	switch t {
	case unix.RTA_OIF:
		n.OIF = int(number(v))
	case unix.RTA_GATEWAY:
		n.Gateway, _ = netip.AddrFromSlice(v)
	case unix.RTA_VIA: // two bytes of family, then the address
		if len(v) > 2 {
			n.Gateway, _ = netip.AddrFromSlice(v[2:])
		}
	case unix.RTA_ENCAP:
		return true
	}
	return false
}

func (n *Nexthop) setFlags(flags uint32) {
	n.OnLink = flags&unix.RTNH_F_ONLINK != 0
	n.Dead = flags&unix.RTNH_F_DEAD != 0
}

func decodeNexthops(b []byte) []Nexthop {
	var all []Nexthop
	for len(b) >= unix.SizeofRtNexthop {
		n := int(binary.NativeEndian.Uint16(b))
		if n < unix.SizeofRtNexthop || n > len(b) {
			break
		}
		nh := Nexthop{OIF: int(binary.NativeEndian.Uint32(b[4:])), Weight: int(b[3]) + 1}
		nh.setFlags(uint32(b[2]))
		for t, v := range attributes(b[unix.SizeofRtNexthop:n]) {
			nh.set(t, v)
		}
		all = append(all, nh)
		b = b[min((n+unix.RTNH_ALIGNTO-1)&^(unix.RTNH_ALIGNTO-1), len(b)):]
	}
	return all
}

// decodeRPFilter returns the index of a link, or [netconfAll], and its rp_filter; ok is false without both.
func decodeRPFilter(m []byte) (index, value int, ok bool) {
	if len(m) < netconfHeaderLen {
		return 0, 0, false
	}
	for t, v := range attributes(m[netconfHeaderLen:]) {
		switch t {
		case netconfIfindex:
			index = int(int32(number(v)))
		case netconfRPFilter:
			value, ok = int(int32(number(v))), true
		}
	}
	return index, value, ok && index != 0
}

func family(af byte) Family {
	switch af {
	case unix.AF_INET:
		return IPv4
	case unix.AF_INET6:
		return IPv6
	}
	return 0
}

// prefix is invalid if the address has no length that an address can have.
func prefix(addr []byte, bits byte) netip.Prefix {
	a, _ := netip.AddrFromSlice(addr)
	return netip.PrefixFrom(a, int(bits))
}

// preference decodes the two bits of RFC 4191: 01 high, 00 medium, 11 low.
func preference(v []byte) int8 {
	switch {
	case len(v) == 0:
		return 0
	case v[0] == 1:
		return 1
	case v[0] == 3:
		return -1
	}
	return 0
}

// number is 0 for anything but four bytes.
func number(v []byte) uint32 {
	if len(v) != 4 {
		return 0
	}
	return binary.NativeEndian.Uint32(v)
}

// text drops the terminating zero.
func text(v []byte) string { return unix.ByteSliceToString(v) }
