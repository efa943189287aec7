package leak_test

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"sidestep/internal/datapath/bpf"
)

// footprint lists every rule, every route that somebody made, and every network setting of the machine, and the engine's
// pins: a line each.
func (r *rig) footprint() []string {
	r.t.Helper()
	var lines []string
	r.ok(r.world.Machine.Do(func() error {
		rules, err := netlink.RuleList(netlink.FAMILY_ALL)
		if err != nil {
			return err
		}
		for _, rule := range rules {
			lines = append(lines, fmt.Sprintf("rule %d %v", rule.Family, rule))
		}
		all := &netlink.Route{Table: unix.RT_TABLE_UNSPEC}
		for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
			routes, err := netlink.RouteListFiltered(family, all, netlink.RT_FILTER_TABLE)
			if err != nil {
				return err
			}
			for _, route := range routes {
				if route.Protocol == unix.RTPROT_KERNEL {
					continue // the kernel's own come a little after their addresses
				}
				lines = append(lines, fmt.Sprintf("route %d %v", family, route))
			}
		}
		lines = append(lines, sysctls("/proc/sys/net/ipv4")...)
		lines = append(lines, sysctls("/proc/sys/net/ipv6")...)
		return nil
	}))
	sum := sha256.Sum256([]byte(r.state)) // as options_linux.go names the pins
	pins, err := filepath.Glob("/sys/fs/bpf/sidestep-" + hex.EncodeToString(sum[:6]) + "*")
	r.ok(err)
	for _, p := range pins {
		lines = append(lines, "pins "+p)
	}
	slices.Sort(lines)
	return lines
}

// sysctls reads every setting below dir, in the calling thread's network namespace. Some cannot be read.
func sysctls(dir string) []string {
	var lines []string
	_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return nil
		}
		if b, err := os.ReadFile(path); err == nil {
			lines = append(lines, path+" = "+strings.TrimSpace(string(b)))
		}
		return nil
	})
	return lines
}

// setSysctl writes a setting in the calling thread's network namespace.
func setSysctl(name, value string) error {
	return os.WriteFile(filepath.Join("/proc/sys/net", name), []byte(value), 0)
}

// objects are the numbers of what a datapath has in the kernel; none is used twice.
type objects struct {
	maps     []ebpf.MapID
	programs []ebpf.ProgramID
	links    []link.ID
}

func (o objects) String() string {
	return fmt.Sprintf("%d maps, %d programs, %d links", len(o.maps), len(o.programs), len(o.links))
}

// objects finds what the kernel holds for the rig's machine, whoever holds on to it: the settings that name its network
// namespace, the programs that use them or share another map with one that does, and the links to those.
func (r *rig) objects() objects {
	r.t.Helper()
	uses := map[ebpf.ProgramID][]ebpf.MapID{}
	for id := range numbers(ebpf.ProgramGetNextID) {
		uses[id] = mapsOf(id)
	}
	o := objects{maps: r.settings()}
	ours := func(m ebpf.MapID) bool { return slices.Contains(o.maps, m) }
	for known := 0; known < len(o.maps); {
		known = len(o.maps)
		for id, maps := range uses {
			if slices.ContainsFunc(maps, ours) {
				o.programs = append(o.programs, id)
				o.maps = append(o.maps, maps...)
			}
		}
		slices.Sort(o.maps)
		o.maps = slices.Compact(o.maps)
	}
	slices.Sort(o.programs)
	o.programs = slices.Compact(o.programs)
	o.links = linksTo(o.programs)
	return o
}

// linksTo lists the links to programs.
func linksTo(programs []ebpf.ProgramID) []link.ID {
	var ids []link.ID
	links := new(link.Iterator)
	defer links.Close()
	for links.Next() {
		info, err := links.Link.Info()
		if err == nil && slices.Contains(programs, info.Program) {
			ids = append(ids, links.ID)
		}
	}
	return ids
}

// numbers yields every number that next finds.
func numbers[ID ~uint32](next func(ID) (ID, error)) func(yield func(ID) bool) {
	return func(yield func(ID) bool) {
		for id, err := next(0); err == nil; id, err = next(id) {
			if !yield(id) {
				return
			}
		}
	}
}

// settings finds the settings maps that name the machine's network namespace.
func (r *rig) settings() []ebpf.MapID {
	r.t.Helper()
	cookie := r.cookie()
	var ids []ebpf.MapID
	for id := range numbers(ebpf.MapGetNextID) {
		m, err := ebpf.NewMapFromID(id)
		if err != nil {
			continue // gone meanwhile
		}
		info, err := m.Info()
		var config bpf.DatapathConfig
		if err == nil && info.Name == "settings" && m.Lookup(uint32(0), &config) == nil && config.NetnsCookie == cookie {
			ids = append(ids, id)
		}
		r.ok(m.Close())
	}
	return ids
}

func (r *rig) cookie() (cookie uint64) {
	r.t.Helper()
	r.ok(r.world.Machine.Do(func() error {
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		cookie, err = unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
		return err
	}))
	return cookie
}

// mapsOf lists the maps that a program uses; none if it is gone.
func mapsOf(id ebpf.ProgramID) []ebpf.MapID {
	p, err := ebpf.NewProgramFromID(id)
	if err != nil {
		return nil
	}
	defer p.Close()
	info, err := p.Info()
	if err != nil {
		return nil
	}
	ids, _ := info.MapIDs()
	return ids
}

// remaining is what of o is still there.
func (o objects) remaining() objects {
	exists := func(err error) bool { return !errors.Is(err, os.ErrNotExist) }
	return objects{
		maps: slices.DeleteFunc(slices.Clone(o.maps), func(id ebpf.MapID) bool {
			m, err := ebpf.NewMapFromID(id)
			_ = m.Close()
			return !exists(err)
		}),
		programs: slices.DeleteFunc(slices.Clone(o.programs), func(id ebpf.ProgramID) bool {
			p, err := ebpf.NewProgramFromID(id)
			_ = p.Close()
			return !exists(err)
		}),
		links: slices.DeleteFunc(slices.Clone(o.links), func(id link.ID) bool {
			l, err := link.NewFromID(id)
			if err == nil {
				_ = l.Close()
			}
			return !exists(err)
		}),
	}
}
