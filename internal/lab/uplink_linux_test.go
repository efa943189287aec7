package lab

import "testing"

func TestMachineMovesBetweenItsUplinks(t *testing.T) {
	w := newWorld(t, Options{Spare: true})
	ctx := testContext(t)
	check := func(want4, want6 string) {
		t.Helper()
		wantSource(t, w, Internet4, want4, Mark(Fwmark))
		wantSource(t, w, Internet6, want6, Mark(Fwmark))
		wantSource(t, w, Internet4, Tunnel4)
		wantSource(t, w, Internet6, Tunnel6)
	}
	steps := []struct {
		name         string
		do           func() error
		want4, want6 string
	}{
		{"with the first alone", func() error { return nil }, Machine4, Machine6},
		{"with both", func() error { return w.SpareUp(ctx) }, Machine4, Machine6},
		{"with the second alone", w.UplinkDown, Spare4, Spare6},
		{"with both again", func() error { return w.UplinkUp(ctx) }, Machine4, Machine6},
		{"with the first alone again", w.SpareDown, Machine4, Machine6},
		{"with other addresses", func() error { return w.Renumber(ctx, "192.0.2.77", "2001:db8:1::77") }, "192.0.2.77", "2001:db8:1::77"},
	}
	for _, s := range steps {
		before, err := w.Wires().Uplink.Count(Match{Payload: true})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.do(); err != nil {
			t.Fatal(err)
		}
		t.Log(s.name)
		check(s.want4, s.want6)
		if after, err := w.Wires().Uplink.Count(Match{Payload: true}); err != nil || after <= before {
			t.Errorf("%s: %d packets by the uplinks, then %d (%v), want more", s.name, before, after, err)
		}
	}
}
