package datapath

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
)

// What may keep a pinned datapath from being taken over.
var (
	// ErrLayout: the pinned maps are an older version's, and of a layout whose contents this one can't take over.
	ErrLayout = errors.New("the pinned datapath has another layout")
	// ErrLater: the pinned maps are a later version's.
	ErrLater = errors.New("the pinned datapath is a later version's")
	// ErrNamespace: the pinned datapath governs another network namespace.
	ErrNamespace = errors.New("the pinned datapath governs another network namespace")
	// ErrDamaged: something is in force of which the pins do not say what.
	ErrDamaged = errors.New("the pins are damaged")
)

// What settings begin with in every version: abi, seed, cookie.
const (
	abiOffset    = 0
	cookieOffset = 24
	settingsHead = 32
)

// settingsOf reads what settings say in every version.
func settingsOf(m *ebpf.Map) (abi, cookie uint64, err error) {
	b, err := m.LookupBytes(uint32(0))
	if err != nil {
		return 0, 0, fmt.Errorf("read the pinned settings: %w", err)
	}
	if len(b) < settingsHead {
		return 0, 0, fmt.Errorf("%w: settings of %d bytes", ErrDamaged, len(b))
	}
	return binary.NativeEndian.Uint64(b[abiOffset:]), binary.NativeEndian.Uint64(b[cookieOffset:]), nil
}

// fit is what can be done with a pinned datapath.
type fit int

const (
	adopts   fit = iota // its maps are ours
	succeeds            // its maps are another version's, whose contents can be carried over
)

// compare says how a pinned datapath fits the maps that this version has.
func compare(spec *ebpf.CollectionSpec, pinned map[string]*ebpf.Map, cookie uint64) (fit, error) {
	if pinned["settings"] == nil {
		return 0, fmt.Errorf("%w: there are links and no settings", ErrDamaged)
	}
	abi, governed, err := settingsOf(pinned["settings"])
	switch {
	case err != nil:
		return 0, err
	case governed != cookie:
		return 0, ErrNamespace
	case abi > abiVersion:
		return 0, fmt.Errorf("%w: layout %d, this program knows %d", ErrLater, abi, abiVersion)
	}
	var differs error
	for name, m := range pinned {
		if s := spec.Maps[name]; s == nil {
			differs = errors.Join(differs, fmt.Errorf("map %s: not known", name))
		} else if err := s.Compatible(m); err != nil {
			differs = errors.Join(differs, fmt.Errorf("map %s: %w", name, err))
		}
	}
	if abi == abiVersion && differs == nil {
		return adopts, nil
	}
	for _, name := range carried {
		if m := pinned[name]; m == nil || !alike(m, spec.Maps[name]) {
			return 0, fmt.Errorf("%w: %d, this program knows %d; map %s can't be carried over", ErrLayout, abi, abiVersion, name)
		}
	}
	return succeeds, nil
}

// alike reports whether the entries of a map fit another one.
func alike(m *ebpf.Map, spec *ebpf.MapSpec) bool {
	return m.Type() == spec.Type && m.KeySize() == spec.KeySize && m.ValueSize() == spec.ValueSize
}
