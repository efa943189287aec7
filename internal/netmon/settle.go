package netmon

import "time"

// When to look again after a change. One change is seen after quiet; changes that keep coming are seen every limit at the
// latest; an urgent one, such as a change of rules, is seen at once. Looking never takes more than one part in
// restFactor+1 of the time, and for urgent ones every other, however long the tables are and however fast they change.
const (
	quiet      = 50 * time.Millisecond
	limit      = 500 * time.Millisecond
	restFactor = 4
)

// A settle decides when to look after changes. Its zero value waits for nothing.
type settle struct {
	first, last time.Time // of the changes not looked at yet
	end         time.Time // of the last look
	cost        time.Duration
	urgent      bool // do not wait for quiet
}

// change notes that something changed.
func (s *settle) change(now time.Time) {
	if s.first.IsZero() {
		s.first = now
	}
	s.last = now
}

// hurry notes that what changed will not bear waiting.
func (s *settle) hurry() { s.urgent = true }

// due returns the moment to look; ok is false if nothing changed.
func (s *settle) due() (at time.Time, ok bool) {
	if s.first.IsZero() {
		return time.Time{}, false
	}
	at, rest := s.last.Add(quiet), s.end.Add(restFactor*s.cost)
	if s.urgent {
		at, rest = s.last, s.end.Add(s.cost)
	}
	if late := s.first.Add(limit); late.Before(at) {
		at = late
	}
	if at.Before(rest) {
		at = rest
	}
	return at, true
}

// looking forgets the changes up to now: they will be seen.
func (s *settle) looking() { s.first, s.last, s.urgent = time.Time{}, time.Time{}, false }

// looked notes what looking cost.
func (s *settle) looked(start, end time.Time) { s.end, s.cost = end, end.Sub(start) }

// clockInterval is how often the clocks are compared, clockSlack how far they may drift apart in between.
const (
	clockInterval = 10 * time.Second
	clockSlack    = 2 * time.Second
)

// jumped reports whether the wall clock and the monotonic clock, which stands still in suspend, moved apart
// between two readings of [time.Now].
func jumped(before, now time.Time) bool {
	return apart(now.Round(0).Sub(before.Round(0)), now.Sub(before))
}

func apart(wall, monotonic time.Duration) bool { return (wall - monotonic).Abs() > clockSlack }
