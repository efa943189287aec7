// Package datapath drives the kernel part of the engine: it loads and pins the programs, writes the rules, moves apps
// from one side to the other, and reads back what the kernel knows.
//
//	Open ──▶ tracepoints, socket hooks and guard attached, maps pinned
//	  │
//	 Set(apps) : rules ─▶ walks over what lives ─▶ one write per app ─▶ in force
//	  │
//	Close (the kernel goes on alone)   or   Remove (nothing is left)
//
// Everything that decides is in the kernel, in folder bpf. Nothing here is needed for a process to be classified or for
// a socket to be marked; a Datapath that is gone changes nothing.
package datapath

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math/bits"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/features"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"sidestep/internal/datapath/bpf"
)

// Launched is the app of everything that `sidestep run` started.
const Launched = 1

const firstApp = Launched + 1

// Options say where a Datapath lives and what it governs.
type Options struct {
	// Pins is the directory for links and maps, on a BPF file system. It is created with mode 0700.
	Pins string
	// Cgroup is a directory of the cgroup2 hierarchy; sockets made in it and below are decided. The root.
	Cgroup string
	// Mask selects the mark bits that belong to the engine; they hold the exit's number.
	Mask uint32

	sizes map[string]uint32 // of maps, where tests want them full soon
}

// Datapath is the loaded kernel part. Its methods may be called from several goroutines.
type Datapath struct {
	opts      Options
	netns     *os.File
	adopted   bool                 // the pinned maps are ours
	older     map[string]*ebpf.Map // the pinned maps of another layout, until we have taken over
	succeeded bool                 // there were such maps
	published bool                 // what we attach is pinned
	asksNetns bool
	netfilter bool // there are programs for it
	objs      bpf.DatapathObjects
	links     map[string]link.Link

	mu        sync.Mutex         // guards what follows, and every write to the kernel
	settings  bpf.DatapathConfig // what the kernel has
	rules     rules              // what is in force, unless
	unsettled bool               // a change that failed could not be taken back
	closed    []int              // as in Network
}

// Open loads the datapath, or adopts the one that is pinned, in the network namespace of the calling thread.
//
// Adopting never opens a gap: new programs are attached beside the pinned ones, on the same maps, before those go.
func Open(o Options) (*Datapath, error) {
	cookie, err := netnsCookie()
	if err != nil {
		return nil, err
	}
	netns, err := ownNetns()
	if err != nil {
		return nil, err
	}
	d := &Datapath{opts: o, netns: netns, links: map[string]link.Link{}}
	if err := d.load(cookie); err != nil {
		d.Close()
		return nil, err
	}
	return d, nil
}

func (d *Datapath) load(cookie uint64) error {
	if err := alone(d.opts.Pins, cookie); err != nil {
		return err
	}
	spec, err := d.spec()
	if err != nil {
		return err
	}
	if err := d.meet(spec, cookie); err != nil {
		return err
	}
	opts := &ebpf.CollectionOptions{Cache: btf.NewCache()}
	if d.adopted {
		pinned, err := openPinnedMaps(d.opts.Pins)
		if err != nil {
			return err
		}
		defer closeMaps(pinned)
		opts.MapReplacements = pinned
	}
	if err := d.roomFor(2 * (len(spec.Maps) + len(spec.Programs))); err != nil { // each, and its pin or link
		return err
	}
	if err := spec.LoadAndAssign(&d.objs, opts); err != nil {
		return fmt.Errorf("load the kernel programs: %w", err)
	}
	if err := d.prepare(cookie); err != nil {
		return err
	}
	return d.attach(cookie)
}

// spec is what is to be loaded.
func (d *Datapath) spec() (*ebpf.CollectionSpec, error) {
	spec, err := bpf.LoadDatapath()
	if err != nil {
		return nil, fmt.Errorf("read the built-in programs: %w", err)
	}
	if err := d.specialize(spec); err != nil {
		return nil, err
	}
	for name, n := range d.opts.sizes {
		spec.Maps[name].MaxEntries = n
	}
	return spec, nil
}

// roomFor fails if n more files can't be opened. Short of them, the loader's probes report a kernel that is too old.
func (d *Datapath) roomFor(n int) error {
	open := make([]int, 0, n)
	defer func() {
		for _, fd := range open {
			_ = unix.Close(fd)
		}
	}()
	for range n {
		fd, err := unix.FcntlInt(d.netns.Fd(), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("make room for %d files (ulimit -n): %w", n, err)
		}
		open = append(open, fd)
	}
	return nil
}

// meet finds out what is in force, and whether it can be taken over.
func (d *Datapath) meet(spec *ebpf.CollectionSpec, cookie uint64) error {
	if _, err := cleanDir(d.opts.Pins + asideSuffix); err != nil { // never the whole of what is in force
		return err
	}
	if err := removeRemnant(d.opts.Pins); err != nil {
		return err
	}
	pinned, err := openPinnedMaps(d.opts.Pins)
	if err != nil || pinned == nil {
		return err
	}
	how, err := compare(spec, pinned, cookie)
	if err == nil && how == succeeds {
		d.older, d.succeeded = pinned, true
		return nil
	}
	closeMaps(pinned)
	d.adopted = err == nil
	return err
}

// specialize sets what is constant in the programs once they are loaded.
func (d *Datapath) specialize(spec *ebpf.CollectionSpec) error {
	err := features.HaveProgramHelper(ebpf.CGroupSKB, asm.FnGetNetnsCookie)
	if err != nil && !errors.Is(err, ebpf.ErrNotSupported) {
		return fmt.Errorf("ask whether a packet tells its network namespace: %w", err)
	}
	d.asksNetns = err == nil
	if d.asksNetns {
		if err := spec.Variables["asks_netns"].Set(uint32(1)); err != nil {
			return fmt.Errorf("set asks_netns: %w", err)
		}
	}
	if d.netfilter, err = haveNetfilter(); err != nil {
		return err
	}
	if !d.netfilter {
		leaveOutAnswers(spec)
	}
	age(spec)
	return deafen(spec)
}

// prepare brings the settings and what we know of the rules in line with the maps, new or adopted.
func (d *Datapath) prepare(cookie uint64) error {
	switch {
	case d.older != nil:
		return d.succeed(cookie)
	case !d.adopted:
		return d.found(cookie)
	}
	if err := d.objs.Settings.Lookup(uint32(0), &d.settings); err != nil {
		return fmt.Errorf("read the pinned settings: %w", err)
	}
	err := d.configure(d.setMask)
	if err == nil {
		d.rules, err = d.readRules()
	}
	if err != nil {
		return err
	}
	return d.writeApp(Launched, bpf.DatapathApp{Exit: exitOutside})
}

// found fills the maps of a new datapath.
func (d *Datapath) found(cookie uint64) error {
	var seed [16]byte
	rand.Read(seed[:]) // never fails: crypto/rand
	d.rules = newRules()
	err := d.configure(func(c *bpf.DatapathConfig) {
		c.Abi, c.NetnsCookie, c.NextApp = abiVersion, cookie, firstApp
		c.Seed = [2]uint64{binary.LittleEndian.Uint64(seed[:8]), binary.LittleEndian.Uint64(seed[8:])}
		d.setMask(c)
	})
	if err != nil {
		return err
	}
	return d.writeApp(Launched, bpf.DatapathApp{Exit: exitOutside})
}

func (d *Datapath) setMask(c *bpf.DatapathConfig) {
	c.MarkMask, c.MarkShift = d.opts.Mask, uint32(bits.TrailingZeros32(d.opts.Mask))
}

// attach attaches the programs and publishes the pins. What was pinned before stays in force until then, and if it has
// another layout until the first Set.
func (d *Datapath) attach(cookie uint64) error {
	if err := d.attachTraces(); err != nil {
		return err
	}
	if err := d.attachAnswers(); err != nil {
		return err
	}
	if err := d.attachHooks(d.socketHooks()); err != nil {
		return err
	}
	if d.older != nil {
		return nil
	}
	if err := d.attachHooks(d.callHooks()); err != nil {
		return err
	}
	if d.adopted {
		return d.replacePins()
	}
	return d.publish(cookie)
}

// Adopted reports whether Open found a pinned datapath in force.
func (d *Datapath) Adopted() bool { return d.adopted || d.succeeded }

// Seed is the key under which names and paths are hashed; identity.NewHasher takes it.
func (d *Datapath) Seed() [16]byte {
	var b [16]byte
	binary.LittleEndian.PutUint64(b[:8], d.settings.Seed[0])
	binary.LittleEndian.PutUint64(b[8:], d.settings.Seed[1])
	return b
}

// NewApp returns a number that no app ever had in this datapath.
func (d *Datapath) NewApp() (uint32, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	id := d.settings.NextApp
	return id, d.configure(func(c *bpf.DatapathConfig) { c.NextApp++ })
}

// reserve sees to it that NewApp will not return the number of an app that is wanted: a policy outlives the datapath that
// gave it its numbers.
func (d *Datapath) reserve(want rules) error {
	return d.configure(func(c *bpf.DatapathConfig) {
		for id := range want.apps {
			c.NextApp = max(c.NextApp, id+1)
		}
	})
}

// Close lets go of the datapath, which stays in force by its pins.
func (d *Datapath) Close() error {
	closeMaps(d.older)
	var errs []error
	for _, l := range d.links {
		errs = append(errs, l.Close())
	}
	return errors.Join(append(errs, d.objs.Close(), d.netns.Close())...)
}

// Remove takes the datapath out of the kernel. Apps still in force lose their exclusion, so the caller withdraws them
// first, and closes what is open.
func (d *Datapath) Remove() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	_, err := Clean(d.opts.Pins)
	return errors.Join(err, d.Close())
}

// Clean removes the pins of a datapath that nobody drives any more, and with them the datapath itself. It returns what
// it removed. What can't be removed does not keep the rest.
func Clean(pins string) ([]string, error) {
	removed, err := cleanDir(pins)
	aside, errAside := cleanDir(pins + asideSuffix)
	return append(removed, aside...), errors.Join(err, errAside)
}

func cleanDir(dir string) (removed []string, err error) {
	var paths []string
	var errs []error
	// Links first: the socket hook must be gone before the maps that it reads.
	for _, sub := range []string{linksDir, mapsDir} {
		entries, err := os.ReadDir(filepath.Join(dir, sub))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, fmt.Errorf("read pins: %w", err))
		}
		slices.SortFunc(entries, func(a, b fs.DirEntry) int { return removalOrder(a.Name(), b.Name()) })
		for _, e := range entries {
			paths = append(paths, filepath.Join(dir, sub, e.Name()))
		}
		paths = append(paths, filepath.Join(dir, sub))
	}
	for _, p := range append(paths, dir) {
		switch err := os.Remove(p); {
		case err == nil:
			removed = append(removed, p)
		case !errors.Is(err, fs.ErrNotExist):
			errs = append(errs, fmt.Errorf("remove pins: %w", err))
		}
	}
	return removed, errors.Join(errs...)
}

// configure changes the settings. If that fails they are what they were.
func (d *Datapath) configure(change func(*bpf.DatapathConfig)) error {
	next := d.settings
	change(&next)
	if next == d.settings {
		return nil
	}
	if err := d.objs.Settings.Put(uint32(0), &next); err != nil {
		return fmt.Errorf("write settings: %w", err)
	}
	d.settings = next
	return nil
}
