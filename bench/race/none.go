package main

import (
	"context"

	"golang.org/x/sys/unix"

	"sidestep/internal/lab/actor"
)

// none is no split tunneling: the control. Everything is in the tunnel, so every packet of a listed program is on the
// wrong side. If it is not, the sensor is broken.
type none struct{}

func (none) facts() facts { return facts{Name: "none (control)", Mode: exclude} }

func (none) start(context.Context, place) error { return nil }

func (none) list(context.Context, string, []*actor.Actor) error { return nil }

func (none) image(path string, args ...string) actor.Image { return plainImage(path, args) }

func (none) signal(unix.Signal) error { return nil }

func (none) stop() error { return nil }
