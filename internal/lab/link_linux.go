package lab

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// pollEvery is how often the lab looks at a state that the kernel does not announce on any descriptor.
const pollEvery = time.Millisecond

// A route is one line of a routing table.
type route struct {
	to    string // a prefix
	via   string // a gateway, or "" for on-link
	dev   string
	table int // 0 means main
	// metric is what the kernel takes to be usual if it is 0.
	metric int
}

// withNetlink calls fn in the namespace with a netlink socket of that namespace.
func (n *Namespace) withNetlink(fn func(h *netlink.Handle) error) error {
	return n.Do(func() error { return thisNetlink(fn) })
}

// thisNetlink calls fn with a netlink socket of the calling thread's namespace.
func thisNetlink(fn func(h *netlink.Handle) error) error {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("open netlink: %w", err)
	}
	defer h.Close()
	return fn(h)
}

// linkUp sets a link of the calling thread's namespace up.
func linkUp(name string) error {
	return thisNetlink(func(h *netlink.Handle) error {
		return withLink(h, name, h.LinkSetUp)
	})
}

// withLink calls fn with the link of that name.
func withLink(h *netlink.Handle, name string, fn func(netlink.Link) error) error {
	link, err := h.LinkByName(name)
	if err == nil {
		err = fn(link)
	}
	if err != nil {
		return fmt.Errorf("link %s: %w", name, err)
	}
	return nil
}

// cable joins two namespaces with a veth pair, each end made where it belongs, and sets both ends up.
func cable(a *Namespace, aName string, b *Namespace, bName string) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = aName
	veth := &netlink.Veth{LinkAttrs: attrs, PeerName: bName, PeerNamespace: netlink.NsFd(b.fd())}
	err := a.withNetlink(func(h *netlink.Handle) error {
		if err := h.LinkAdd(veth); err != nil {
			return err
		}
		return withLink(h, aName, h.LinkSetUp)
	})
	if err == nil {
		err = b.Do(func() error { return linkUp(bName) })
	}
	if err != nil {
		return fmt.Errorf("join %s and %s: %w", aName, bName, err)
	}
	return nil
}

// setAddrs gives a link its addresses, "address/length" each. Addresses that are there already stay.
func setAddrs(h *netlink.Handle, name string, addrs ...string) error {
	return withLink(h, name, func(link netlink.Link) error {
		for _, text := range addrs {
			addr, err := netlink.ParseAddr(text)
			if err != nil {
				return err
			}
			if addr.IP.To4() == nil {
				addr.Flags = unix.IFA_F_NODAD
			}
			if err := h.AddrReplace(link, addr); err != nil {
				return fmt.Errorf("address %s: %w", text, err)
			}
		}
		return nil
	})
}

// setRoutes adds routes, or replaces those to the same destination.
func setRoutes(h *netlink.Handle, routes ...route) error {
	for _, r := range routes {
		_, to, err := net.ParseCIDR(r.to)
		if err != nil {
			return fmt.Errorf("route to %s: %w", r.to, err)
		}
		err = withLink(h, r.dev, func(link netlink.Link) error {
			nr := &netlink.Route{Dst: to, LinkIndex: link.Attrs().Index, Table: r.table, Priority: r.metric, Protocol: unix.RTPROT_BOOT}
			nr.Gw = net.ParseIP(r.via)
			if nr.Gw == nil && to.IP.To4() != nil {
				nr.Scope = netlink.SCOPE_LINK
			}
			return h.RouteReplace(nr)
		})
		if err != nil {
			return fmt.Errorf("route to %s: %w", r.to, err)
		}
	}
	return nil
}

// waitRunning waits until the link has a carrier and a queue. A link that was set up before its other end drops
// packets until the kernel has noticed the carrier, which it does a little later.
func (n *Namespace) waitRunning(ctx context.Context, name string) error {
	err := n.withNetlink(func(h *netlink.Handle) error {
		return Poll(ctx, func() (bool, error) {
			link, err := h.LinkByName(name)
			return err == nil && link.Attrs().OperState == netlink.OperUp, err
		})
	})
	if err != nil {
		return fmt.Errorf("wait for link %s: %w", name, err)
	}
	return nil
}

// setSysctls writes settings below /proc/sys/net in the namespace.
func (n *Namespace) setSysctls(values ...[2]string) error {
	return n.Do(func() error {
		for _, kv := range values {
			err := os.WriteFile(filepath.Join("/proc/sys/net", kv[0]), []byte(kv[1]), 0)
			if err != nil {
				return fmt.Errorf("set sysctl: %w", err)
			}
		}
		return nil
	})
}

// Poll calls ready every millisecond until it says yes, fails, or ctx ends.
func Poll(ctx context.Context, ready func() (bool, error)) error {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		ok, err := ready()
		if ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
	}
}
