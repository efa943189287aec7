package sidestep

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"sidestep/internal/datapath"
	"sidestep/internal/mountinfo"
	"sidestep/internal/route"
	"sidestep/internal/sockets"
)

// Clean removes what an engine that is dead left in force: pins, rules, routes, changed sysctls. Before that it closes what
// excluded programs have open outside, as an engine does that is told to stop. It returns one line for each thing removed;
// cleaning again removes nothing. The policy stays. Call it in the network namespace that the engine
// governed. While an engine runs on the state directory it refuses.
func Clean(state string) ([]string, error) {
	o, err := Options{State: state}.withDefaults()
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(o.State); err == nil {
		lock, err := lockState(o.State)
		if err != nil {
			return nil, err
		}
		defer lock.Close()
	}
	saved := networkOf(o.routing(), route.Saved{})
	removed := []string{}
	switch err := readState(o.State, networkFile, &saved); {
	case errors.Is(err, errDamaged):
		saved = networkOf(o.routing(), route.Saved{})
		removed = append(removed, fmt.Sprintf("%v: system settings are not put back, and rules and routes only by the default numbers", err))
	case err != nil:
		return nil, err
	}
	pins, errPins := cleanPins(o.State, saved.Mask)
	routes, errRoutes := cleanRoutes(saved)
	removed = append(append(removed, pins...), routes...)
	if err := errors.Join(errPins, errRoutes); err != nil {
		return removed, err
	}
	if err := os.Remove(filepath.Join(o.State, networkFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return removed, fmt.Errorf("remove state: %w", err)
	}
	return removed, nil
}

// cleanPins removes the pins, if there is a BPF file system that could hold any.
func cleanPins(state string, mask uint32) ([]string, error) {
	mount, err := mountinfo.BPFFS()
	if errors.Is(err, mountinfo.ErrNoBPFFS) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	dir := pinsOf(mount, state)
	var lines []string
	if _, err := os.Stat(dir); err == nil {
		if lines, err = endOutside(dir, mask); err != nil {
			lines = append(lines, fmt.Sprintf("no connections of excluded programs, which go on inside: %v", err))
		}
	}
	pins, err := datapath.Clean(dir)
	for _, p := range pins {
		lines = append(lines, "pin "+p)
	}
	return lines, err
}

// endOutside takes over the pinned datapath for a moment, to end what is open outside. It returns what it closed.
func endOutside(pins string, mask uint32) ([]string, error) {
	cgroup, err := mountinfo.Cgroup2Root()
	if err != nil {
		return nil, err
	}
	k, err := datapath.Open(datapath.Options{Pins: pins, Cgroup: cgroup, Mask: mask})
	if err != nil {
		return nil, err
	}
	defer k.Close()
	closer, err := sockets.New()
	if err != nil {
		return nil, err
	}
	defer closer.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := k.Withdraw(ctx); err != nil {
		return nil, fmt.Errorf("include every app: %w", err)
	}
	var lines []string
	err = closeOutside(k, closer, mask, func(s datapath.Stray) {
		flow := flowOf(s.Flow.Protocol, s.Flow.Local, s.Flow.Remote)
		lines = append(lines, "connection "+flow.String())
	})
	return lines, err
}

func cleanRoutes(saved savedNetwork) ([]string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	a, err := route.New(saved.config(), saved.Saved, nil)
	if err != nil {
		return nil, err
	}
	removed, err := a.Clean(ctx)
	return removed, errors.Join(err, a.Close())
}
