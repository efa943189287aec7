package main

import (
	"context"
	"errors"
	"net/netip"

	"sidestep/internal/lab"
	"sidestep/internal/lab/actor"
)

// perTurn is how many starts a design has before it is the next one's turn.
const perTurn = 100

// A cell is all packets of a kind: those that one moment of every start sent.
type cell struct {
	Storm    bool    `json:"storm"`    // with four fork storms
	Protocol string  `json:"protocol"` // udp or tcp
	Thread   bool    `json:"thread"`   // from the second thread
	DelayMS  float64 `json:"delay_ms"` // after the first instruction of program or thread
	Starts   int     `json:"starts"`
	Right    int     `json:"right"`
	Wrong    int     `json:"wrong"` // on the wrong side; no wire has seen what is left
}

// newCells returns all cells of one condition: moment by moment, thread by thread, protocol by protocol.
func newCells(storm bool) []cell {
	var cells []cell
	for _, protocol := range []string{"udp", "tcp"} {
		for _, thread := range []bool{false, true} {
			for _, d := range actor.Moments() {
				cells = append(cells, cell{Storm: storm, Protocol: protocol, Thread: thread, DelayMS: d.Seconds() * 1e3})
			}
		}
	}
	return cells
}

// race starts the timed program n times under each design, in rounds: each design has its turn in every round.
func (r *rig) race(ctx context.Context, all []*result, n int, storm bool, say func(string)) error {
	for _, res := range all {
		res.fresh = newCells(storm)
	}
	for round := 0; round*perTurn < n; round++ {
		for i := range all {
			res := all[(i+round)%len(all)] // nobody always follows the same one
			say(res.Name)
			err := r.turn(ctx, res.design, func(t *turn) error {
				return t.starts(ctx, res.fresh, min(perTurn, n-round*perTurn), storm)
			})
			if err != nil {
				return err
			}
		}
	}
	for _, res := range all {
		res.Cells = append(res.Cells, res.fresh...)
	}
	return nil
}

// starts starts the timed program n times, one after the other, and counts where its packets went.
func (t *turn) starts(ctx context.Context, cells []cell, n int, storm bool) (err error) {
	path := t.program(timedProgram)
	if err := t.design.list(ctx, path, nil); err != nil {
		return err
	}
	if err := t.forget(); err != nil {
		return err
	}
	if storm {
		stop, err := t.storms(ctx)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, stop()) }()
	}
	moments := len(actor.Moments())
	base := t.ports(2 * moments)
	for i, order := range []actor.TimedOrder{actor.DatagramFirst, actor.SYNFirst} {
		im := t.design.image(path, actor.TimedArgs(order, internet(base))...)
		if _, err := t.starter.Storm(ctx, actor.Storm{Count: (n + i) / 2, Image: &im}); err != nil {
			return err
		}
	}
	passed, err := t.settled(ctx, lab.Match{Dst: netip.MustParseAddr(lab.Internet4)}, len(cells)*n)
	if err != nil {
		return err
	}
	want := t.design.facts().Mode.listedSide()
	for i := range cells {
		m := lab.Match{Proto: lab.UDP, DstPort: base + uint16(i%(2*moments))}
		if cells[i].Protocol == "tcp" {
			m.Proto = lab.TCP
		}
		cells[i].Starts += n
		cells[i].Right += passed.count(want, m)
		cells[i].Wrong += passed.count(want.other(), m)
	}
	return nil
}
