package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/wgctrl"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"
)

const (
	tunnelMTU   = 1420 // what wg-quick chooses on Ethernet
	tunnelQueue = 4096 // packets the interface holds for the userspace implementation
	keepalive   = 25 * time.Second
)

// A wireguard is one end of a tunnel. There are two implementations, the kernel's and wireguard-go's.
type wireguard interface {
	// set gives the end its keys and its only peer. It replaces what was set before.
	set(wgConfig) error
	// shaken reports whether there has been a handshake with the peer.
	shaken() (bool, error)
	// close deletes the interface.
	close() error
}

// A wgConfig is the configuration of one end of a tunnel.
type wgConfig struct {
	key      wgtypes.Key
	port     int // to listen on; 0 for any
	fwmark   int
	peer     wgtypes.Key
	endpoint netip.AddrPort // of the peer; the zero value waits for the peer to call
	allowed  []netip.Prefix
}

// newWireguard makes an interface in the namespace, down and without configuration: the kernel's if it has one and
// userspace does not forbid it.
func newWireguard(n *Namespace, name string, userspace bool) (wireguard, error) {
	if !userspace {
		w, err := newKernelWireguard(n, name)
		if !errors.Is(err, unix.EOPNOTSUPP) {
			return w, err
		}
	}
	return newUserWireguard(n, name)
}

// A kernelWireguard is an interface of the kernel's own implementation.
type kernelWireguard struct {
	n    *Namespace
	name string
}

// newKernelWireguard fails with EOPNOTSUPP where the kernel has no WireGuard.
func newKernelWireguard(n *Namespace, name string) (wireguard, error) {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	attrs.MTU = tunnelMTU
	err := n.withNetlink(func(h *netlink.Handle) error {
		return h.LinkAdd(&netlink.Wireguard{LinkAttrs: attrs})
	})
	if err != nil {
		return nil, fmt.Errorf("add wireguard link: %w", err)
	}
	return &kernelWireguard{n, name}, nil
}

func (w *kernelWireguard) set(cfg wgConfig) error {
	every := keepalive
	peer := wgtypes.PeerConfig{PublicKey: cfg.peer, ReplaceAllowedIPs: true}
	for _, p := range cfg.allowed {
		ip := net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
		peer.AllowedIPs = append(peer.AllowedIPs, ip)
	}
	if cfg.endpoint.IsValid() {
		peer.Endpoint = net.UDPAddrFromAddrPort(cfg.endpoint)
		peer.PersistentKeepaliveInterval = &every
	}
	return w.withControl(func(c *wgctrl.Client) error {
		return c.ConfigureDevice(w.name, wgtypes.Config{
			PrivateKey:   &cfg.key,
			ListenPort:   &cfg.port,
			FirewallMark: &cfg.fwmark,
			ReplacePeers: true,
			Peers:        []wgtypes.PeerConfig{peer},
		})
	})
}

func (w *kernelWireguard) shaken() (bool, error) {
	done := false
	err := w.withControl(func(c *wgctrl.Client) error {
		dev, err := c.Device(w.name)
		if err == nil {
			done = len(dev.Peers) == 1 && dev.Peers[0].LastHandshakeTime.Unix() > 0
		}
		return err
	})
	return done, err
}

func (w *kernelWireguard) close() error {
	return w.n.withNetlink(func(h *netlink.Handle) error { return withLink(h, w.name, h.LinkDel) })
}

// withControl calls fn with a WireGuard control socket of the namespace.
func (w *kernelWireguard) withControl(fn func(*wgctrl.Client) error) error {
	return w.n.Do(func() error {
		c, err := wgctrl.New()
		if err != nil {
			return fmt.Errorf("open wireguard control: %w", err)
		}
		return errors.Join(fn(c), c.Close())
	})
}

// waitShaken waits for the first handshake.
func waitShaken(ctx context.Context, w wireguard) error {
	if err := Poll(ctx, w.shaken); err != nil {
		return fmt.Errorf("wait for handshake: %w", err)
	}
	return nil
}
