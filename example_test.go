//go:build linux

package sidestep_test

import (
	"bytes"
	"context"
	"log"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"sidestep"
	"sidestep/internal/lab"
	"sidestep/internal/lab/labtest"
)

// A VPN client embeds the engine: it runs beside the tunnel, and its user excludes programs.
func Example() {
	ctx, disconnect := context.WithCancel(context.Background())
	defer disconnect()
	engine, err := sidestep.New(sidestep.Options{State: "/var/lib/myvpn/split", Tunnels: []string{"myvpn0"}})
	if err != nil {
		log.Fatal(err)
	}
	stopped := make(chan error, 1)
	go func() { stopped <- engine.Run(ctx) }()
	select {
	case <-engine.Ready():
	case err := <-stopped:
		log.Fatal(err)
	}
	changes, err := engine.Exclude(ctx, []string{"/usr/bin/steam", "/opt/games/"})
	if err != nil {
		log.Print(err) // and the policy is as it was
	}
	for _, c := range changes.Changes {
		log.Print(c.Path, " is ", c.Result) // in force already, for what runs and what will
	}

	disconnect() // everything is taken back, in the safe order
	log.Print(<-stopped)
}

// TestExample runs the example in a network namespace of its own, with a /var/lib of its own.
func TestExample(t *testing.T) {
	labtest.NeedRoot(t)
	if err := unix.Mount("tmpfs", "/var/lib", "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount("/var/lib", unix.MNT_DETACH)
	ns, err := lab.NewNamespace()
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	var said bytes.Buffer
	log.SetOutput(&said)
	defer log.SetOutput(os.Stderr)
	if err := ns.Do(func() error { Example(); return nil }); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"/usr/bin/steam is excluded", "/opt/games/ is excluded", "<nil>"} {
		if !strings.Contains(said.String(), want) {
			t.Errorf("the example did not say %q: %s", want, &said)
		}
	}
}
