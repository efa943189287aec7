package lab

import (
	"context"
	"testing"
	"time"

	"sidestep/internal/lab/labtest"
)

// patience bounds every wait of the tests.
const patience = 60 * time.Second

// testContext returns a context that ends when the test has had its time.
func testContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// newWorld builds a world that ends with the test.
func newWorld(t *testing.T, opts Options) *World {
	t.Helper()
	labtest.NeedRoot(t)
	w, err := New(testContext(t), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	})
	return w
}

func TestUnmarkedTrafficTakesTheTunnelAndMarkedTrafficTheUplink(t *testing.T) {
	w := newWorld(t, Options{})
	tests := []struct {
		network, host string
		mark          uint32
		want          string
	}{
		{"tcp", Internet4, 0, Tunnel4},
		{"udp", Internet4, 0, Tunnel4},
		{"tcp", Internet6, 0, Tunnel6},
		{"udp", Internet6, 0, Tunnel6},
		{"tcp", Internet4, Fwmark, Machine4},
		{"udp", Internet4, Fwmark, Machine4},
		{"tcp", Internet6, Fwmark, Machine6},
		{"udp", Internet6, Fwmark, Machine6},
		{"tcp", LAN4, 0, Machine4},
		{"udp", LAN6, 0, Machine6},
		{"udp", TunnelHost4, 0, Tunnel4},
		{"tcp", TunnelHost6, 0, Tunnel6},
	}
	for _, tt := range tests {
		got, err := w.Machine.Source(testContext(t), tt.network, "["+tt.host+"]:7000", Mark(tt.mark))
		if err != nil || got.Addr().String() != tt.want {
			t.Errorf("%s to %s with mark %d: source %v, %v; want %s", tt.network, tt.host, tt.mark, got, err, tt.want)
		}
	}
}

func BenchmarkNewWorld(b *testing.B) {
	labtest.NeedRoot(b)
	for b.Loop() {
		w, err := New(context.Background(), Options{})
		if err != nil {
			b.Fatal(err)
		}
		if err := w.Close(); err != nil {
			b.Fatal(err)
		}
	}
}
