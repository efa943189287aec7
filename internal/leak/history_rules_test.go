package leak_test

import (
	"maps"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"sidestep/internal/lab/actor"
	"sidestep/policy"
)

// A sock is a socket, as the rules see it.
//
// It belongs to apps: when it is made to those of its maker, and so at each change of the policy, if its maker still holds
// it and is excluded. If not, it keeps those of its apps that are left; with none left it belongs to the apps of one that
// holds it, if all that hold it are excluded. Its side is that of its apps when it was made, or when an unused socket was
// first used. It is steady while its apps are on that side; else it speaks to local places only.
type sock struct {
	name    string
	key     uint64
	stream  bool
	v6      bool
	mapped  bool                 // it speaks IPv4 when it is connected
	holders map[int]actor.Socket // by process

	side  side
	maker int // 0: nobody knows
	apps  []string

	port    bool // it has one
	chosen  bool // which its program has chosen
	unused  bool // it had none when its app was looked at: sendto, which gives it one first, moves it all the same
	listens bool
	number  uint16 // the port of a listener
	peer    *peer  // if it is connected
	numb    bool   // it had a peer: Linux has an IPv6 socket hear its last peer only, by IPv6
	cut     bool   // a connection that was cut
	shut    bool   // it was shut down when everything was taken back
}

// now is the side of the socket's apps.
func (s *sock) now() side { return len(s.apps) > 0 }

func (s *sock) steady() bool { return s.side == s.now() }

// heldBy lists the processes that hold it.
func (s *sock) heldBy() []int { return slices.Sorted(maps.Keys(s.holders)) }

func (s *sock) isHeldBy(pid int) bool { return slices.Contains(s.heldBy(), pid) }

// rules are the oracle of a history: they say what each process and each socket is, and what comes of a call.
type rules struct {
	*policy.Model
	apps  []string // the policy
	socks []*sock
}

func (r *rules) isExcluded(pid int) bool { return r.Decide(pid).Verdict == policy.Excluded }

func (r *rules) sideOf(pid int) side { return side(r.isExcluded(pid)) }

// made is for a socket that a process has made.
func (r *rules) made(pid int, s *sock) {
	s.side, s.apps = r.sideOf(pid), r.Apps(pid)
	if s.side == outside { // else nobody takes note
		s.maker, s.unused = pid, !s.port
	}
	r.socks = append(r.socks, s)
}

// accepted is for a connection that a listener has accepted.
func (r *rules) accepted(l, s *sock) {
	s.side, s.maker, s.apps = l.side, l.maker, slices.Clone(l.apps)
	r.socks = append(r.socks, s)
}

func newRules() *rules { return &rules{Model: policy.NewModel(os.Getpid(), "(the test)")} }

// born is for a process that another one has made. It holds what its maker holds.
func (r *rules) born(maker, child int, by actor.Birth) {
	switch by {
	case actor.ByCloneParent:
		r.Sibling(maker, child)
	case actor.ByDoubleFork:
		const between = -1
		r.Fork(maker, between)
		r.Fork(between, child)
		r.Exit(between)
	default:
		r.Fork(maker, child)
	}
	for _, s := range r.socks {
		if fd, ok := s.holders[maker]; ok {
			s.holders[child] = fd
		}
	}
}

// exit is for a process that has ended.
func (r *rules) exit(pid int) {
	r.Exit(pid)
	for _, s := range slices.Clone(r.socks) {
		r.released(pid, s)
	}
}

// released has a process hold a socket no more. It is gone when nobody does.
func (r *rules) released(pid int, s *sock) {
	delete(s.holders, pid)
	if len(s.holders) == 0 {
		r.socks = slices.DeleteFunc(r.socks, func(o *sock) bool { return o == s })
	}
}

func (r *rules) agrees(pid int, s *sock) bool { return s.steady() && s.side == r.sideOf(pid) }

// use says whether a process may use a socket to speak to a peer, or to bind it, if that is nil. An unused socket goes to
// the side of whoever uses it.
func (r *rules) use(pid int, s *sock, to *peer) (moved bool, err error) {
	unused := !s.port || s.unused && s.peer == nil
	switch {
	case r.agrees(pid, s):
		s.unused = false
	case unused:
		s.side, s.apps, s.maker, s.unused = r.sideOf(pid), r.Apps(pid), pid, false
		return true, nil
	case to != nil && !to.local():
		return false, unix.EPERM
	}
	return false, nil
}

// bind binds a socket to any address.
func (r *rules) bind(pid int, s *sock, chosen bool) {
	r.use(pid, s, nil)
	s.port, s.chosen = true, chosen
}

func (r *rules) connect(pid int, s *sock, to *peer) error {
	_, err := r.use(pid, s, to)
	if err == nil {
		s.port, s.peer, s.numb = true, to, s.v6
	}
	return err
}

// send says what comes of sending: to a peer that is named, or to the one that the socket is connected to.
func (r *rules) send(pid int, s *sock, to *peer) error {
	s.port = true
	if to == nil && s.peer != nil && !s.stream && s.mapped {
		to = s.peer // as far as Linux is concerned
	}
	switch {
	case s.cut:
		return unix.EPIPE
	case to == nil && s.peer == nil:
		return unix.EDESTADDRREQ
	}
	if to != nil {
		if moved, err := r.use(pid, s, to); moved || err != nil {
			return unix.EPERM
		}
	}
	switch {
	case s.shut:
		return unix.EPIPE
	case to == nil && !s.steady() && !s.peer.local():
		return unix.EPERM
	}
	return nil
}

// hears reports whether a socket without a peer gets a datagram.
func (s *sock) hears(from place, by side) bool {
	if !s.steady() {
		return from != abroad
	}
	return s.side == inside || by == outside
}

// change adds apps to the policy and takes others out, and returns the sockets that are cut.
func (r *rules) change(in, out []string) (cut []*sock) {
	for _, path := range in {
		r.apps = append(r.apps, path)
		r.Exclude(policy.App{Path: path})
	}
	for _, s := range r.socks {
		s.unused = s.unused || !s.port && slices.ContainsFunc(s.heldBy(), r.isExcluded)
	}
	for _, path := range out {
		r.apps = slices.DeleteFunc(r.apps, func(p string) bool { return p == path })
		r.Include(policy.App{Path: path})
	}
	for _, s := range r.socks {
		s.apps = slices.DeleteFunc(s.apps, func(p string) bool { return slices.Contains(out, p) })
	}
	for _, s := range r.socks {
		r.own(s)
	}
	return r.settle()
}

// own finds out whose a socket is.
func (r *rules) own(s *sock) {
	holders := s.heldBy()
	if slices.Contains(holders, s.maker) && r.isExcluded(s.maker) {
		s.apps = r.Apps(s.maker)
	} else if s.now() == inside && !slices.ContainsFunc(holders, func(pid int) bool { return !r.isExcluded(pid) }) {
		s.apps = r.Apps(holders[0])
	}
}

// settle does what is done about sockets that are not steady. It returns those that are cut.
func (r *rules) settle() (cut []*sock) {
	for _, s := range r.socks {
		switch {
		case s.steady() || s.cut:
		case s.listens:
			s.side = s.now()
		case s.peer != nil && !s.peer.local() && s.stream:
			s.cut, cut = true, append(cut, s)
		case s.peer != nil && !s.peer.local():
			s.peer, cut = nil, append(cut, s)
			if !s.chosen {
				s.port, s.unused = false, true
			}
		}
	}
	return cut
}

// stop takes everything back, and returns the sockets that are cut.
func (r *rules) stop() (cut []*sock) {
	saved := slices.Clone(r.apps)
	cut = r.change(nil, saved)
	for _, s := range r.socks {
		if !s.stream && s.side == outside && (s.peer == nil || !s.peer.local()) {
			s.shut = true
		}
		s.side, s.maker, s.unused = inside, 0, false
	}
	r.apps = saved
	return cut
}

// start puts the policy in force again.
func (r *rules) start() (cut []*sock) {
	saved := r.apps
	r.apps = nil
	return r.change(saved, nil)
}
