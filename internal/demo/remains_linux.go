package demo

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"

	"sidestep/internal/lab"
	"sidestep/internal/route"
)

// A network is what a daemon changes in a network namespace.
type network struct {
	rules  []string
	routes int // of the daemon's table
}

// remains is what a daemon puts in force. What was there before the first one is the measure of the last one's end.
type remains struct {
	network
	pins []string
}

func remainsOf(n *lab.Namespace) (remains, error) {
	net, err := networkOf(n)
	if err != nil {
		return remains{}, err
	}
	pins, err := allPins()
	return remains{net, pins}, err
}

// beyond says what is there that was not before, and nothing if all is as it was.
func (r remains) beyond(before remains) error {
	var more []string
	for _, rule := range r.rules {
		if !slices.Contains(before.rules, rule) {
			more = append(more, "rule "+rule)
		}
	}
	for _, pin := range r.pins {
		if !slices.Contains(before.pins, pin) {
			more = append(more, "pin "+pin)
		}
	}
	if r.routes > before.routes {
		more = append(more, fmt.Sprint(r.routes, " routes"))
	}
	if len(r.rules) < len(before.rules) {
		more = append(more, "a rule less than before")
	}
	if len(more) == 0 {
		return nil
	}
	return fmt.Errorf("left behind: %s: %w", strings.Join(more, ", "), errWrong)
}

func networkOf(n *lab.Namespace) (network, error) {
	var net network
	err := n.Do(func() error {
		rules, err := netlink.RuleList(netlink.FAMILY_ALL)
		if err != nil {
			return fmt.Errorf("list rules: %w", err)
		}
		for _, r := range rules {
			net.rules = append(net.rules, fmt.Sprint(r.Family, r))
		}
		routes, err := netlink.RouteListFiltered(netlink.FAMILY_ALL,
			&netlink.Route{Table: int(route.DefaultTable)}, netlink.RT_FILTER_TABLE)
		if err != nil {
			return fmt.Errorf("list routes: %w", err)
		}
		net.routes = len(routes)
		return nil
	})
	return net, err
}

// pinned returns what is pinned, by kind: the folder that it is in.
func pinned(kind string) ([]string, error) {
	return filepath.Glob(filepath.Join(bpffs, "*", kind, "*"))
}

// allPins returns everything on the BPF file system, folders included. Some kernels put pins of their own there.
func allPins() ([]string, error) {
	var all []string
	err := filepath.WalkDir(bpffs, func(path string, _ fs.DirEntry, err error) error {
		all = append(all, path)
		return err
	})
	return all, err
}

// linksOf returns the numbers of the pinned BPF links.
func linksOf() ([]link.ID, error) {
	pins, err := pinned("links")
	if err != nil {
		return nil, err
	}
	var ids []link.ID
	for _, p := range pins {
		l, err := link.LoadPinnedLink(p, nil)
		if err != nil {
			return nil, fmt.Errorf("open link %s: %w", p, err)
		}
		info, err := l.Info()
		if err := errors.Join(err, l.Close()); err != nil {
			return nil, fmt.Errorf("read link %s: %w", p, err)
		}
		ids = append(ids, info.ID)
	}
	return ids, nil
}

// labelsMap returns the number of the map that holds what the kernel knows of processes. It outlives a daemon.
func labelsMap() (ebpf.MapID, error) {
	pins, err := pinned("maps")
	if err != nil {
		return 0, err
	}
	i := slices.IndexFunc(pins, func(p string) bool { return filepath.Base(p) == "labels" })
	if i < 0 {
		return 0, errors.New("the daemon has pinned no labels")
	}
	m, err := ebpf.LoadPinnedMap(pins[i], nil)
	if err != nil {
		return 0, fmt.Errorf("open map %s: %w", pins[i], err)
	}
	defer m.Close()
	info, err := m.Info()
	if err != nil {
		return 0, fmt.Errorf("read map %s: %w", pins[i], err)
	}
	id, _ := info.ID()
	return id, nil
}

// awaitGone waits until the kernel has let go of the links; it does so a moment after the last name and descriptor.
func awaitGone(ctx context.Context, ids []link.ID) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	err := lab.Poll(ctx, func() (bool, error) {
		ids = slices.DeleteFunc(ids, func(id link.ID) bool {
			l, err := link.NewFromID(id)
			if err == nil {
				l.Close()
			}
			return errors.Is(err, fs.ErrNotExist)
		})
		return len(ids) == 0, nil
	})
	if err != nil {
		return fmt.Errorf("BPF links %d are still there: %w", ids, errWrong)
	}
	return nil
}
