package datapath

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
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
		"settings": m.Settings, "apps": m.Apps, "names": m.Names, "rules": m.Rules, "labels": m.Labels,
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
	maps := map[string]*ebpf.Map{}
	for _, e := range entries {
		m, err := ebpf.LoadPinnedMap(filepath.Join(pins, mapsDir, e.Name()), nil)
		if err != nil {
			closeMaps(maps)
			return nil, fmt.Errorf("open pinned map %s: %w", e.Name(), err)
		}
		maps[e.Name()] = m
	}
	return maps, nil
}

func closeMaps(maps map[string]*ebpf.Map) {
	for _, m := range maps {
		m.Close()
	}
}

// attachAll attaches the programs. The tracepoints come first: what they miss before the socket hook is there, the walk
// over running processes finds.
func (d *Datapath) attachAll() error {
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
	cgroup, err := os.Open(d.opts.Cgroup)
	if err != nil {
		return fmt.Errorf("open the cgroup2 root: %w", err)
	}
	defer cgroup.Close()
	// The guard comes before the hooks that mark: what is marked is guarded.
	hooks := []struct {
		name   string
		prog   *ebpf.Program
		attach ebpf.AttachType
	}{
		{"egress", p.OnEgress, ebpf.AttachCGroupInetEgress},
		{"ingress", p.OnIngress, ebpf.AttachCGroupInetIngress},
		{"socket", p.OnSocket, ebpf.AttachCGroupInetSockCreate},
		{"bind4", p.OnBind4, ebpf.AttachCGroupInet4Bind},
		{"bind6", p.OnBind6, ebpf.AttachCGroupInet6Bind},
		{"connect4", p.OnConnect4, ebpf.AttachCGroupInet4Connect},
		{"connect6", p.OnConnect6, ebpf.AttachCGroupInet6Connect},
		{"sendmsg4", p.OnSendmsg4, ebpf.AttachCGroupUDP4Sendmsg},
		{"sendmsg6", p.OnSendmsg6, ebpf.AttachCGroupUDP6Sendmsg},
		{"setsockopt", p.OnSetsockopt, ebpf.AttachCGroupSetsockopt},
	}
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

// pinAll builds the pin directory aside and publishes it by one rename: it is there whole, or not at all.
func (d *Datapath) pinAll() error {
	aside := d.opts.Pins + asideSuffix
	if _, err := Clean(aside); err != nil {
		return err
	}
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
	for name, l := range d.links {
		if err := l.Pin(filepath.Join(aside, linksDir, name)); err != nil {
			return fmt.Errorf("pin link %s: %w", name, err)
		}
	}
	if err := os.Rename(aside, d.opts.Pins); err != nil {
		return fmt.Errorf("publish the pins: %w", err)
	}
	return nil
}

// replacePins puts our links in the place of the pinned ones, one rename each. Until a rename the old program decides,
// for a moment both do, and they agree: they share the maps.
func (d *Datapath) replacePins() error {
	for name, l := range d.links {
		if err := d.pinLink(name, l); err != nil {
			return err
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

// pinnedLinks names the links that are pinned.
func (d *Datapath) pinnedLinks() ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(d.opts.Pins, linksDir))
	if err != nil {
		return nil, fmt.Errorf("list pinned links: %w", err)
	}
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		names = append(names, e.Name())
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
	if err := os.Remove(filepath.Join(d.opts.Pins, linksDir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove link %s: %w", name, err)
	}
	return nil
}
