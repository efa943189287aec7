package sdnotify

import (
	"net"
	"path/filepath"
	"regexp"
	"testing"
	"time"
)

func env(m map[string]string) func(string) string { return func(k string) string { return m[k] } }

func TestStates(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	for _, name := range []string{path, "@" + path} {
		manager, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
		if err != nil {
			t.Fatal(err)
		}
		defer manager.Close()
		n := New(env(map[string]string{"NOTIFY_SOCKET": name}), 1)
		for _, tt := range []struct {
			send func() error
			want string
		}{
			{func() error { return n.Ready("up") }, "^READY=1\nSTATUS=up$"},
			{n.Reloading, "^RELOADING=1\nMONOTONIC_USEC=[1-9][0-9]+$"},
			{n.Stopping, "^STOPPING=1$"},
			{func() error { return n.Status("one\nREADY=1") }, "^STATUS=one READY=1$"},
			{n.Watchdog, "^WATCHDOG=1$"},
		} {
			if err := tt.send(); err != nil {
				t.Fatal(err)
			}
			b := make([]byte, 1024)
			size, err := manager.Read(b)
			if err != nil {
				t.Fatal(err)
			}
			if got := string(b[:size]); !regexp.MustCompile(tt.want).MatchString(got) {
				t.Errorf("got %q, want %s", got, tt.want)
			}
		}
	}
}

func TestNobodyToTell(t *testing.T) {
	if err := New(env(nil), 1).Ready("up"); err != nil {
		t.Error(err)
	}
	gone := New(env(map[string]string{"NOTIFY_SOCKET": filepath.Join(t.TempDir(), "gone")}), 1)
	if gone.Ready("up") == nil {
		t.Error("a socket that is gone takes messages")
	}
}

func TestInterval(t *testing.T) {
	for _, tt := range []struct {
		usec, pid string
		want      time.Duration
	}{
		{"30000000", "", 15 * time.Second},
		{"30000000", "7", 15 * time.Second},
		{"30000000", "8", 0},
		{"0", "", 0},
		{"x", "", 0},
		{"", "", 0},
	} {
		n := New(env(map[string]string{"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": tt.usec, "WATCHDOG_PID": tt.pid}), 7)
		if got := n.Interval(); got != tt.want {
			t.Errorf("usec %q pid %q: %v, want %v", tt.usec, tt.pid, got, tt.want)
		}
	}
}
