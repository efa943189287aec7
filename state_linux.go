package sidestep

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"sidestep/internal/route"
	"sidestep/policy"
)

const (
	policyFile  = "policy.json"
	networkFile = "network.json"
	lockFile    = "lock"
)

// errRunning: another engine owns the state directory.
var errRunning = errors.New("another sidestep runs on this state directory")

// errDamaged: a state file does not hold what an engine wrote.
var errDamaged = errors.New("is damaged")

// savedPolicy is what policy.json holds: the policy as it was last acknowledged.
type savedPolicy struct {
	Version int        `json:"version"`
	Apps    []savedApp `json:"apps"`
}

// savedApp is an app with its number in the datapath, so that a new engine speaks of the same app as the kernel.
type savedApp struct {
	policy.App
	ID uint32 `json:"id"`
	// Configured: it came from [Options.Exclude], and goes when that no longer has it.
	Configured bool `json:"configured,omitempty"`
}

// savedNetwork is what network.json holds: how to find and put back what the engine changed in the network.
type savedNetwork struct {
	Version  int         `json:"version"`
	Mask     uint32      `json:"mask"`
	Table    uint32      `json:"table"`
	Priority uint32      `json:"priority"`
	Protocol uint8       `json:"protocol"`
	Saved    route.Saved `json:"saved"`
}

func (s savedNetwork) config() route.Config {
	return route.Config{Mask: s.Mask, Table: s.Table, Priority: s.Priority, Protocol: s.Protocol}
}

// readState reads a file of the state directory. A file that is not there leaves v as it is.
func readState(dir, name string, v any) error {
	file := filepath.Join(dir, name)
	b, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read state: %w", err)
	}
	if err := json.Unmarshal(b, v); err != nil {
		return damaged(file, err)
	}
	return nil
}

func damaged(file string, err error) error {
	return fmt.Errorf("state file %s %w: %w", file, errDamaged, err)
}

// writeState replaces a file of the state directory: after a crash it holds the old content or the new, and the new if
// writeState has returned.
func writeState(dir, name string, v any) error {
	b, err := json.MarshalIndent(v, "", "\t")
	if err != nil {
		return fmt.Errorf("encode %s: %w", name, err)
	}
	f, err := os.CreateTemp(dir, name+".*")
	if err != nil {
		return fmt.Errorf("write state: %w", err)
	}
	defer os.Remove(f.Name()) // gone by then, if all went well
	_, err = f.Write(append(b, '\n'))
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("write state: %w", err)
	}
	if err := os.Rename(f.Name(), filepath.Join(dir, name)); err != nil {
		return fmt.Errorf("write state: %w", err)
	}
	if err := syncDir(dir); err != nil {
		return fmt.Errorf("write state: %w", err)
	}
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// sweepState removes the files that an engine was writing when it was killed.
func sweepState(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("look for half-written state: %w", err)
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), policyFile+".") && !strings.HasPrefix(e.Name(), networkFile+".") {
			continue
		}
		if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
			return fmt.Errorf("remove half-written state: %w", err)
		}
	}
	return nil
}

// lockState makes the state directory ours until the file is closed.
func lockState(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("create the state directory: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, lockFile), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the state directory: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("%s: %w", dir, errRunning)
		}
		return nil, fmt.Errorf("lock the state directory: %w", err)
	}
	return f, nil
}
