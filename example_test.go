//go:build linux

package sidestep_test

import (
	"context"
	"log"

	"sidestep"
)

// A VPN client embeds the engine: it runs beside the tunnel, and its user excludes programs.
func Example() {
	ctx, disconnect := context.WithCancel(context.Background())
	defer disconnect()
	engine, err := sidestep.New(sidestep.Options{State: "/var/lib/myvpn/split", Tunnels: []string{"myvpn0"}})
	if err != nil {
		log.Fatal(err)
	}
	stopped := make(chan error)
	go func() { stopped <- engine.Run(ctx) }()

	<-engine.Ready()
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
