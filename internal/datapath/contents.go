package datapath

import (
	"errors"

	"github.com/cilium/ebpf"
)

// contents reads a whole map of numbers.
func contents[K comparable](m *ebpf.Map) (map[K]uint32, error) {
	var (
		k K
		v uint32
	)
	all := map[K]uint32{}
	entries := m.Iterate()
	for entries.Next(&k, &v) {
		all[k] = v
	}
	return all, entries.Err()
}

// put writes what a map does not have yet, or has otherwise. No value is 0.
func put[K comparable](m *ebpf.Map, have, want map[K]uint32) error {
	for k, v := range want {
		if have[k] == v {
			continue
		}
		if err := m.Put(k, v); err != nil {
			return err
		}
	}
	return nil
}

// drop deletes what a map has and should not have.
func drop[K comparable](m *ebpf.Map, have, want map[K]uint32) error {
	for k := range have {
		if _, ok := want[k]; ok {
			continue
		}
		if err := deleted(m.Delete(k)); err != nil {
			return err
		}
	}
	return nil
}

// deleted forgives deleting what is not there.
func deleted(err error) error {
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return nil
	}
	return err
}

// empty deletes all that a map has.
func empty(m *ebpf.Map) error {
	for {
		key, err := m.NextKeyBytes(nil)
		if err != nil || key == nil {
			return err
		}
		if err := deleted(m.Delete(key)); err != nil {
			return err
		}
	}
}
