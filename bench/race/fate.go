package main

import (
	"cmp"
	"context"
	"errors"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"sidestep/internal/lab"
	"sidestep/internal/lab/actor"
)

const (
	// recoverLimit is how long a design may take to catch up with what has happened.
	recoverLimit = 10 * time.Second
	// classifyLimit is how long it may take to classify one program.
	classifyLimit = time.Second
)

// A tally is how many programs were looked at, and how many of them were on the wrong side.
type tally struct {
	What    string `json:"what"`
	Checked int    `json:"checked"`
	Wrong   int    `json:"wrong"`
}

// A fate is what became of one kind of socket when the program that held it was listed: where its next packet went.
type fate struct {
	Socket  string `json:"socket"`
	Right   int    `json:"right"`   // on the listed side
	Wrong   int    `json:"wrong"`   // still on the other side
	Foreign int    `json:"foreign"` // on the listed side, with the address of the other
	Refused int    `json:"refused"` // the program got an error, nothing was sent
	Silent  int    `json:"silent"`  // no error, and nothing was sent
}

// The kinds of socket.
const (
	usedDatagram = iota
	usedStream
	unusedDatagram
	freshDatagram
	kinds
)

func socketNames() [kinds]string {
	return [...]string{"connected UDP, used", "TCP connection", "UDP, not used yet", "new"}
}

// running looks at what becomes of the open sockets of n programs when they are listed.
func (t *turn) running(ctx context.Context, n int) ([]fate, error) {
	side := t.design.facts().Mode.listedSide()
	path := t.program(appProgram)
	apps, end, err := t.apps(ctx, n, plainImage(path, nil))
	if err != nil {
		return nil, err
	}
	var all []*holding
	for i, a := range apps {
		h, err := t.hold(ctx, a, firstService+uint16(i%services), side.other())
		if err != nil {
			return nil, errors.Join(err, end())
		}
		all = append(all, h)
	}
	if err := t.design.list(ctx, path, apps); err != nil {
		return nil, errors.Join(err, end())
	}
	if t.design.facts().Agent {
		_, err = t.await(ctx, apps[n-1], side, recoverLimit)
	}
	fates := make([]fate, kinds)
	for _, h := range all {
		if err == nil {
			err = t.judge(ctx, h, side, fates)
		}
	}
	return fates, errors.Join(err, end())
}

// A holding is a program with one open socket of each kind, all but the last.
type holding struct {
	app     *actor.Actor
	sockets [kinds]actor.Socket
	peers   [kinds]netip.AddrPort
}

// hold opens sockets in a program, on the side where it is.
func (t *turn) hold(ctx context.Context, a *actor.Actor, service uint16, side side) (*holding, error) {
	if there, err := t.await(ctx, a, side, recoverLimit); err != nil || !there {
		return nil, cmp.Or(err, errors.New("a program that is not listed is on the listed side"))
	}
	h := &holding{app: a}
	for kind, open := range []actor.SocketKind{usedDatagram: actor.UDPConnected, usedStream: actor.TCP, unusedDatagram: actor.UDP} {
		h.peers[kind] = internet(t.ports(1))
		if kind != unusedDatagram { // somebody answers, or the next call would hear that nobody is there
			h.peers[kind] = internet(service)
		}
		var err error
		if h.sockets[kind], err = a.Open(ctx, open, h.peers[kind]); err != nil {
			return nil, err
		}
		if kind != unusedDatagram {
			if err := a.SendOn(ctx, h.sockets[kind], netip.AddrPort{}); err != nil {
				return nil, err
			}
		}
	}
	h.peers[freshDatagram] = internet(t.ports(1))
	_, err := t.settled(ctx, lab.Match{}, untilQuiet) // what was under way is on the wires
	return h, err
}

// judge sends on every socket and books where the packets went.
func (t *turn) judge(ctx context.Context, h *holding, side side, fates []fate) error {
	if err := t.forget(); err != nil {
		return err
	}
	var errs [kinds]error
	for kind := range h.peers {
		switch kind {
		case usedDatagram, usedStream:
			errs[kind] = h.app.SendOn(ctx, h.sockets[kind], netip.AddrPort{})
		case unusedDatagram:
			errs[kind] = h.app.SendOn(ctx, h.sockets[kind], h.peers[kind])
		case freshDatagram:
			errs[kind] = h.app.Send(ctx, h.peers[kind], 1)
		}
	}
	passed, err := t.settled(ctx, lab.Match{}, untilQuiet)
	for kind, peer := range h.peers {
		to := lab.Match{Proto: lab.UDP, Dst: peer.Addr(), DstPort: peer.Port()}
		if kind == usedStream {
			to.Proto = lab.TCP
		}
		fates[kind].Socket = socketNames()[kind]
		fates[kind].book(passed, to, side, errs[kind])
	}
	return err
}

// book adds one socket, whose packets went to where to says, and whose program was told err.
func (f *fate) book(passed traffic, to lab.Match, side side, err error) {
	own := to
	own.Src = side.source()
	switch listed := passed.count(side, to); {
	case passed.count(side.other(), to) > 0:
		f.Wrong++
	case listed > passed.count(side, own):
		f.Foreign++
	case listed > 0:
		f.Right++
	case err != nil:
		f.Refused++
	default:
		f.Silent++
	}
}

// await waits until a program's new sockets are on a side, and reports whether that is so in the end.
func (t *turn) await(ctx context.Context, a *actor.Actor, want side, limit time.Duration) (there bool, err error) {
	waiting, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	err = lab.Poll(waiting, func() (bool, error) {
		got, err := t.look(ctx, a)
		there = got == want
		return there, err
	})
	if ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded) {
		err = nil
	}
	return there, err
}

// killed kills the agent and looks at what runs, and at what is started then.
func (t *turn) killed(ctx context.Context, n int) (tallies []tally, err error) {
	side := t.design.facts().Mode.listedSide()
	im := t.design.image(t.program(appProgram))
	if err := t.design.list(ctx, t.program(appProgram), nil); err != nil {
		return nil, err
	}
	apps, end, err := t.classified(ctx, n, im, side)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, end()) }()
	if err := t.design.signal(unix.SIGKILL); err != nil {
		return nil, err
	}
	return t.aftermath(ctx, apps, im, side)
}

// classified starts n programs that are on their side. Those that a design never gets there are left out.
func (t *turn) classified(ctx context.Context, n int, im actor.Image, want side) (apps []*actor.Actor, end func() error, err error) {
	started, end, err := t.apps(ctx, 2*n, im)
	if err != nil {
		return nil, nil, err
	}
	for _, a := range started {
		there, err := t.await(ctx, a, want, classifyLimit)
		if err != nil {
			return nil, nil, errors.Join(err, end())
		}
		if there {
			apps = append(apps, a)
		}
		if len(apps) == n {
			break
		}
	}
	return apps, end, nil
}

// aftermath looks at programs that run, at what they start, and at what is started otherwise.
func (t *turn) aftermath(ctx context.Context, apps []*actor.Actor, im actor.Image, side side) (tallies []tally, err error) {
	var threads, children []*actor.Actor
	defer func() {
		for _, c := range children {
			err = errors.Join(err, c.Kill(context.WithoutCancel(ctx)))
		}
	}()
	for _, a := range apps {
		threads = append(threads, a.OnThread())
		child, err := a.Fork(ctx)
		if err != nil {
			return nil, err
		}
		children = append(children, child)
	}
	for _, look := range []struct {
		what string
		at   []*actor.Actor
	}{{"running: new sockets", apps}, {"running: new threads", threads}, {"running: new children", children}} {
		if tallies, err = t.tally(ctx, tallies, look.what, look.at, side); err != nil {
			return nil, err
		}
	}
	if tallies, err = t.started(ctx, tallies, "started since: listed", len(apps), im, side); err != nil {
		return nil, err
	}
	other := plainImage(t.program(otherProgram), nil)
	return t.started(ctx, tallies, "started since: not listed", len(apps), other, side.other())
}

// tally adds how many programs are not on a side.
func (t *turn) tally(ctx context.Context, to []tally, what string, apps []*actor.Actor, want side) ([]tally, error) {
	wrong, err := t.wrong(ctx, apps, want)
	return append(to, tally{what, len(apps), wrong}), err
}

// started adds how many of n programs that are started now are not on a side.
func (t *turn) started(ctx context.Context, to []tally, what string, n int, im actor.Image, want side) ([]tally, error) {
	apps, end, err := t.apps(ctx, n, im)
	if err != nil {
		return nil, err
	}
	to, err = t.tally(ctx, to, what, apps, want)
	return to, errors.Join(err, end())
}

// A disturbance is what keeps an agent from its work while programs start.
type disturbance struct {
	name  string
	begin func(context.Context, *turn) (end func() error, err error)
}

func disturbances(agent bool) []disturbance {
	all := []disturbance{
		{"four fork storms", func(ctx context.Context, t *turn) (func() error, error) { return t.storms(ctx) }},
		{"agent stopped", pause},
		{"agent stopped, 1,000 other programs start", pauseAndCrowd},
	}
	if !agent {
		return all[:1]
	}
	return all
}

// pause stops the agent for a moment, as a debugger or a machine that swaps would.
func pause(_ context.Context, t *turn) (end func() error, err error) {
	return func() error { return t.design.signal(unix.SIGCONT) }, t.design.signal(unix.SIGSTOP)
}

// pauseAndCrowd stops the agent while there is more to hear of than its buffers hold.
func pauseAndCrowd(ctx context.Context, t *turn) (end func() error, err error) {
	if end, err = pause(ctx, t); err != nil {
		return nil, err
	}
	image := &actor.Image{Path: t.program(stormProgram)}
	if _, err := t.starter.Storm(ctx, actor.Storm{Count: 1000, Width: 8, Image: image}); err != nil {
		return nil, errors.Join(err, end()) // or it could not be stopped
	}
	return end, nil
}

// lost starts n programs under a disturbance, lets the design catch up, and looks at which of them are still on the
// wrong side: nobody looks for them again.
func (t *turn) lost(ctx context.Context, n int, d disturbance) (_ []tally, err error) {
	side := t.design.facts().Mode.listedSide()
	im := t.design.image(t.program(appProgram))
	if err := t.design.list(ctx, t.program(appProgram), nil); err != nil {
		return nil, err
	}
	endIt, err := d.begin(ctx, t)
	if err != nil {
		return nil, err
	}
	apps, end, err := t.apps(ctx, n, im)
	if err := errors.Join(err, endIt()); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, end()) }()
	if t.design.facts().Agent {
		if err := t.recovered(ctx); err != nil {
			return nil, err
		}
	}
	return t.tally(ctx, nil, d.name, apps, side)
}

// recovered waits until the agent has done all that was waiting: until a program that is started now comes to where only
// an agent can bring it. It gives up in the end.
func (t *turn) recovered(ctx context.Context) error {
	im := t.design.image(t.program(appProgram))
	if t.design.facts().Mode == include {
		im = plainImage(t.program(otherProgram), nil)
	}
	for start := time.Now(); time.Since(start) < recoverLimit; {
		apps, end, err := t.apps(ctx, 1, im)
		if err != nil {
			return err
		}
		there, err := t.await(ctx, apps[0], uplink, classifyLimit)
		if err := errors.Join(err, end()); there || err != nil {
			return err
		}
	}
	return nil
}
