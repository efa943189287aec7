package lab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"
)

// startServer makes the VPN server's end of the tunnel. It stays until the world is closed.
func (w *World) startServer(context.Context) error {
	var err error
	if w.secret, err = wgtypes.GeneratePrivateKey(); err != nil {
		return fmt.Errorf("start VPN server: %w", err)
	}
	w.public = w.secret.PublicKey()
	if w.server, err = newWireguard(w.VPN, TunnelName, w.opts.Userspace); err != nil {
		return fmt.Errorf("start VPN server: %w", err)
	}
	err = w.VPN.withNetlink(func(h *netlink.Handle) error {
		return errors.Join(
			withLink(h, TunnelName, h.LinkSetUp),
			setAddrs(h, TunnelName, TunnelHost4+"/24", TunnelHost6+"/64"))
	})
	if err != nil {
		return fmt.Errorf("start VPN server: %w", err)
	}
	return nil
}

// TunnelUp makes the machine's tunnel and routes everything into it, as `wg-quick up` does, and waits for the
// handshake. The machine's key is a new one every time. If it fails or ctx ends first, there is no tunnel. With the
// tunnel there, it does nothing.
func (w *World) TunnelUp(ctx context.Context) error { return w.TunnelUpAs(ctx, TunnelName) }

// TunnelUpAs is TunnelUp for a tunnel of another name.
func (w *World) TunnelUpAs(ctx context.Context, name string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return fmt.Errorf("bring tunnel up: %w", os.ErrClosed)
	}
	if w.tunnel != nil {
		return nil
	}
	if err := w.tunnelUpLocked(ctx, name); err != nil {
		return errors.Join(fmt.Errorf("bring tunnel up: %w", err), w.tunnelDownLocked())
	}
	return nil
}

// WatchTunnel makes the tunnel's wire count what passes a link of the machine, that of a VPN which is not the lab's.
func (w *World) WatchTunnel(link string) error { return w.wires.Tunnel.attach(w.Machine, link) }

// TunnelDown deletes the tunnel and its routing, as `wg-quick down` does. Without a tunnel, it does nothing.
func (w *World) TunnelDown() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.tunnelDownLocked(); err != nil {
		return fmt.Errorf("take tunnel down: %w", err)
	}
	return nil
}

func (w *World) tunnelUpLocked(ctx context.Context, name string) error {
	secret, err := wgtypes.GeneratePrivateKey()
	if err != nil {
		return err
	}
	err = w.server.set(wgConfig{
		key: w.secret, port: TransportPort, peer: secret.PublicKey(),
		allowed: w.prefixes(Tunnel4+"/32", Tunnel6+"/128"),
	})
	if err != nil {
		return err
	}
	if w.tunnel, err = newWireguard(w.Machine, name, w.opts.Userspace); err != nil {
		return err
	}
	if err := w.wires.Tunnel.attach(w.Machine, name); err != nil {
		return err
	}
	// In wg-quick's order: keys, addresses, link, routing.
	err = w.tunnel.set(wgConfig{
		key: secret, fwmark: Fwmark, peer: w.public,
		endpoint: netip.AddrPortFrom(netip.MustParseAddr(VPN4), TransportPort),
		allowed:  w.prefixes("0.0.0.0/0", "::/0"),
	})
	if err != nil {
		return err
	}
	err = w.Machine.withNetlink(func(h *netlink.Handle) error { return w.setTunnelRouting(h, name) })
	if err != nil {
		return err
	}
	if err := w.Machine.setSysctls([2]string{"ipv4/conf/all/src_valid_mark", "1"}); err != nil {
		return err
	}
	return waitShaken(ctx, w.tunnel)
}

func (w *World) tunnelDownLocked() error {
	if w.tunnel == nil {
		return nil
	}
	err := w.Machine.withNetlink(func(h *netlink.Handle) error {
		var errs []error
		for _, r := range w.tunnelRules() {
			if err := h.RuleDel(r); err != nil && !errors.Is(err, unix.ENOENT) {
				errs = append(errs, fmt.Errorf("delete rule: %w", err))
			}
		}
		return errors.Join(errs...)
	})
	err = errors.Join(err, w.tunnel.close())
	w.tunnel = nil
	w.wires.Tunnel.detach()
	return err
}

// setTunnelRouting configures the machine's end of the tunnel.
func (w *World) setTunnelRouting(h *netlink.Handle, name string) error {
	addrs := []string{Tunnel4 + "/24"}
	routes := []route{{to: "0.0.0.0/0", dev: name, table: Fwmark}}
	if !w.opts.NoTunnel6 {
		addrs = append(addrs, Tunnel6+"/64")
		routes = append(routes, route{to: "::/0", dev: name, table: Fwmark})
	}
	if err := setAddrs(h, name, addrs...); err != nil {
		return err
	}
	if err := withLink(h, name, h.LinkSetUp); err != nil {
		return err
	}
	if err := setRoutes(h, routes...); err != nil {
		return err
	}
	for _, r := range w.tunnelRules() {
		if err := h.RuleAdd(r); err != nil {
			return fmt.Errorf("add rule: %w", err)
		}
	}
	return nil
}

// tunnelRules returns the rules that wg-quick adds, in its order. Like wg-quick's they name no priority, so the kernel
// puts each before all that are there already.
func (w *World) tunnelRules() []*netlink.Rule {
	families := []int{unix.AF_INET, unix.AF_INET6}
	if w.opts.NoTunnel6 {
		families = families[:1]
	}
	var rules []*netlink.Rule
	for _, family := range families {
		unmarked := netlink.NewRule()
		unmarked.Family, unmarked.Invert, unmarked.Mark, unmarked.Table = family, true, Fwmark, Fwmark
		specific := netlink.NewRule()
		specific.Family, specific.Table, specific.SuppressPrefixlen = family, unix.RT_TABLE_MAIN, 0
		rules = append(rules, unmarked, specific)
	}
	return rules
}

// prefixes returns the two as what the tunnel may carry: both, or the first alone in a tunnel without IPv6.
func (w *World) prefixes(v4, v6 string) []netip.Prefix {
	carried := []netip.Prefix{netip.MustParsePrefix(v4)}
	if !w.opts.NoTunnel6 {
		carried = append(carried, netip.MustParsePrefix(v6))
	}
	return carried
}
