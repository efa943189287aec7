package leak_test

import (
	"errors"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"sidestep/internal/lab"
	"sidestep/internal/lab/actor"
)

// unconnectedKinds are the kinds of socket that have no other end, but UDP.
func unconnectedKinds() []kind {
	return slices.DeleteFunc(slices.Clone(kinds), func(k kind) bool { return k.connects || k.name == "UDP" })
}

// held makes a socket of every unconnected kind and family.
func (r *rig) held(a *actor.Actor, by door) []*try {
	r.t.Helper()
	var held []*try
	for _, f := range speeches[:2] {
		for _, k := range unconnectedKinds() {
			s, err := a.Syscall(r.ctx, unix.SYS_SOCKET, f.domain, k.typ|unix.SOCK_NONBLOCK, k.protocol[f.i])
			if errors.Is(err, unix.EPROTONOSUPPORT) {
				continue // UDP-Lite has left the kernel
			}
			r.ok(err)
			t := &try{rig: r, speech: f, by: by, a: a, s: actor.Socket(s), kind: k}
			t.to = t.addr(nowhere[f.i], r.port())
			held = append(held, t)
		}
	}
	return held
}

// wantSent fails unless one packet has left, on a side.
func (t *try) wantSent(want side, when string) {
	t.t.Helper()
	o := t.sends()
	right, wrong := o.inside, o.outside
	if want == outside {
		right, wrong = wrong, right
	}
	if o.err != nil || right != 1 || wrong != 0 || o.mixed != 0 {
		t.t.Errorf("%s, %s, %s: %d packets inside and %d outside, %d mixed, error %v, want one %v",
			t.name, t.kind.name, when, o.inside, o.outside, o.mixed, o.err, want)
	}
}

// wantStopped fails unless the program gets an error, and no packet has left. Of what is not permitted, IPv6 pings are
// not told.
func (t *try) wantStopped(errno unix.Errno, when string) {
	t.t.Helper()
	o := t.sends()
	if o.inside+o.outside != 0 {
		t.t.Errorf("%s, %s, %s: %d packets inside and %d outside, want none", t.name, t.kind.name, when, o.inside, o.outside)
	}
	untold := errno == unix.EPERM && t.kind.name == "ping" && t.i == 1
	if !untold && !errors.Is(o.err, errno) {
		t.t.Errorf("%s, %s, %s: error %v, want %v", t.name, t.kind.name, when, o.err, errno)
	}
}

// TestRawSocketsAreBlockedWhileTheirAppIsOnTheOtherSide is about everything that is neither TCP nor UDP.
func TestRawSocketsAreBlockedWhileTheirAppIsOnTheOtherSide(t *testing.T) {
	t.Parallel()
	r := newRig(t, lab.Options{})
	r.allowTricks()
	r.run()
	listed := r.install("listed")
	app := r.start(listed)
	doors := map[side]door{inside: r.door(lab.TunnelName, inside), outside: r.door(lab.UplinkName, outside)}
	for _, from := range []side{inside, outside} {
		held := r.held(app, doors[from])
		for _, h := range held {
			h.wantSent(from, "before")
		}
		r.move(listed, !from)
		for _, h := range held {
			h.wantStopped(unix.EPERM, "while its app is "+(!from).String())
			lan := *h
			lan.by, lan.to = doors[outside], h.addr(addrs(lab.LAN4, lab.LAN6)[h.i], r.port())
			lan.wantSent(outside, "to the LAN while its app is "+(!from).String())
		}
		r.move(listed, from)
		for _, h := range held {
			h.wantSent(from, "when its app is back")
		}
		if from == inside {
			r.exclude(listed)
		}
	}
}

func TestRawSocketsThatWereMadeOutsideAreOverWhenAllIsTakenBack(t *testing.T) {
	forEndings(t, func(r *rig, listed string, end func()) {
		r.allowTricks()
		held := r.held(r.start(listed), r.door(lab.UplinkName, outside))
		for _, h := range held {
			h.wantSent(outside, "before")
		}
		end()
		for _, h := range held {
			if h.kind.name == "raw ICMP" {
				h.wantStopped(unix.EINVAL, "once all is taken back") // internal/sockets says why
				continue
			}
			h.wantStopped(unix.EPIPE, "once all is taken back")
		}
	})
}
