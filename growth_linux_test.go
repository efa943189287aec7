package sidestep

import (
	"testing"
	"time"
)

func TestASocketThatWasRefusedIsForgottenAfterTenMinutes(t *testing.T) {
	var g growth
	begin := time.Now()
	for _, step := range []struct {
		after time.Duration
		count uint64
		want  bool
	}{
		{0, 0, false},
		{time.Hour, 3, true},
		{time.Hour + 9*time.Minute, 3, true},
		{time.Hour + 11*time.Minute, 3, false},
		{2 * time.Hour, 4, true},
		{2*time.Hour + 9*time.Minute, 5, true},
		{2*time.Hour + 11*time.Minute, 5, true},
		{2*time.Hour + 20*time.Minute, 5, false},
	} {
		if got := g.lately(step.count, begin.Add(step.after)); got != step.want {
			t.Errorf("after %v with %d: %t, want %t", step.after, step.count, got, step.want)
		}
	}
}
