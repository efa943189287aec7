package netmon

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// ErrUnsettled means that what was being listed changed again and again while it was listed.
var ErrUnsettled = errors.New("network state changes too fast to be listed")

// dumpTries is how often an interrupted listing is started over. Only links, addresses and rules are ever
// interrupted, and those are short lists.
const dumpTries = 8

// skipStatistics (RTEXT_FILTER_SKIP_STATS) halves the size of a list of links.
const skipStatistics = 1 << 3

// A Reader lists what the network namespace holds that it was opened in, whichever thread asks.
type Reader struct {
	sockets map[int]*nl.SocketHandle
}

// OpenReader opens a reader in the network namespace of the calling thread.
func OpenReader() (*Reader, error) {
	s, err := nl.Subscribe(unix.NETLINK_ROUTE) // to no group: a plain socket of this thread's namespace
	if err != nil {
		return nil, fmt.Errorf("open netlink socket: %w", err)
	}
	// With strict checking the kernel filters by table. Where it does not know how, decoding does.
	_ = unix.SetsockoptInt(s.GetFd(), unix.SOL_NETLINK, unix.NETLINK_GET_STRICT_CHK, 1)
	r := &Reader{sockets: map[int]*nl.SocketHandle{unix.NETLINK_ROUTE: {Socket: s}}}
	if x, err := nl.Subscribe(unix.NETLINK_XFRM); err == nil { // without IPsec there are none
		r.sockets[unix.NETLINK_XFRM] = &nl.SocketHandle{Socket: x}
	}
	return r, nil
}

// Close gives the sockets back.
func (r *Reader) Close() error {
	for _, s := range r.sockets {
		s.Close()
	}
	return nil
}

// Snapshot lists everything. Its parts are taken one after the other; whoever needs them to agree with each
// other subscribes first, as [Monitor] does, and looks again after a change.
func (r *Reader) Snapshot() (Snapshot, error) {
	var s Snapshot
	var err error
	if s.Links, err = r.Links(); err != nil {
		return Snapshot{}, err
	}
	if err = r.rpFilters(&s); err != nil {
		return Snapshot{}, err
	}
	for _, fam := range []Family{IPv4, IPv6} {
		addrs, err := r.addrs(fam)
		if err != nil {
			return Snapshot{}, err
		}
		routes, err := r.Routes(fam, 0)
		if err != nil {
			return Snapshot{}, err
		}
		rules, err := r.Rules(fam)
		if err != nil {
			return Snapshot{}, err
		}
		s.Addrs = append(s.Addrs, addrs...)
		s.Routes = append(s.Routes, routes...)
		s.Rules = append(s.Rules, rules...)
	}
	if s.Policies, err = r.policies(); err != nil {
		return Snapshot{}, err
	}
	s.sort()
	return s, nil
}

// Rules lists the rules of a family.
func (r *Reader) Rules(fam Family) ([]Rule, error) {
	head := make([]byte, unix.SizeofRtMsg)
	head[0] = fam.linux()
	msgs, err := r.dump(unix.RTM_GETRULE, unix.RTM_NEWRULE, head)
	if err != nil {
		return nil, fmt.Errorf("list %s rules: %w", fam, err)
	}
	return decodeAll(msgs, head[0], decodeRule)
}

// Routes lists the routes of a family in one table, or in all tables if table is 0.
func (r *Reader) Routes(fam Family, table uint32) ([]Route, error) {
	body := make([]byte, unix.SizeofRtMsg)
	body[0] = fam.linux()
	if table != 0 {
		body = binary.NativeEndian.AppendUint16(body, 8)
		body = binary.NativeEndian.AppendUint16(body, unix.RTA_TABLE)
		body = binary.NativeEndian.AppendUint32(body, table)
	}
	msgs, err := r.dump(unix.RTM_GETROUTE, unix.RTM_NEWROUTE, body)
	if errors.Is(err, unix.ENOENT) { // asked for by number, a table without routes does not exist
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list %s routes: %w", fam, err)
	}
	kept := msgs[:0]
	for _, m := range msgs {
		if len(m) >= unix.SizeofRtMsg && binary.NativeEndian.Uint32(m[8:])&unix.RTM_F_CLONED == 0 {
			kept = append(kept, m)
		}
	}
	routes, err := decodeAll(kept, fam.linux(), decodeRoute)
	if table == 0 || err != nil {
		return routes, err
	}
	of := routes[:0]
	for _, route := range routes {
		if route.Table == table {
			of = append(of, route)
		}
	}
	return of, nil
}

// Links lists the links, without [Link.RPFilter].
func (r *Reader) Links() ([]Link, error) {
	body := make([]byte, unix.SizeofIfInfomsg)
	body = binary.NativeEndian.AppendUint16(body, 8)
	body = binary.NativeEndian.AppendUint16(body, unix.IFLA_EXT_MASK)
	body = binary.NativeEndian.AppendUint32(body, skipStatistics)
	msgs, err := r.dump(unix.RTM_GETLINK, unix.RTM_NEWLINK, body)
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	return decodeAll(msgs, unix.AF_UNSPEC, decodeLink)
}

func (r *Reader) addrs(fam Family) ([]Addr, error) {
	head := make([]byte, unix.SizeofIfAddrmsg)
	head[0] = fam.linux()
	msgs, err := r.dump(unix.RTM_GETADDR, unix.RTM_NEWADDR, head)
	if err != nil {
		return nil, fmt.Errorf("list %s addresses: %w", fam, err)
	}
	return decodeAll(msgs, head[0], decodeAddr)
}

// rpFilters asks over netlink, because a file below /proc/sys/net shows the namespace of the thread that opens it.
func (r *Reader) rpFilters(s *Snapshot) error {
	head := make([]byte, netconfHeaderLen)
	head[0] = unix.AF_INET
	msgs, err := r.dump(unix.RTM_GETNETCONF, unix.RTM_NEWNETCONF, head)
	if err != nil {
		return fmt.Errorf("list rp_filter: %w", err)
	}
	of := make(map[int]int, len(msgs))
	for _, m := range msgs {
		if index, value, ok := decodeRPFilter(m); ok {
			of[index] = value
		}
	}
	s.RPFilterAll = of[netconfAll]
	for i := range s.Links {
		s.Links[i].RPFilter = of[s.Links[i].Index]
	}
	return nil
}

// policies lists the IPsec policies that wrap what this machine sends; none if there is no IPsec or we may not ask.
func (r *Reader) policies() ([]Policy, error) {
	if r.sockets[unix.NETLINK_XFRM] == nil {
		return nil, nil
	}
	msgs, err := r.dumpFrom(unix.NETLINK_XFRM, nl.XFRM_MSG_GETPOLICY, nl.XFRM_MSG_NEWPOLICY, nil)
	if errors.Is(err, unix.EPERM) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list IPsec policies: %w", err)
	}
	var all []Policy
	for _, m := range msgs {
		if p, ok := decodePolicy(m); ok {
			all = append(all, p)
		}
	}
	return all, nil
}

// dump asks for links, addresses, routes, rules or their settings.
func (r *Reader) dump(request, answer uint16, body []byte) ([][]byte, error) {
	return r.dumpFrom(unix.NETLINK_ROUTE, request, answer, body)
}

// dumpFrom sends one request and returns the answers of the wanted type, without their netlink headers.
func (r *Reader) dumpFrom(subsystem int, request, answer uint16, body []byte) ([][]byte, error) {
	for range dumpTries {
		req := nl.NetlinkRequest{Sockets: r.sockets, RawData: body}
		req.Type = request
		req.Flags = unix.NLM_F_REQUEST | unix.NLM_F_DUMP
		msgs, err := req.Execute(subsystem, answer)
		if !errors.Is(err, nl.ErrDumpInterrupted) {
			return msgs, err
		}
	}
	return nil, ErrUnsettled
}

// decodeAll decodes the messages of one family; a kernel without that family answers with another's.
func decodeAll[T any](msgs [][]byte, af byte, decode func([]byte) (T, error)) ([]T, error) {
	all := make([]T, 0, len(msgs))
	for _, m := range msgs {
		if af != unix.AF_UNSPEC && len(m) > 0 && m[0] != af {
			continue
		}
		v, err := decode(m)
		if err != nil {
			return nil, err
		}
		all = append(all, v)
	}
	return all, nil
}

func (f Family) linux() byte {
	if f == IPv6 {
		return unix.AF_INET6
	}
	return unix.AF_INET
}
