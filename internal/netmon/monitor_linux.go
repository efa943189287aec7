package netmon

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// A Monitor delivers a snapshot of its network namespace whenever that differs from the last one.
//
//	New ──subscribed──▶ Run: dump, deliver ──▶ wait ──change, lost events, clock jump──▶ settle ──▶ dump
//	                                            ▲                                                    │
//	                                            └──────────── deliver if different ──────────────────┘
type Monitor struct {
	reader *Reader
	events *os.File
}

// New opens all the sockets the monitor will ever use, in the network namespace of the calling thread, and
// subscribes. What changes from now on is seen by [Monitor.Run], on whichever thread that runs.
func New() (*Monitor, error) {
	events, err := subscribe()
	if err != nil {
		return nil, err
	}
	reader, err := OpenReader()
	if err != nil {
		return nil, errors.Join(err, events.Close())
	}
	return &Monitor{reader: reader, events: events}, nil
}

// Close gives the sockets back. Run must have returned.
func (m *Monitor) Close() error {
	return errors.Join(m.events.Close(), m.reader.Close())
}

// Snapshot looks now. It may be called while Run runs.
func (m *Monitor) Snapshot() (Snapshot, error) { return m.reader.Snapshot() }

// Run calls fn with a first snapshot and then with each that differs from the one before, until ctx ends;
// it then returns ctx's error.
//
// IPsec policies are listed with the rest, but a change of nothing else is not noticed. IPsec daemons add an address
// or a route beside them.
//
// fn runs on Run's goroutine and may take its time: events queue up meanwhile, and if they overflow Run
// looks again rather than guess.
func (m *Monitor) Run(ctx context.Context, fn func(Snapshot)) error {
	stop := context.AfterFunc(ctx, func() { _ = m.events.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	var s settle
	var last *Snapshot
	s.change(time.Now().Add(-quiet)) // look at once
	for clock := time.Now(); ; {
		at, pending := s.due()
		if !pending {
			at = time.Now().Add(clockInterval)
		}
		message, err := m.wait(ctx, at)
		before, now := clock, time.Now()
		clock = now
		switch {
		case err != nil:
			return err
		case message != nil || jumped(before, now):
			s.change(now)
			if isUrgent(message, last) {
				s.hurry()
			}
		case pending:
			if err := m.look(&s, &last, fn); err != nil {
				return err
			}
		}
	}
}

// look takes a snapshot and delivers it if it is news.
func (m *Monitor) look(s *settle, last **Snapshot, fn func(Snapshot)) error {
	s.looking()
	start := time.Now()
	snap, err := m.reader.Snapshot()
	end := time.Now()
	s.looked(start, end)
	if errors.Is(err, ErrUnsettled) {
		s.change(end)
		return nil
	}
	if err != nil {
		return err
	}
	if *last == nil || !snap.Equal(**last) {
		*last = &snap
		fn(snap)
	}
	return nil
}

// wait returns the beginning of an event, which is empty where events were lost, or nil at the given time.
func (m *Monitor) wait(ctx context.Context, until time.Time) ([]byte, error) {
	if err := m.events.SetReadDeadline(until); err != nil {
		return nil, fmt.Errorf("wait for network events: %w", err)
	}
	// Checked after the deadline is set: if ctx ends later, its AfterFunc comes later too and wakes the read.
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	b := make([]byte, 64) // the rest of a message is dropped
	n, err := m.events.Read(b)
	switch {
	case err == nil:
		return b[:n], nil
	case errors.Is(err, unix.ENOBUFS):
		return []byte{}, nil
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil, nil
	}
	return nil, fmt.Errorf("read network events: %w", err)
}

// isUrgent reports whether an event does not bear waiting: a rule may take marked packets elsewhere, a new link may be a
// tunnel, and nobody knows what was lost. An event starts with a struct nlmsghdr.
func isUrgent(message []byte, last *Snapshot) bool {
	if len(message) < unix.SizeofNlMsghdr {
		return message != nil
	}
	switch binary.NativeEndian.Uint16(message[4:]) {
	case unix.RTM_NEWRULE, unix.RTM_DELRULE:
		return true
	case unix.RTM_NEWLINK:
		return isNews(message[unix.SizeofNlMsghdr:], last)
	}
	return false
}

// isNews reports whether a struct ifinfomsg is of a link that the last snapshot does not have.
func isNews(message []byte, last *Snapshot) bool {
	if len(message) < unix.SizeofIfInfomsg || last == nil {
		return false
	}
	_, known := last.Link(int(int32(binary.NativeEndian.Uint32(message[4:]))))
	return !known
}

// subscribe opens a socket that has something to read after any change a snapshot would show.
func subscribe() (*os.File, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open netlink socket: %w", err)
	}
	f := os.NewFile(uintptr(fd), "netlink events")
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return nil, errors.Join(fmt.Errorf("bind netlink socket: %w", err), f.Close())
	}
	for _, group := range []int{
		unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR,
		unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE, unix.RTNLGRP_IPV4_RULE, unix.RTNLGRP_IPV6_RULE,
		unix.RTNLGRP_IPV4_NETCONF,
	} {
		if err := unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, group); err != nil {
			return nil, errors.Join(fmt.Errorf("join netlink group %d: %w", group, err), f.Close())
		}
	}
	// Kernels before 5.3 have no nexthop objects.
	_ = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, unix.RTNLGRP_NEXTHOP)
	return f, nil
}
