//go:build linux

package actor

import (
	"math/rand/v2"
	"os"
	"testing"
)

// A member is what the model believes of an actor.
type member struct {
	*Actor
	parent int // 0: an orphan
	exe    string
}

// A crowd is the model of all actors of a world, and the source of its next steps.
type crowd struct {
	*world
	rng   *rand.Rand
	paths []string
	all   []*member
}

func TestRandomSteps(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	w := newWorld(t)
	c := &crowd{
		world: w,
		rng:   rand.New(rand.NewPCG(seed, 0)),
		paths: []string{w.path, w.install("a"), w.install("b")},
		all:   []*member{{w.root, os.Getpid(), w.path}},
	}
	for range 200 {
		c.step()
	}
	for _, m := range c.all {
		if info := w.info(m.Actor); info.PPID != m.parent && m.parent != 0 {
			t.Errorf("%d: parent %d, want %d", m.PID(), info.PPID, m.parent)
		}
		if exe := exeOf(t, m.Actor); exe != m.exe {
			t.Errorf("%d: runs %s, want %s", m.PID(), exe, m.exe)
		}
	}
}

func (c *crowd) step() {
	c.t.Helper()
	m := c.all[c.rng.IntN(len(c.all))]
	a := m.Actor
	if c.rng.IntN(2) == 0 {
		a = a.OnThread()
	}
	switch n := c.rng.IntN(10); {
	case n < 3 && len(c.all) < 30:
		c.all = append(c.all, c.bear(m, a))
	case n < 5:
		m.exe = c.paths[c.rng.IntN(len(c.paths))]
		c.ok(a.Exec(c.ctx, m.exe))
	case n < 6 && len(c.all) > 1:
		c.ok(a.Exit(c.ctx, 0))
		c.bury(m)
	default:
		c.ok(a.Send(c.ctx, c.addr, 1))
		if d := c.hear(); d.PID != m.PID() || d.TID == d.PID && a != m.Actor {
			c.t.Fatalf("heard %+v from %d", d, m.PID())
		}
	}
}

// bear makes a child of m, which a speaks for.
func (c *crowd) bear(m *member, a *Actor) *member {
	c.t.Helper()
	by := Birth(c.rng.IntN(int(births)))
	born := &member{parent: m.PID(), exe: m.exe}
	var err error
	if by == ByVfork || c.rng.IntN(2) == 0 {
		born.exe = c.paths[c.rng.IntN(len(c.paths))]
		born.Actor, err = a.ForkExec(c.ctx, by, Image{Path: born.exe})
	} else {
		born.Actor, err = a.ForkBy(c.ctx, by)
	}
	c.ok(err)
	switch by {
	case ByCloneParent:
		born.parent = m.parent
	case ByDoubleFork:
		born.parent = 0
	}
	return born
}

// bury removes dead from the living and makes orphans of its children.
func (c *crowd) bury(dead *member) {
	var living []*member
	for _, m := range c.all {
		if m.parent == dead.PID() {
			m.parent = 0
		}
		if m != dead {
			living = append(living, m)
		}
	}
	c.all = living
}
