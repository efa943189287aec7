package datapath

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/cilium/ebpf"
)

// ErrGoverned: another datapath governs the network namespace.
var ErrGoverned = errors.New("another sidestep governs this network namespace")

// alone fails if a datapath pinned beside ours governs the same network namespace, driven or not: two would undo each
// other's work.
func alone(pins string, cookie uint64) error {
	dir, self := filepath.Split(pins)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("look for other datapaths: %w", err)
	}
	for _, e := range entries {
		if !e.IsDir() || e.Name() == self || strings.HasSuffix(e.Name(), asideSuffix) {
			continue
		}
		other := filepath.Join(dir, e.Name())
		governed, err := governs(other)
		if err != nil {
			return fmt.Errorf("look for other datapaths: %w", err)
		}
		if governed == cookie {
			return fmt.Errorf("%w; it is pinned in %s", ErrGoverned, other)
		}
	}
	return nil
}

// governs returns the cookie of the network namespace that a pinned datapath governs, and 0 if that is none of ours.
func governs(pins string) (uint64, error) {
	m, err := ebpf.LoadPinnedMap(filepath.Join(pins, mapsDir, "settings"), &ebpf.LoadPinOptions{ReadOnly: true})
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer m.Close()
	_, cookie, err := settingsOf(m)
	if errors.Is(err, ErrDamaged) {
		return 0, nil
	}
	return cookie, err
}
