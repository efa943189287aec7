package datapath

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
)

// A pinnable is a map or a link.
type pinnable interface {
	Pin(path string) error
	Unpin() error
}

// Repin pins again what somebody has removed the pins of, and says how many were missing. What is in force does not
// depend on pins while we hold it; without them it would end with us.
func (d *Datapath) Repin() (missing int, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.published {
		return 0, nil
	}
	var errs []error
	look := func(path string, p pinnable) {
		_, err := os.Lstat(path)
		if errors.Is(err, fs.ErrNotExist) {
			missing++
			err = pinAgain(path, p)
		}
		errs = append(errs, err)
	}
	for name, m := range d.pinnedMaps() {
		look(filepath.Join(d.opts.Pins, mapsDir, name), m)
	}
	for _, name := range slices.SortedFunc(maps.Keys(d.links), byOrder) {
		look(filepath.Join(d.opts.Pins, linksDir, name), d.links[name])
	}
	return missing, errors.Join(errs...)
}

func pinAgain(path string, p pinnable) error {
	for _, dir := range []string{filepath.Dir(filepath.Dir(path)), filepath.Dir(path)} {
		if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("create the pin directory: %w", err)
		}
	}
	if err := p.Unpin(); err != nil { // it takes itself for pinned, perhaps there
		return fmt.Errorf("pin again: %w", err)
	}
	if err := p.Pin(path); err != nil {
		return fmt.Errorf("pin again: %w", err)
	}
	return nil
}
