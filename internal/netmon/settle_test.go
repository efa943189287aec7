package netmon

import (
	"testing"
	"time"
)

func TestSettle(t *testing.T) {
	start := time.Unix(1000, 0)
	ms := func(n int) time.Time { return start.Add(time.Duration(n) * time.Millisecond) }
	tests := []struct {
		name    string
		changes []int // in ms after start
		cost    time.Duration
		want    int // when to look, in ms after start; -1 never
	}{
		{"nothing", nil, 0, -1},
		{"one change", []int{0}, 0, 50},
		{"a few", []int{0, 10, 40}, 0, 90},
		{"a flood", []int{0, 100, 200, 300, 400, 490, 499}, 0, 500},
		{"after a dear look", []int{10}, 100 * time.Millisecond, 400},
		{"after a cheap look", []int{10}, 5 * time.Millisecond, 60},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var s settle
			s.looked(start.Add(-tt.cost), start)
			for _, at := range tt.changes {
				s.change(ms(at))
			}
			due, ok := s.due()
			if ok != (tt.want >= 0) || ok && !due.Equal(ms(tt.want)) {
				t.Errorf("due %v after start (%v), want %d ms", due.Sub(start), ok, tt.want)
			}
			if s.looking(); ok {
				if _, ok := s.due(); ok {
					t.Error("still due after looking")
				}
			}
		})
	}
}

func TestSettleHurries(t *testing.T) {
	now := time.Unix(1000, 0)
	var s settle
	s.change(now)
	s.hurry()
	if due, ok := s.due(); !ok || !due.Equal(now) {
		t.Errorf("due %v after the change (%v), want at once", due.Sub(now), ok)
	}
	s.looking()
	s.change(now)
	if due, _ := s.due(); due.Equal(now) {
		t.Error("the next change hurries too")
	}
}

func TestJumped(t *testing.T) {
	before := time.Now() // has a monotonic reading
	if now := before.Add(time.Minute); jumped(before, now) {
		t.Error("both clocks went on for a minute: taken for a jump")
	}
	if now := time.Now(); jumped(before.Add(-time.Hour), now) {
		t.Error("both clocks went on for an hour: taken for a jump")
	}
	if !apart(time.Minute, time.Second) || !apart(0, time.Minute) || apart(time.Minute, time.Minute+time.Second) {
		t.Error("apart is wrong")
	}
}
