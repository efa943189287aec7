package lab

import (
	"context"
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
)

// spareMetric makes the routes of the second uplink worse than those of the first, in both families.
const spareMetric = 2000

// An uplink is one of the machine's, and how it is set up.
type uplink struct {
	name   string
	addrs  []string
	routes []route
}

func (w *World) first() uplink { return w.uplink(UplinkName, Machine4, Machine6, LAN4, LAN6, 0) }

func (w *World) spare() uplink {
	return w.uplink(SpareName, Spare4, Spare6, SpareLAN4, SpareLAN6, spareMetric)
}

func (w *World) uplink(name, addr4, addr6, via4, via6 string, metric int) uplink {
	u := uplink{
		name:   name,
		addrs:  []string{addr4 + "/24"},
		routes: []route{{to: "0.0.0.0/0", via: via4, dev: name, metric: metric}},
	}
	if !w.opts.NoUplink6 {
		u.addrs = append(u.addrs, addr6+"/64")
		u.routes = append(u.routes, route{to: "::/0", via: via6, dev: name, metric: metric})
	}
	return u
}

// UplinkUp gives the machine its uplink back: link, addresses and default routes. With the uplink there, it
// changes nothing.
func (w *World) UplinkUp(ctx context.Context) error { return w.up(ctx, w.first()) }

// UplinkDown takes the machine's uplink away, as switching Wi-Fi off does: its routes and addresses go with it.
func (w *World) UplinkDown() error { return w.down(w.first()) }

// SpareUp is UplinkUp for the second uplink, which only a world with [Options.Spare] has.
func (w *World) SpareUp(ctx context.Context) error { return w.up(ctx, w.spare()) }

// SpareDown is UplinkDown for the second uplink.
func (w *World) SpareDown() error { return w.down(w.spare()) }

// Renumber gives the machine other addresses on its uplink, which is up, as a DHCP server and a router do that have
// forgotten it: the old ones go first, and the routes with them.
func (w *World) Renumber(ctx context.Context, addr4, addr6 string) error {
	err := w.Machine.withNetlink(func(h *netlink.Handle) error { return withLink(h, UplinkName, dropAddrs(h)) })
	if err != nil {
		return fmt.Errorf("renumber uplink: %w", err)
	}
	return w.up(ctx, w.uplink(UplinkName, addr4, addr6, LAN4, LAN6, 0))
}

func (w *World) up(ctx context.Context, u uplink) error {
	err := w.Machine.withNetlink(func(h *netlink.Handle) error { return withLink(h, u.name, h.LinkSetUp) })
	if err == nil {
		err = w.Machine.waitRunning(ctx, u.name)
	}
	if err == nil {
		err = w.Machine.withNetlink(func(h *netlink.Handle) error {
			if err := setAddrs(h, u.name, u.addrs...); err != nil {
				return err
			}
			return setRoutes(h, u.routes...)
		})
	}
	if err != nil {
		return fmt.Errorf("bring %s up: %w", u.name, err)
	}
	return nil
}

func (w *World) down(u uplink) error {
	err := w.Machine.withNetlink(func(h *netlink.Handle) error {
		return withLink(h, u.name, func(link netlink.Link) error {
			return errors.Join(h.LinkSetDown(link), dropAddrs(h)(link))
		})
	})
	if err != nil {
		return fmt.Errorf("take %s down: %w", u.name, err)
	}
	return nil
}

// dropAddrs takes a link its addresses, but those that belong to the link itself.
func dropAddrs(h *netlink.Handle) func(netlink.Link) error {
	return func(link netlink.Link) error {
		addrs, err := h.AddrList(link, netlink.FAMILY_ALL)
		for _, addr := range addrs {
			if !addr.IP.IsLinkLocalUnicast() {
				err = errors.Join(err, h.AddrDel(link, &addr))
			}
		}
		return err
	}
}
