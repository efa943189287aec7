package datapath

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"

	"sidestep/internal/datapath/bpf"
	"sidestep/internal/sockets"
)

// A Stray is a connection on a side where it must not be. The guard stops its packets; it remains to be closed.
type Stray struct {
	Flow sockets.Flow
	App  uint32 // 0 of a connection that no app made
	PID  int    // who made it, as far as is known
}

// Strays moves listeners to the side of their app, and lists the connections that are to be closed: those whose app is on
// another side than they are, those that wait in the queue of a listener that has moved, and in strict mode those that
// included programs made over an uplink. With ended it lists the ends of marked connections, in TIME-WAIT, too: for when the
// last app has come back inside. They do not tell whose they were.
func (d *Datapath) Strays(ended bool) ([]Stray, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	all, moved, err := d.strays(ended)
	if err != nil || !moved {
		return all, err
	}
	// What a listener had in its queue before it was noted may have been accepted by now: it is in a file then.
	if err := d.noteSockets(); err != nil {
		return nil, err
	}
	again, _, err := d.strays(ended)
	return append(all, again...), err
}

// strays is one round of Strays. It reports whether a listener has moved.
func (d *Datapath) strays(ended bool) (all []Stray, anyMoved bool, err error) {
	var queued []Stray
	moved := map[netip.AddrPort]bool{}
	for _, prog := range []*ebpf.Program{d.objs.WalkTcp, d.objs.WalkUdp} {
		records, err := walkFor[bpf.DatapathStray](d, prog)
		if err != nil {
			return nil, false, fmt.Errorf("look for connections on the wrong side: %w", err)
		}
		for _, r := range records {
			s := strayOf(r)
			switch {
			case r.Kind == bpf.DatapathStrayKindSTRAY_LISTENER:
				moved[s.Flow.Local] = true
			case r.Kind == bpf.DatapathStrayKindSTRAY_QUEUED:
				queued = append(queued, s)
			case r.Kind == bpf.DatapathStrayKindSTRAY_FLOW, ended:
				all = append(all, s)
			}
		}
	}
	for _, s := range queued {
		if cameTo(moved, s.Flow.Local) {
			all = append(all, s)
		}
	}
	return all, len(moved) > 0, nil
}

// cameTo reports whether a connection with this local end came to one of the listeners.
func cameTo(listeners map[netip.AddrPort]bool, local netip.AddrPort) bool {
	port := local.Port()
	return listeners[local] ||
		listeners[netip.AddrPortFrom(local.Addr().Unmap(), port)] ||
		listeners[netip.AddrPortFrom(netip.IPv6Unspecified(), port)] ||
		local.Addr().Unmap().Is4() && listeners[netip.AddrPortFrom(netip.IPv4Unspecified(), port)]
}

func strayOf(r bpf.DatapathStray) Stray {
	local, remote := flowOf(r.Flow)
	return Stray{
		Flow: sockets.Flow{
			Protocol: r.Flow.Protocol, Local: local, Remote: remote, Link: int(r.Link), Cookie: r.Cookie,
		},
		App: r.App, PID: int(r.Tgid),
	}
}

// A Holder is a process that holds a socket that was made outside.
type Holder struct {
	PID, FD int
	Cookie  uint64
	// Stays: the socket may live on when everything is taken back, because its peer is local.
	Stays bool
}

// Holders lists who holds the sockets that were made outside.
func (d *Datapath) Holders() ([]Holder, error) {
	records, err := walkFor[bpf.DatapathHolder](d, d.objs.WalkHolders)
	if err != nil {
		return nil, fmt.Errorf("look for the holders of sockets: %w", err)
	}
	all := make([]Holder, 0, len(records))
	for _, r := range records {
		all = append(all, Holder{PID: int(r.Pid), FD: int(r.Fd), Cookie: r.Cookie, Stays: r.Stays != 0})
	}
	return all, nil
}

// walkFor runs an iterator in the network namespace that is governed, and decodes what it wrote.
func walkFor[T any](d *Datapath, prog *ebpf.Program) ([]T, error) {
	var out []byte
	err := d.inside(func() (err error) {
		out, err = d.walk(prog)
		return err
	})
	if err != nil {
		return nil, err
	}
	var one T
	all := make([]T, len(out)/binary.Size(one))
	return all, binary.Read(bytes.NewReader(out), binary.NativeEndian, all)
}
