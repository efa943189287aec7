package lab

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"
)

// Options choose what a world is like. The zero value is the usual one.
type Options struct {
	// Ports are the ports that the services answer on, in addition to 53. Nil stands for 80, 443 and 7000 to 7007.
	Ports []uint16
	// MaxFlows is how many flows each wire can tell apart before it fails. Zero stands for 65536.
	MaxFlows int

	Spare     bool // the machine has a second uplink; SpareUp brings it up
	NoTunnel  bool // start without the tunnel; TunnelUp adds it
	NoTunnel6 bool // the tunnel carries IPv4 only, so IPv6 goes by the uplink, as with a careless VPN
	NoUplink6 bool // the uplink has no IPv6

	// Userspace takes wireguard-go even where the kernel has WireGuard. The tunnel is then a tun link.
	Userspace bool
}

// A World is a running lab. The package comment has its map.
//
// Its methods may be called from any goroutine.
type World struct {
	Machine  *Namespace // the machine under test
	Router   *Namespace // its gateway, with a service on the LAN
	VPN      *Namespace // the VPN server, with a service in the tunnel
	Internet *Namespace // everybody else

	opts   Options
	wires  Wires
	server wireguard // the VPN server's end of the tunnel
	public wgtypes.Key
	secret wgtypes.Key

	mu       sync.Mutex
	services []*service
	tunnel   wireguard // the machine's end; nil while there is none
	closed   bool
}

// New builds a world. When it returns, the services answer and, unless opts says otherwise, the tunnel has shaken
// hands. If it fails or ctx ends first, it leaves nothing behind. ctx has no meaning afterwards.
func New(ctx context.Context, opts Options) (*World, error) {
	if opts.Ports == nil {
		opts.Ports = []uint16{80, 443, 7000, 7001, 7002, 7003, 7004, 7005, 7006, 7007}
	}
	w := &World{opts: opts}
	steps := []func(context.Context) error{
		w.makeNamespaces, w.makeLinks, w.configure, w.startServices, w.startWires, w.startServer, w.UplinkUp,
	}
	if !opts.NoTunnel {
		steps = append(steps, w.TunnelUp)
	}
	for _, step := range steps {
		err := context.Cause(ctx)
		if err == nil {
			err = step(ctx)
		}
		if err != nil {
			return nil, errors.Join(fmt.Errorf("build world: %w", err), w.Close())
		}
	}
	return w, nil
}

// Wires returns the counters on the machine's two ways out.
func (w *World) Wires() Wires { return w.wires }

// Close ends the world with everything in it, processes included. Closing again does nothing.
func (w *World) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return nil
	}
	w.closed = true
	var errs []error
	if w.Machine != nil {
		errs = append(errs, killAll(w.Machine.inode), w.Machine.hurryOrphans())
	}
	for _, s := range w.services {
		errs = append(errs, s.close())
	}
	if w.tunnel != nil {
		errs = append(errs, w.tunnel.close())
	}
	if w.server != nil {
		errs = append(errs, w.server.close())
	}
	for _, wire := range []*Wire{w.wires.Uplink, w.wires.Tunnel} {
		if wire != nil {
			errs = append(errs, wire.close())
		}
	}
	for _, n := range w.namespaces() {
		errs = append(errs, n.Close())
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("close world: %w", err)
	}
	return nil
}

// namespaces returns those that have been made.
func (w *World) namespaces() []*Namespace {
	var made []*Namespace
	for _, n := range []*Namespace{w.Machine, w.Router, w.VPN, w.Internet} {
		if n != nil {
			made = append(made, n)
		}
	}
	return made
}

func (w *World) makeNamespaces(context.Context) error {
	for _, n := range []**Namespace{&w.Machine, &w.Router, &w.VPN, &w.Internet} {
		var err error
		if *n, err = NewNamespace(); err != nil {
			return err
		}
		if err := (*n).setSysctls(quiet()...); err != nil {
			return err
		}
	}
	for _, n := range []*Namespace{w.Router, w.VPN, w.Internet} {
		if err := n.hurryOrphans(); err != nil {
			return err
		}
	}
	for _, n := range []*Namespace{w.Router, w.VPN} {
		err := n.setSysctls([2]string{"ipv4/ip_forward", "1"}, [2]string{"ipv6/conf/all/forwarding", "1"})
		if err != nil {
			return err
		}
	}
	// Loose, as distributions have it. The others take packets from wherever they come: a leak must arrive.
	return w.Machine.setSysctls([2]string{"ipv4/conf/default/rp_filter", "2"})
}

// quiet returns the settings of every namespace: addresses that are usable at once, no router discovery, no source
// checks. They have to be there before the links, which copy them.
func quiet() [][2]string {
	var values [][2]string
	for _, scope := range []string{"all", "default"} {
		values = append(values,
			[2]string{"ipv4/conf/" + scope + "/rp_filter", "0"},
			[2]string{"ipv6/conf/" + scope + "/disable_ipv6", "0"},
			[2]string{"ipv6/conf/" + scope + "/accept_dad", "0"},
			[2]string{"ipv6/conf/" + scope + "/accept_ra", "0"},
			[2]string{"ipv6/conf/" + scope + "/router_solicitations", "0"})
	}
	return values
}

// hurryOrphans makes the kernel give up soon on connections whose process is gone. They would keep the namespace for
// a minute if the other side is gone too.
func (n *Namespace) hurryOrphans() error {
	return n.setSysctls([2]string{"ipv4/tcp_orphan_retries", "1"})
}

func (w *World) makeLinks(ctx context.Context) error {
	type ends struct {
		a     *Namespace
		aName string
		b     *Namespace
		bName string
	}
	cables := []ends{
		{w.Machine, UplinkName, w.Router, "lan0"},
		{w.VPN, "eth0", w.Router, "vpn0"},
		{w.Internet, "eth0", w.Router, "net0"},
		{w.Internet, "vpn0", w.VPN, "net0"},
	}
	if w.opts.Spare {
		cables = append(cables, ends{w.Machine, SpareName, w.Router, "lan1"})
	}
	for _, c := range cables {
		if err := cable(c.a, c.aName, c.b, c.bName); err != nil {
			return err
		}
	}
	for _, c := range cables {
		if err := errors.Join(c.a.waitRunning(ctx, c.aName), c.b.waitRunning(ctx, c.bName)); err != nil {
			return err
		}
	}
	return nil
}

// configure gives the router, the VPN server and the internet their addresses and routes.
func (w *World) configure(context.Context) error {
	lan := []string{LAN4 + "/24"}
	if !w.opts.NoUplink6 {
		lan = append(lan, LAN6+"/64")
	}
	err := w.Router.withNetlink(func(h *netlink.Handle) error {
		return errors.Join(
			setAddrs(h, "lan0", lan...),
			setAddrs(h, "vpn0", "198.51.100.254/24", "2001:db8:51::fe/64"),
			setAddrs(h, "net0", "203.0.113.1/24", "2001:db8:99::1/64"))
	})
	if err == nil && w.opts.Spare {
		err = errors.Join(w.SpareDown(), w.Router.withNetlink(func(h *netlink.Handle) error {
			return setAddrs(h, "lan1", SpareLAN4+"/24", SpareLAN6+"/64")
		}))
	}
	if err != nil {
		return fmt.Errorf("configure router: %w", err)
	}
	err = w.VPN.withNetlink(func(h *netlink.Handle) error {
		return errors.Join(
			setAddrs(h, "eth0", VPN4+"/24", VPN6+"/64"),
			setAddrs(h, "net0", "198.18.0.1/30", "2001:db8:98::1/64"),
			setRoutes(h,
				route{to: "192.0.2.0/24", via: "198.51.100.254", dev: "eth0"},
				route{to: "2001:db8:1::/64", via: "2001:db8:51::fe", dev: "eth0"},
				route{to: "198.18.2.0/24", via: "198.51.100.254", dev: "eth0"},
				route{to: "2001:db8:2::/64", via: "2001:db8:51::fe", dev: "eth0"},
				route{to: "203.0.113.0/24", via: "198.18.0.2", dev: "net0"},
				route{to: "2001:db8:99::/64", via: "2001:db8:98::2", dev: "net0"}))
	})
	if err != nil {
		return fmt.Errorf("configure VPN server: %w", err)
	}
	return w.configureInternet()
}

// configureInternet routes the answers back the way the questions came: each source address has one way.
func (w *World) configureInternet() error {
	err := w.Internet.withNetlink(func(h *netlink.Handle) error {
		return errors.Join(
			setAddrs(h, "eth0", Internet4+"/24", Internet6+"/64"),
			setAddrs(h, "vpn0", "198.18.0.2/30", "2001:db8:98::2/64"),
			setRoutes(h,
				route{to: "192.0.2.0/24", via: "203.0.113.1", dev: "eth0"},
				route{to: "2001:db8:1::/64", via: "2001:db8:99::1", dev: "eth0"},
				route{to: "198.18.2.0/24", via: "203.0.113.1", dev: "eth0"},
				route{to: "2001:db8:2::/64", via: "2001:db8:99::1", dev: "eth0"},
				route{to: "198.51.100.0/24", via: "203.0.113.1", dev: "eth0"},
				route{to: "2001:db8:51::/64", via: "2001:db8:99::1", dev: "eth0"},
				route{to: "10.64.0.0/24", via: "198.18.0.1", dev: "vpn0"},
				route{to: "fd00:64::/64", via: "2001:db8:98::1", dev: "vpn0"}))
	})
	if err != nil {
		return fmt.Errorf("configure internet: %w", err)
	}
	return nil
}

func (w *World) startServices(context.Context) error {
	for _, n := range []*Namespace{w.Router, w.VPN, w.Internet} {
		s, err := serve(n, w.opts.Ports)
		if err != nil {
			return err
		}
		w.services = append(w.services, s)
	}
	return nil
}

func (w *World) startWires(context.Context) error {
	var err error
	if w.wires.Uplink, err = newWire(true, w.opts.MaxFlows); err != nil {
		return err
	}
	if w.wires.Tunnel, err = newWire(false, w.opts.MaxFlows); err != nil {
		return err
	}
	if err := w.wires.Uplink.attach(w.Router, "lan0"); err != nil || !w.opts.Spare {
		return err
	}
	return w.wires.Uplink.attach(w.Router, "lan1")
}
