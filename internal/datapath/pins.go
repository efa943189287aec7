package datapath

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

const (
	mapsDir  = "maps"
	linksDir = "links"

	asideSuffix = "-new" // the BPF file system refuses names with a dot
)

// pinnedMaps are the maps that outlive the agent; bpf/maps.h says which and why.
func (d *Datapath) pinnedMaps() map[string]*ebpf.Map {
	m := &d.objs.DatapathMaps
	return map[string]*ebpf.Map{
		"settings": m.Settings, "apps": m.Apps, "names": m.Names, "rules": m.Rules, "labels": m.Labels, "labelled": m.Labelled,
		"links": m.Links, "addresses": m.Addresses, "places": m.Places, "cut": m.Cut, "refused": m.Refused, "overflow": m.Overflow,
		"notes": m.Notes, "stats": m.Stats, "events": m.Events,
	}
}

// openPinnedMaps opens what an earlier agent left, or nothing. Pins are published whole by one rename, so a directory
// that is there is complete.
func openPinnedMaps(pins string) (map[string]*ebpf.Map, error) {
	entries, err := os.ReadDir(filepath.Join(pins, mapsDir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look for a pinned datapath: %w", err)
	}
	found := map[string]*ebpf.Map{}
	for _, e := range entries {
		m, err := ebpf.LoadPinnedMap(filepath.Join(pins, mapsDir, e.Name()), nil)
		if err != nil {
			closeMaps(found)
			return nil, fmt.Errorf("open pinned map %s: %w", e.Name(), err)
		}
		found[e.Name()] = m
	}
	return found, nil
}

func closeMaps(all map[string]*ebpf.Map) {
	for _, m := range all {
		m.Close()
	}
}

// attachTraces comes before the hooks: what the tracepoints miss before the socket hook is there, the walk over running
// processes finds.
func (d *Datapath) attachTraces() error {
	p := &d.objs.DatapathPrograms
	traces := []struct {
		name string
		prog *ebpf.Program
	}{{"exit", p.OnExit}, {"newtask", p.OnNewtask}, {"fork", p.OnFork}, {"exec", p.OnExec}}
	for _, t := range traces {
		l, err := link.AttachTracing(link.TracingOptions{Program: t.prog, AttachType: ebpf.AttachTraceRawTp})
		if err != nil {
			return fmt.Errorf("attach to tracepoint %s: %w", t.name, err)
		}
		d.links[t.name] = l
	}
	return nil
}

// A hook is where a program is attached at the cgroup2 root.
type hook struct {
	name   string
	prog   *ebpf.Program
	attach ebpf.AttachType
}

// socketHooks mark, and guard what is marked: the guard comes first.
func (d *Datapath) socketHooks() []hook {
	p := &d.objs.DatapathPrograms
	return []hook{
		{"egress", p.OnEgress, ebpf.AttachCGroupInetEgress},
		{"ingress", p.OnIngress, ebpf.AttachCGroupInetIngress},
		{"socket", p.OnSocket, ebpf.AttachCGroupInetSockCreate},
	}
}

// callHooks look at what processes do with their sockets.
func (d *Datapath) callHooks() []hook {
	p := &d.objs.DatapathPrograms
	return []hook{
		{"bind4", p.OnBind4, ebpf.AttachCGroupInet4Bind},
		{"bind6", p.OnBind6, ebpf.AttachCGroupInet6Bind},
		{"connect4", p.OnConnect4, ebpf.AttachCGroupInet4Connect},
		{"connect6", p.OnConnect6, ebpf.AttachCGroupInet6Connect},
		{"sendmsg4", p.OnSendmsg4, ebpf.AttachCGroupUDP4Sendmsg},
		{"sendmsg6", p.OnSendmsg6, ebpf.AttachCGroupUDP6Sendmsg},
		{"setsockopt", p.OnSetsockopt, ebpf.AttachCGroupSetsockopt},
	}
}

func (d *Datapath) attachHooks(hooks []hook) error {
	cgroup, err := os.Open(d.opts.Cgroup)
	if err != nil {
		return fmt.Errorf("open the cgroup2 root: %w", err)
	}
	defer cgroup.Close()
	for _, h := range hooks {
		// A raw link: link.AttachCgroup would fall back to an attachment that no other program can stand beside.
		l, err := link.AttachRawLink(link.RawLinkOptions{Target: int(cgroup.Fd()), Program: h.prog, Attach: h.attach})
		if err != nil {
			return fmt.Errorf("attach the %s hook to %s: %w", h.name, d.opts.Cgroup, err)
		}
		d.links[h.name] = l
	}
	return nil
}

// publish pins a new datapath: it is there whole, or not at all. Of two that start at once for a network namespace one is
// refused: whoever publishes has looked for others while nobody else could.
func (d *Datapath) publish(cookie uint64) (err error) {
	if err := d.pinAside(); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_, left := cleanDir(d.opts.Pins + asideSuffix)
			err = errors.Join(err, left)
		}
	}()
	dir, err := os.Open(filepath.Dir(d.opts.Pins))
	if err != nil {
		return fmt.Errorf("publish the pins: %w", err)
	}
	defer dir.Close()
	if err := unix.Flock(int(dir.Fd()), unix.LOCK_EX); err != nil {
		return fmt.Errorf("publish the pins: %w", err)
	}
	if err := alone(d.opts.Pins, cookie); err != nil {
		return err
	}
	if err := os.Rename(d.opts.Pins+asideSuffix, d.opts.Pins); err != nil {
		return fmt.Errorf("publish the pins: %w", err)
	}
	d.published = true
	return nil
}

// pinAside pins everything in a directory beside ours.
func (d *Datapath) pinAside() error {
	aside := d.opts.Pins + asideSuffix
	if err := d.pinIn(aside); err != nil {
		_, left := cleanDir(aside)
		return errors.Join(err, left)
	}
	return nil
}

func (d *Datapath) pinIn(aside string) error {
	for _, dir := range []string{aside, filepath.Join(aside, mapsDir), filepath.Join(aside, linksDir)} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			return fmt.Errorf("create the pin directory: %w", err)
		}
	}
	for name, m := range d.pinnedMaps() {
		if err := m.Pin(filepath.Join(aside, mapsDir, name)); err != nil {
			return fmt.Errorf("pin map %s: %w", name, err)
		}
	}
	for _, name := range slices.SortedFunc(maps.Keys(d.links), byOrder) {
		if err := d.links[name].Pin(filepath.Join(aside, linksDir, name)); err != nil {
			return fmt.Errorf("pin link %s: %w", name, err)
		}
	}
	return nil
}

// linkOrder is the order in which links are pinned, and in which they go it is the other way round. Whoever is killed in
// between leaves some: those that call a socket wrong which they do not know must not be without those that make it known,
// and what marks must not be without the guard. Doors come and go last.
var linkOrder = []string{
	"exit", "newtask", "fork", "exec", "answers4", "answers6", "egress", "ingress", "socket",
	"bind4", "bind6", "connect4", "connect6", "sendmsg4", "sendmsg6", "setsockopt",
}

func byOrder(a, b string) int {
	rank := func(name string) int {
		if i := slices.Index(linkOrder, name); i >= 0 {
			return i
		}
		return len(linkOrder)
	}
	return cmp.Or(cmp.Compare(rank(a), rank(b)), strings.Compare(a, b))
}

// removalOrder lists names of links as they are to go.
func removalOrder(a, b string) int {
	if known := slices.Contains(linkOrder, a); known != slices.Contains(linkOrder, b) {
		return map[bool]int{true: -1, false: 1}[known]
	}
	return byOrder(b, a)
}

// replacePins puts our links in the place of the pinned ones, one rename each. Until a rename the old program decides,
// for a moment both do, and they agree: they share the maps.
//
// Maps that the version before us did not have are pinned first: whoever adopts us must find them.
func (d *Datapath) replacePins() error {
	d.published = true
	if err := d.pinMissingMaps(); err != nil {
		return err
	}
	for name, l := range d.links {
		if err := d.pinLink(name, l); err != nil {
			return err
		}
	}
	return d.dropUnknown()
}

// dropUnknown detaches what the version before us had and we have not. Doors are Permit's.
func (d *Datapath) dropUnknown() error {
	held, err := d.heldLinks()
	if err != nil {
		return err
	}
	for _, name := range held {
		if d.links[name] != nil || strings.HasPrefix(name, doorPin) {
			continue
		}
		if err := d.dropLink(name); err != nil {
			return err
		}
	}
	return nil
}

func (d *Datapath) pinMissingMaps() error {
	for name, m := range d.pinnedMaps() {
		err := m.Pin(filepath.Join(d.opts.Pins, mapsDir, name))
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("pin map %s: %w", name, err)
		}
	}
	return nil
}

// pinLink pins a link in the published directory, in the place of an older one if there is one.
func (d *Datapath) pinLink(name string, l link.Link) error {
	pin := filepath.Join(d.opts.Pins, linksDir, name)
	if err := os.Remove(pin + asideSuffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove a half-made pin: %w", err)
	}
	if err := l.Pin(pin + asideSuffix); err != nil {
		return fmt.Errorf("pin link %s: %w", name, err)
	}
	if err := os.Rename(pin+asideSuffix, pin); err != nil {
		return fmt.Errorf("publish link %s: %w", name, err)
	}
	return nil
}

// hold keeps a link, and pins it once the others are.
func (d *Datapath) hold(name string, l link.Link) error {
	if d.published {
		if err := d.pinLink(name, l); err != nil {
			return err
		}
	}
	d.links[name] = l
	return nil
}

// heldLinks names the links that are ours: those that we have attached, and those pinned before us.
func (d *Datapath) heldLinks() ([]string, error) {
	names := slices.Collect(maps.Keys(d.links))
	if !d.published {
		return names, nil
	}
	entries, err := os.ReadDir(filepath.Join(d.opts.Pins, linksDir))
	if err != nil && !errors.Is(err, fs.ErrNotExist) { // gone: Repin says so
		return nil, fmt.Errorf("list pinned links: %w", err)
	}
	for _, e := range entries {
		if !slices.Contains(names, e.Name()) {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// dropLink detaches a pinned link, whoever attached it.
func (d *Datapath) dropLink(name string) error {
	if l := d.links[name]; l != nil {
		delete(d.links, name)
		if err := l.Close(); err != nil {
			return fmt.Errorf("detach link %s: %w", name, err)
		}
	}
	if !d.published {
		return nil
	}
	if err := os.Remove(filepath.Join(d.opts.Pins, linksDir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove link %s: %w", name, err)
	}
	return nil
}
