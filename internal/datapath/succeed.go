package datapath

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"sidestep/internal/datapath/bpf"
)

// Taking over from another layout.
//
//	Open  ─▶ maps of our own, with what the old ones know of the network and of what is in force
//	         tracepoints, guard and socket hook attached beside the old ones, which go on
//	Set   ─▶ labels carried over, then notes, then the hooks on calls attached: now both know the same
//	         the change, as ever
//	         our pins in the place of the old ones, by one exchange; the old ones go
//
// Both decide for a while, and agree: what one lets pass the other may still stop. Whoever is cut off before the exchange
// leaves the old datapath as it was; after it, the new one.

// carried are the maps without whose contents nothing can be taken over; mapped are of use if their entries fit.
var (
	carried = []string{"apps", "labels", "refused", "notes"}
	mapped  = []string{"links", "addresses", "places", "cut"}
)

// succeed fills the maps of a new datapath with what holds now by an old one.
func (d *Datapath) succeed(cookie uint64) error {
	if err := d.found(cookie); err != nil {
		return err
	}
	if err := d.expectLabels(); err != nil {
		return err
	}
	for _, name := range mapped {
		if err := d.carry(name); err != nil {
			return err
		}
	}
	if err := d.hush(); err != nil { // perhaps the old one has just begun to
		return err
	}
	err := eachEntry(d.older["apps"], func(key, value []byte) error {
		if id := binary.NativeEndian.Uint32(key); binary.NativeEndian.Uint32(value) == exitOutside { // first in every version
			d.rules.apps[id] = id >= firstApp
			return d.writeApp(id, bpf.DatapathApp{Exit: exitOutside})
		}
		return nil
	})
	delete(d.rules.apps, Launched)
	if err != nil {
		return fmt.Errorf("carry over what is in force: %w", err)
	}
	return d.reserve(d.rules)
}

// carry copies the entries of an old map, if they fit ours.
func (d *Datapath) carry(name string) error {
	old, ours := d.older[name], d.pinnedMaps()[name]
	if old == nil || old.KeySize() != ours.KeySize() || old.ValueSize() != ours.ValueSize() {
		return nil
	}
	if _, err := copyEntries(ours, old, ebpf.UpdateAny); err != nil {
		return fmt.Errorf("carry over map %s: %w", name, err)
	}
	return nil
}

// expectLabels sets every bit of labelled: anybody may have a label that is yet to be carried over. Setting them one by one
// would race with the programs. Exits clear them.
func (d *Datapath) expectLabels() error {
	words := make([]uint64, d.objs.Labelled.MaxEntries())
	indexes := make([]uint32, len(words))
	for i := range words {
		words[i], indexes[i] = ^uint64(0), uint32(i)
	}
	if _, err := d.objs.Labelled.BatchUpdate(indexes, words, nil); err != nil {
		return fmt.Errorf("expect labels: %w", err)
	}
	return nil
}

// takeOver makes our hooks know what the old ones know: processes first, so that the sockets they make from then on are known,
// then the sockets.
func (d *Datapath) takeOver() error {
	for _, name := range []string{"labels", "refused"} {
		// Whoever was born meanwhile, to a parent that had not been carried over, is found by the next round.
		for flags, news := ebpf.UpdateAny, 1; news > 0; flags = ebpf.UpdateNoExist {
			var err error
			if news, err = copyEntries(d.objs.Labels, d.older[name], flags); err != nil {
				return fmt.Errorf("carry over map %s: %w", name, err)
			}
		}
	}
	// Whoever was found to be a stranger before that is judged again.
	if err := d.configure(func(c *bpf.DatapathConfig) { c.Generation++ }); err != nil {
		return err
	}
	if _, err := d.walkOver(d.objs.WalkCarry, d.older["notes"]); err != nil {
		return fmt.Errorf("carry over the notes of sockets: %w", err)
	}
	return d.attachHooks(d.callHooks())
}

// replaceOlder puts our pins in the place of those of the older datapath, which goes.
func (d *Datapath) replaceOlder() error {
	if d.older == nil {
		return nil
	}
	if err := d.carry("cut"); err != nil { // what the old one has cut since
		return err
	}
	aside := d.opts.Pins + asideSuffix
	if err := d.pinAside(); err != nil {
		return err
	}
	if err := unix.Renameat2(unix.AT_FDCWD, aside, unix.AT_FDCWD, d.opts.Pins, unix.RENAME_EXCHANGE); err != nil {
		return fmt.Errorf("publish the pins: %w", err)
	}
	d.published = true
	closeMaps(d.older)
	d.older = nil
	err := detachAll(aside)
	_, left := cleanDir(aside)
	return errors.Join(err, left)
}

// detachAll ends links now. To remove a pin ends its link too, but the kernel takes its time: the old hooks would still decide
// when a change that we make next is said to be in force. Links to tracepoints can't be detached; they decide nothing.
func detachAll(dir string) error {
	entries, err := os.ReadDir(filepath.Join(dir, linksDir))
	if err != nil {
		return fmt.Errorf("list the links of the older version: %w", err)
	}
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return removalOrder(a.Name(), b.Name()) })
	var errs []error
	for _, e := range entries {
		l, err := link.LoadPinnedLink(filepath.Join(dir, linksDir, e.Name()), nil)
		if err == nil {
			if err = l.Detach(); errors.Is(err, ebpf.ErrNotSupported) {
				err = nil
			}
			l.Close()
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("detach link %s of the older version: %w", e.Name(), err))
		}
	}
	return errors.Join(errs...)
}

// eachEntry calls fn with every entry of a map, also of one that changes meanwhile.
func eachEntry(m *ebpf.Map, fn func(key, value []byte) error) error {
	var key, value []byte
	entries := m.Iterate()
	for entries.Next(&key, &value) {
		if err := fn(key, value); err != nil {
			return err
		}
	}
	return entries.Err()
}

// copyEntries copies the entries of a map that another one does not have, or has otherwise, and returns how many. With
// UpdateNoExist it leaves alone what is there.
func copyEntries(to, from *ebpf.Map, flags ebpf.MapUpdateFlags) (news int, err error) {
	err = eachEntry(from, func(key, value []byte) error {
		have, err := to.LookupBytes(key)
		if err != nil || bytes.Equal(have, value) {
			return err
		}
		err = to.Update(key, value, flags)
		if errors.Is(err, ebpf.ErrKeyExist) {
			return nil
		}
		news++
		return err
	})
	return news, err
}

// removeRemnant takes away what a removal that was cut off has left: it is not in force any more.
func removeRemnant(pins string) error {
	entries, err := os.ReadDir(filepath.Join(pins, linksDir))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("look for a pinned datapath: %w", err)
	}
	if len(entries) > 0 {
		return nil
	}
	_, err = cleanDir(pins)
	return err
}
