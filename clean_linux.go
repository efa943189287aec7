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
)

// Clean removes what an engine that is dead left in force: pins, rules, routes, changed sysctls. It returns one line for
// each thing removed; cleaning again removes nothing. The policy stays. Call it in the network namespace that the engine
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
	removed, err := cleanPins(o.State)
	if err != nil {
		return removed, err
	}
	saved := networkOf(o.routing(), route.Saved{})
	if err := readState(o.State, networkFile, &saved); err != nil {
		return removed, err
	}
	lines, err := cleanRoutes(saved)
	removed = append(removed, lines...)
	if err != nil {
		return removed, err
	}
	if err := os.Remove(filepath.Join(o.State, networkFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return removed, fmt.Errorf("remove state: %w", err)
	}
	return removed, nil
}

// cleanPins removes the pins, if there is a BPF file system that could hold any.
func cleanPins(state string) ([]string, error) {
	mount, err := mountinfo.BPFFS()
	if errors.Is(err, mountinfo.ErrNoBPFFS) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	pins, err := datapath.Clean(pinsOf(mount, state))
	lines := make([]string, len(pins))
	for i, p := range pins {
		lines[i] = "pin " + p
	}
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
