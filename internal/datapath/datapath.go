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
	"sync"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/features"
	"github.com/cilium/ebpf/link"

	"sidestep/internal/datapath/bpf"
)

// abiVersion is ABI_VERSION of bpf/abi.h: the layout of the pinned maps.
const abiVersion = 2

// Launched is the app of everything that `sidestep run` started.
const Launched = 1

const firstApp = Launched + 1

// What may keep a pinned datapath from being adopted.
var (
	// ErrLayout: the pinned maps are another version's.
	ErrLayout = errors.New("the pinned datapath has another layout")
	// ErrNamespace: the pinned datapath governs another network namespace.
	ErrNamespace = errors.New("the pinned datapath governs another network namespace")
)

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
	adopted   bool
	asksNetns bool
	objs      bpf.DatapathObjects
	links     map[string]link.Link

	mu       sync.Mutex // guards what follows, and every write to the kernel
	settings bpf.DatapathConfig
	rules    rules
	closed   []int // as in Network
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
	pinned, err := openPinnedMaps(d.opts.Pins)
	if err != nil {
		return err
	}
	defer closeMaps(pinned)
	d.adopted = len(pinned) > 0
	spec, err := bpf.LoadDatapath()
	if err != nil {
		return fmt.Errorf("read the built-in programs: %w", err)
	}
	if err := d.configure(spec); err != nil {
		return err
	}
	for name, n := range d.opts.sizes {
		spec.Maps[name].MaxEntries = n
	}
	opts := &ebpf.CollectionOptions{
		MapReplacements: pinned,
		Cache:           btf.NewCache(),
	}
	if err := spec.LoadAndAssign(&d.objs, opts); err != nil {
		return fmt.Errorf("load the kernel programs: %w", err)
	}
	if err := d.prepare(cookie); err != nil {
		return err
	}
	return d.attach()
}

// configure sets what is constant in the programs once they are loaded.
func (d *Datapath) configure(spec *ebpf.CollectionSpec) error {
	d.asksNetns = features.HaveProgramHelper(ebpf.CGroupSKB, asm.FnGetNetnsCookie) == nil
	if d.asksNetns {
		if err := spec.Variables["asks_netns"].Set(uint32(1)); err != nil {
			return fmt.Errorf("set asks_netns: %w", err)
		}
	}
	return deafen(spec)
}

// prepare brings the settings and what we know of the rules in line with the maps, new or adopted.
func (d *Datapath) prepare(cookie uint64) error {
	if d.adopted {
		if err := d.objs.Settings.Lookup(uint32(0), &d.settings); err != nil {
			return fmt.Errorf("read the pinned settings: %w", err)
		}
		if d.settings.Abi != abiVersion {
			return fmt.Errorf("%w: %d, this program knows %d", ErrLayout, d.settings.Abi, abiVersion)
		}
		if d.settings.NetnsCookie != cookie {
			return ErrNamespace
		}
		d.settings.MarkMask, d.settings.MarkShift = d.opts.Mask, uint32(bits.TrailingZeros32(d.opts.Mask))
		rules, err := readRules(&d.objs)
		if err != nil {
			return err
		}
		d.rules = rules
		return d.begin()
	}
	var seed [16]byte
	rand.Read(seed[:]) // never fails: crypto/rand
	d.settings = bpf.DatapathConfig{
		Abi:         abiVersion,
		Seed:        [2]uint64{binary.LittleEndian.Uint64(seed[:8]), binary.LittleEndian.Uint64(seed[8:])},
		NetnsCookie: cookie,
		MarkMask:    d.opts.Mask,
		MarkShift:   uint32(bits.TrailingZeros32(d.opts.Mask)),
		NextApp:     firstApp,
	}
	d.rules = newRules()
	return d.begin()
}

func (d *Datapath) begin() error {
	if err := d.writeSettings(); err != nil {
		return err
	}
	return d.writeApp(Launched, bpf.DatapathApp{Exit: exitOutside})
}

// attach attaches every program and publishes the pins. What was pinned before stays in force until then.
func (d *Datapath) attach() error {
	if err := d.attachAll(); err != nil {
		return err
	}
	if d.adopted {
		return d.replacePins()
	}
	return d.pinAll()
}

// Adopted reports whether Open found a pinned datapath in force.
func (d *Datapath) Adopted() bool { return d.adopted }

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
	d.settings.NextApp++
	return id, d.writeSettings()
}

// Close lets go of the datapath, which stays in force by its pins.
func (d *Datapath) Close() error {
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
// it removed.
func Clean(pins string) ([]string, error) {
	var removed []string
	for _, dir := range []string{pins, pins + asideSuffix} {
		// Links first: the socket hook must be gone before the maps that it reads.
		for _, sub := range []string{linksDir, mapsDir} {
			entries, err := os.ReadDir(filepath.Join(dir, sub))
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return removed, fmt.Errorf("read pins: %w", err)
			}
			for _, e := range entries {
				p := filepath.Join(dir, sub, e.Name())
				if err := os.Remove(p); err != nil {
					return removed, fmt.Errorf("remove pin: %w", err)
				}
				removed = append(removed, p)
			}
		}
		for _, p := range []string{filepath.Join(dir, linksDir), filepath.Join(dir, mapsDir), dir} {
			if err := os.Remove(p); err == nil {
				removed = append(removed, p)
			} else if !errors.Is(err, fs.ErrNotExist) {
				return removed, fmt.Errorf("remove pins: %w", err)
			}
		}
	}
	return removed, nil
}

func (d *Datapath) writeSettings() error {
	if err := d.objs.Settings.Put(uint32(0), &d.settings); err != nil {
		return fmt.Errorf("write settings: %w", err)
	}
	return nil
}
