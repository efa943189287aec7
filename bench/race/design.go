package main

import (
	"context"

	"golang.org/x/sys/unix"

	"sidestep/internal/lab"
	"sidestep/internal/lab/actor"
)

// A mode says what the list of a design means.
type mode string

const (
	exclude mode = "exclude" // listed programs belong on the uplink, all others in the tunnel
	include mode = "include" // listed programs belong in the tunnel, all others on the uplink
)

// facts are what the tables say of a design.
type facts struct {
	Name  string `json:"name"`
	Mode  mode   `json:"mode"`
	Agent bool   `json:"agent"` // whether it has a process that can be killed
}

// A place is where a design is put in force.
type place struct {
	world  *lab.World
	cgroup string // of cgroup2, with all programs of the race in it and nothing else
	dir    string // for files
}

// A design is a way to split the traffic of a machine. It governs one place at a time.
type design interface {
	facts() facts
	// start puts the design in force with an empty list.
	start(ctx context.Context, at place) error
	// list makes path the listed program. It returns when the design says that this holds. running are those of its
	// processes that somebody would bring in by hand.
	list(ctx context.Context, path string, running []*actor.Actor) error
	// image is how a listed program is started.
	image(path string, args ...string) actor.Image
	// signal sends a signal to the agent.
	signal(unix.Signal) error
	// stop takes everything back. An agent that was killed is no obstacle.
	stop() error
}

// designs returns all that race, each once.
func designs() []design {
	return []design{
		&none{},
		&tracker{},
		&pidmap{},
		&pidmap{include: true},
		&launcher{},
		&product{},
	}
}

// plainImage is a program that is started as any other.
func plainImage(path string, args []string) actor.Image {
	return actor.Image{Path: path, Args: append([]string{path}, args...)}
}
