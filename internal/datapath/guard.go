package datapath

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"sidestep/internal/datapath/bpf"
)

// ErrStrict: strict mode needs a guard that can ask which network namespace a packet is in, so Linux 6.15.
var ErrStrict = errors.New("strict mode needs Linux 6.15 or later")

// A Network is what the guard has to know of the network.
type Network struct {
	// Links are those by which the packets of excluded programs may pass. Everything else the guard takes for a tunnel:
	// also links that appear later.
	Links []int
	// Closed are the other links: at their door packets are looked at that no socket hook sees.
	Closed []int
	// Uplink4 and Uplink6 are where groups are joined by excluded programs that name no link; 0 where there is none.
	Uplink4, Uplink6 int
	// Outside are this machine's addresses on links that are permitted, Inside those on others, Neutral those that tell no
	// side. What is nowhere now stays what it was: a link that comes back has its address before it is seen, and a connection
	// attempt that began with a tunnel's address repeats itself when the tunnel is gone.
	Outside, Inside, Neutral []netip.Addr
	// Local is where a socket may still send whose app has changed sides. Hosts may be reached outside in strict mode, too.
	Local, Hosts []netip.Prefix
	// Strict keeps included programs off the permitted links, but for Local and Hosts.
	Strict bool
}

// Permit makes the guard hold packets to a network. What is no longer permitted is forbidden before anything else is
// permitted.
func (d *Datapath) Permit(n Network) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := replace(d.objs.Links, linkRoles(n)); err != nil {
		return fmt.Errorf("tell the guard of links: %w", err)
	}
	if err := d.knowAddresses(n); err != nil {
		return fmt.Errorf("tell the guard of addresses: %w", err)
	}
	if err := replace(d.objs.Places, placeRoles(n)); err != nil {
		return fmt.Errorf("tell the guard what is local: %w", err)
	}
	if closed := slices.Clone(n.Closed); !slices.Equal(closed, d.closed) {
		if err := d.hush(); err != nil {
			return err
		}
		d.closed = closed
	}
	err := d.configure(func(c *bpf.DatapathConfig) {
		c.Strict = map[bool]uint32{true: 1}[n.Strict]
		c.Uplink4, c.Uplink6 = uint32(n.Uplink4), uint32(n.Uplink6)
	})
	if err != nil {
		return err
	}
	return d.guardDoors(n.Closed)
}

func linkRoles(n Network) map[uint32]uint32 {
	roles := map[uint32]uint32{}
	for _, l := range n.Links {
		roles[uint32(l)] = linkOutside
	}
	return roles
}

func (d *Datapath) knowAddresses(n Network) error {
	have, err := contents[[16]byte](d.objs.Addresses)
	if err != nil {
		return err
	}
	want := addressRoles(n)
	for a, role := range have {
		if _, ok := want[a]; !ok && !slices.Contains(n.Neutral, netip.AddrFrom16(a).Unmap()) {
			want[a] = role
		}
	}
	if err := drop(d.objs.Addresses, have, want); err != nil {
		return err
	}
	return put(d.objs.Addresses, have, want)
}

func addressRoles(n Network) map[[16]byte]uint32 {
	roles := map[[16]byte]uint32{}
	for _, a := range n.Outside {
		roles[a.As16()] = addressOutside
	}
	for _, a := range n.Inside {
		roles[a.As16()] = addressInside
	}
	return roles
}

func placeRoles(n Network) map[prefixKey]uint32 {
	roles := map[prefixKey]uint32{}
	for _, p := range n.Hosts {
		roles[keyOf(p)] = placeHost
	}
	for _, p := range n.Local {
		roles[keyOf(p)] = placeLocal
	}
	for _, a := range slices.Concat(n.Outside, n.Inside) {
		roles[keyOf(netip.PrefixFrom(a, a.BitLen()))] = placeLocal // loopback by another name
	}
	// What a socket may call this machine (RFC 1122, 3.2.1.3; RFC 4291, 2.5.2).
	roles[keyOf(netip.PrefixFrom(netip.IPv4Unspecified(), 32))] = placeLocal
	roles[keyOf(netip.PrefixFrom(netip.IPv6Unspecified(), 128))] = placeLocal
	return roles
}

// prefixKey is struct prefix of bpf/abi.h.
type prefixKey struct {
	Bits    uint32
	Address [16]byte
}

func keyOf(p netip.Prefix) prefixKey {
	bits := p.Bits()
	if p.Addr().Is4() {
		bits += 96 // as mapped into IPv6
	}
	return prefixKey{Bits: uint32(bits), Address: p.Masked().Addr().As16()}
}

// replace makes the map hold want. What is to go goes first: it is what must not be used.
func replace[K comparable](m *ebpf.Map, want map[K]uint32) error {
	have, err := contents[K](m)
	if err != nil {
		return err
	}
	if err := drop(m, have, want); err != nil {
		return err
	}
	return put(m, have, want)
}

// doorPin begins the names of the links to the doors of closed links.
const doorPin = "door-"

// CanBeStrict returns ErrStrict if strict mode cannot be had on this kernel.
func (d *Datapath) CanBeStrict() error {
	if d.asksNetns {
		return nil
	}
	return ErrStrict
}

// guardDoors attaches the door program to these links, and to no others. A kernel without tcx (before 6.6) has no such
// door; docs/limits.md says what passes then.
func (d *Datapath) guardDoors(indexes []int) error {
	wanted := map[string]bool{}
	for _, index := range indexes {
		name := fmt.Sprint(doorPin, index)
		wanted[name] = true
		if err := d.guardDoor(name, index); err != nil {
			return fmt.Errorf("guard the door of link %d: %w", index, err)
		}
	}
	held, err := d.heldLinks()
	if err != nil {
		return err
	}
	for _, name := range held {
		if !strings.HasPrefix(name, doorPin) || wanted[name] {
			continue
		}
		if err := d.dropLink(name); err != nil {
			return err
		}
	}
	return nil
}

// guardDoor guards one door, unless it is guarded already.
func (d *Datapath) guardDoor(name string, index int) error {
	if guarded, err := d.hasDoor(name); guarded || err != nil {
		return err
	}
	l, err := d.attachDoor(index)
	if errors.Is(err, ebpf.ErrNotSupported) || errors.Is(err, unix.ENODEV) {
		return nil // no such door; or the link is gone, of which the next network tells
	}
	if err != nil {
		return err
	}
	if err := d.hold(name, l); err != nil {
		return errors.Join(err, l.Close())
	}
	return nil
}

// hasDoor reports whether the door of a link is guarded: of that very link, and not of one that had its index before.
func (d *Datapath) hasDoor(name string) (bool, error) {
	l := d.links[name]
	if l == nil {
		return false, nil
	}
	info, err := l.Info()
	if err != nil {
		return false, err // it is pinned, and the next one would find its place taken
	}
	if info.TCX() != nil && info.TCX().Ifindex != 0 {
		return true, nil
	}
	delete(d.links, name)
	return false, l.Close()
}

func (d *Datapath) attachDoor(index int) (l link.Link, err error) {
	err = d.inside(func() error {
		l, err = link.AttachTCX(link.TCXOptions{Interface: index, Program: d.objs.OnDoor, Attach: ebpf.AttachTCXEgress})
		return err
	})
	return l, err
}

// The roles of bpf/abi.h.
const (
	linkOutside    = 1
	addressOutside = 1
	addressInside  = 2
	placeLocal     = 1
	placeHost      = 2
)

// flowOf reads the ends of a socket. An IPv6 socket that speaks IPv4 has IPv6 addresses.
func flowOf(f bpf.DatapathFlow) (local, remote netip.AddrPort) {
	end := func(a bpf.DatapathAddress, port uint16) netip.AddrPort {
		addr := addressOf(a)
		if f.Mapped == 0 {
			addr = addr.Unmap()
		}
		return netip.AddrPortFrom(addr, port)
	}
	return end(f.Local, f.LocalPort), end(f.Remote, f.RemotePort)
}

func addressOf(a bpf.DatapathAddress) netip.Addr {
	var b [16]byte
	for i, word := range a.Word {
		binary.NativeEndian.PutUint32(b[4*i:], word)
	}
	return netip.AddrFrom16(b)
}
