package main

import (
	"context"
	"math"
	"net/netip"
	"time"

	"sidestep/internal/lab"
	"sidestep/internal/lab/actor"
)

const (
	// firstPort and what follows it is where nobody answers. Every measurement has ports of its own.
	firstPort = 20000
	lastPort  = 60000
	// quiet is how long nothing passes before a wire is taken for settled.
	quiet = 100 * time.Millisecond
	// untilQuiet is more packets than anybody sends.
	untilQuiet = math.MaxInt
)

// A side is where a packet was seen.
type side uint8

const (
	nowhere side = iota
	uplink
	tunnel
)

// listedSide is where packets of listed programs belong.
func (m mode) listedSide() side {
	if m == include {
		return tunnel
	}
	return uplink
}

func (s side) other() side {
	switch s {
	case uplink:
		return tunnel
	case tunnel:
		return uplink
	}
	return nowhere
}

// source is the machine's own address on that side.
func (s side) source() netip.Addr {
	if s == uplink {
		return netip.MustParseAddr(lab.Machine4)
	}
	return netip.MustParseAddr(lab.Tunnel4)
}

// ports returns the first of n ports that nothing was sent to for a long time.
func (r *rig) ports(n int) uint16 {
	if int(r.port)+n > lastPort {
		r.port = firstPort
	}
	first := r.port
	r.port += uint16(n)
	return first
}

// forget empties both wires.
func (r *rig) forget() error {
	if err := r.world.Wires().Uplink.Reset(); err != nil {
		return err
	}
	return r.world.Wires().Tunnel.Reset()
}

// A traffic is what the machine has sent on both wires.
type traffic map[side]lab.Flows

// traffic returns what has passed since forget.
func (r *rig) traffic() (traffic, error) {
	up, err := r.world.Wires().Uplink.Flows()
	if err != nil {
		return nil, err
	}
	down, err := r.world.Wires().Tunnel.Flows()
	return traffic{uplink: up, tunnel: down}, err
}

// count returns how many packets that m selects the machine has sent on a side.
func (t traffic) count(s side, m lab.Match) int {
	m.Direction = lab.Sent
	return int(t[s].Count(m))
}

// settled returns what has passed, once enough has or nothing more comes.
func (r *rig) settled(ctx context.Context, m lab.Match, enough int) (traffic, error) {
	var now traffic
	seen, since := -1, time.Now()
	err := lab.Poll(ctx, func() (_ bool, err error) {
		if now, err = r.traffic(); err != nil {
			return false, err
		}
		if n := now.count(uplink, m) + now.count(tunnel, m); n != seen {
			seen, since = n, time.Now()
		}
		return seen >= enough || time.Since(since) > quiet, nil
	})
	return now, err
}

// look makes a program send from a new socket, and returns the side that the packet took. A program that cannot send took
// none.
func (r *rig) look(ctx context.Context, a *actor.Actor) (side, error) {
	port := r.ports(1)
	_ = a.Send(ctx, internet(port), 1) // what it could not send is on no wire
	m := lab.Match{Proto: lab.UDP, DstPort: port}
	now, err := r.settled(ctx, m, 1)
	switch {
	case err != nil:
		return nowhere, err
	case now.count(uplink, m) > 0:
		return uplink, nil
	case now.count(tunnel, m) > 0:
		return tunnel, nil
	}
	return nowhere, nil
}

// wrong counts the programs whose new sockets are not on a side.
func (r *rig) wrong(ctx context.Context, apps []*actor.Actor, want side) (n int, err error) {
	if err := r.forget(); err != nil {
		return 0, err
	}
	for _, a := range apps {
		got, err := r.look(ctx, a)
		if err != nil {
			return 0, err
		}
		if got != want {
			n++
		}
	}
	return n, nil
}
