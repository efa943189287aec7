package route

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"sidestep/internal/netmon"
)

// A conn sends requests to the kernel, in the network namespace of the thread that opened it.
type conn struct {
	sockets  map[int]*nl.SocketHandle
	requests int // each is a change
}

func dial() (*conn, error) {
	s, err := nl.Subscribe(unix.NETLINK_ROUTE) // to no group: a plain socket
	if err != nil {
		return nil, fmt.Errorf("open netlink socket: %w", err)
	}
	_ = s.SetExtAck(true) // a reason in words, where the kernel gives one
	return &conn{sockets: map[int]*nl.SocketHandle{unix.NETLINK_ROUTE: {Socket: s}}}, nil
}

func (c *conn) close() { c.sockets[unix.NETLINK_ROUTE].Close() }

// request sends one message and waits for the kernel to say that it is done.
func (c *conn) request(kind, flags uint16, body []byte) error {
	req := nl.NetlinkRequest{Sockets: c.sockets, RawData: body}
	req.Type = kind
	req.Flags = unix.NLM_F_REQUEST | unix.NLM_F_ACK | flags
	c.requests++
	_, err := req.Execute(unix.NETLINK_ROUTE, 0)
	return err
}

// addRoute puts a route beside those of the same key, behind them in IPv4.
func (c *conn) addRoute(r netmon.Route) error {
	flags := uint16(unix.NLM_F_CREATE)
	if r.Family() == netmon.IPv4 {
		flags |= unix.NLM_F_APPEND
	}
	return c.create(unix.RTM_NEWROUTE, flags, routeMessage(r))
}

// replaceRoute puts a route in the place of the one of the same key.
func (c *conn) replaceRoute(r netmon.Route) error {
	return c.request(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, routeMessage(r))
}

func (c *conn) deleteRoute(r netmon.Route) error {
	return c.remove(unix.RTM_DELROUTE, routeMessage(r))
}

func (c *conn) addRule(r netmon.Rule) error {
	return c.create(unix.RTM_NEWRULE, unix.NLM_F_CREATE|unix.NLM_F_EXCL, ruleMessage(r))
}

func (c *conn) deleteRule(r netmon.Rule) error {
	return c.remove(unix.RTM_DELRULE, ruleMessage(r))
}

// create is content if what is wanted is there already.
func (c *conn) create(kind, flags uint16, body []byte) error {
	if err := c.request(kind, flags, body); !errors.Is(err, unix.EEXIST) {
		return err
	}
	return nil
}

// remove is content if what is not wanted is gone already.
func (c *conn) remove(kind uint16, body []byte) error {
	if err := c.request(kind, 0, body); !errors.Is(err, unix.ESRCH) && !errors.Is(err, unix.ENOENT) {
		return err
	}
	return nil
}

// routeMessage is the body of RTM_NEWROUTE and RTM_DELROUTE.
func routeMessage(r netmon.Route) []byte {
	m := header(r.Family(), r.Dst.Bits(), r.TOS, r.Protocol, r.Scope, uint8(r.Type))
	m = attribute32(m, unix.RTA_TABLE, r.Table)
	if r.Dst.Bits() > 0 {
		m = attribute(m, unix.RTA_DST, r.Dst.Addr().AsSlice())
	}
	if r.Metric != 0 {
		m = attribute32(m, unix.RTA_PRIORITY, r.Metric)
	}
	if r.Src.IsValid() {
		m = attribute(m, unix.RTA_PREFSRC, r.Src.AsSlice())
	}
	if r.Metrics != "" {
		m = attribute(m, unix.RTA_METRICS, []byte(r.Metrics))
	}
	if r.Pref != 0 {
		m = attribute(m, unix.RTA_PREF, []byte{uint8(r.Pref) & 3})
	}
	switch len(r.Nexthops) {
	case 0:
	case 1:
		binary.NativeEndian.PutUint32(m[8:], uint32(nexthopFlags(r.Nexthops[0]))) // rtm_flags
		m = attribute32(m, unix.RTA_OIF, uint32(r.Nexthops[0].OIF))
		m = gateway(m, r.Family(), r.Nexthops[0])
	default:
		m = attribute(m, unix.RTA_MULTIPATH, nexthops(r))
	}
	return m
}

// nexthops is an array of struct rtnexthop with attributes.
func nexthops(r netmon.Route) []byte {
	var all []byte
	for _, nh := range r.Nexthops {
		at := len(all)
		all = append(all, 0, 0, nexthopFlags(nh), uint8(nh.Weight-1))
		all = binary.NativeEndian.AppendUint32(all, uint32(nh.OIF))
		all = gateway(all, r.Family(), nh)
		binary.NativeEndian.PutUint16(all[at:], uint16(len(all)-at))
	}
	return all
}

func nexthopFlags(nh netmon.Nexthop) uint8 {
	if nh.OnLink {
		return unix.RTNH_F_ONLINK
	}
	return 0
}

func gateway(m []byte, fam netmon.Family, nh netmon.Nexthop) []byte {
	switch {
	case !nh.Gateway.IsValid():
		return m
	case netmon.FamilyOf(nh.Gateway) == fam:
		return attribute(m, unix.RTA_GATEWAY, nh.Gateway.AsSlice())
	}
	via := binary.NativeEndian.AppendUint16(nil, uint16(addressFamily(netmon.FamilyOf(nh.Gateway))))
	return attribute(m, unix.RTA_VIA, append(via, nh.Gateway.AsSlice()...))
}

// ruleMessage is the body of RTM_NEWRULE and RTM_DELRULE; it knows the fields that our rules have.
func ruleMessage(r netmon.Rule) []byte {
	m := header(r.Family, 0, 0, 0, 0, uint8(r.Action))
	m = attribute32(m, unix.FRA_PRIORITY, r.Priority)
	m = attribute32(m, unix.FRA_FWMARK, r.Mark)
	m = attribute32(m, unix.FRA_FWMASK, r.Mask)
	if r.Table != 0 {
		m = attribute32(m, unix.FRA_TABLE, r.Table)
	}
	return attribute(m, unix.FRA_PROTOCOL, []byte{r.Protocol})
}

// header is a struct rtmsg, or the struct fib_rule_hdr of the same shape. Tables have an attribute.
func header(fam netmon.Family, dstLen int, tos, protocol, scope, kind uint8) []byte {
	h := []byte{addressFamily(fam), uint8(dstLen), 0, tos, unix.RT_TABLE_UNSPEC, protocol, scope, kind}
	return binary.NativeEndian.AppendUint32(h, 0) // flags
}

func addressFamily(fam netmon.Family) uint8 {
	if fam == netmon.IPv6 {
		return unix.AF_INET6
	}
	return unix.AF_INET
}

// attribute appends a struct rtattr, its value and the padding that aligns what comes next.
func attribute(m []byte, kind uint16, value []byte) []byte {
	m = binary.NativeEndian.AppendUint16(m, uint16(unix.SizeofRtAttr+len(value)))
	m = binary.NativeEndian.AppendUint16(m, kind)
	m = append(m, value...)
	return append(m, make([]byte, -len(m)&(unix.RTA_ALIGNTO-1))...)
}

func attribute32(m []byte, kind uint16, value uint32) []byte {
	return attribute(m, kind, binary.NativeEndian.AppendUint32(nil, value))
}
