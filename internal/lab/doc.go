// Package lab builds small network worlds out of namespaces, for the tests and for `sidestep demo`.
//
// A [World] is a machine with an uplink and a real WireGuard tunnel, and everything that is needed to see which of the
// two a packet took:
//
//	            Machine
//	       eth0┌───────┐wg0
//	  192.0.2.2│       │10.64.0.2
//	           └┬─────┬┘
//	     uplink │     : tunnel, carried by the uplink
//	            │     :
//	192.0.2.1 * │     :
//	       ┌────┴───┐ :   198.51.100.1 ┌─────┐
//	       │ Router ├──────────────────┤ VPN │ 10.64.0.1 *
//	       └────┬───┘ └················└──┬──┘
//	            │                         │
//	            │ 203.0.113.10 *          │
//	       ┌────┴─────────────────────────┴──┐
//	       │            Internet             │
//	       └─────────────────────────────────┘
//
// A star is an address where a service listens that tells its clients what address they come from. Everything has an
// IPv6 address too; the constants list them.
//
// Nothing is translated on the way, so a service sees the address that the packet left the machine with: 192.0.2.2 came
// by the uplink, 10.64.0.2 through the tunnel. The machine's routing is what wg-quick sets up. The two [Wires] count
// every packet in the kernel, as it passes.
//
// With [Options.Spare] the machine has a second uplink, wlan0, to another network of the same router. It is down until
// [World.SpareUp], and its routes are worse than those of eth0.
//
// A world is held by file descriptors of this process alone: no name, no mount, no link in the namespace it was made
// from. It is gone when [World.Close] returns, and also when the process is killed. Any number can exist at once.
package lab

// The address plan. It is the same in every world.
const (
	UplinkName = "eth0" // the machine's uplink
	TunnelName = "wg0"  // the tunnel, on both of its ends; see [World.TunnelUpAs]
	SpareName  = "wlan0"

	Machine4    = "192.0.2.2" // the machine on its uplink
	Machine6    = "2001:db8:1::2"
	Spare4      = "198.18.2.2" // the machine on its second uplink
	Spare6      = "2001:db8:2::2"
	Tunnel4     = "10.64.0.2" // the machine in the tunnel
	Tunnel6     = "fd00:64::2"
	LAN4        = "192.0.2.1" // the router, and a service on the machine's own LAN
	LAN6        = "2001:db8:1::1"
	SpareLAN4   = "198.18.2.1" // the router on the second uplink, with the same service
	SpareLAN6   = "2001:db8:2::1"
	VPN4        = "198.51.100.1" // the VPN server on the internet; the tunnel's transport goes here
	VPN6        = "2001:db8:51::1"
	TunnelHost4 = "10.64.0.1" // the VPN server in the tunnel
	TunnelHost6 = "fd00:64::1"
	Internet4   = "203.0.113.10" // the service on the internet
	Internet6   = "2001:db8:99::10"

	// Fwmark is the mark of the tunnel's own transport, and the number of the tunnel's routing table, as wg-quick
	// chooses them. A socket with this mark leaves by the uplink.
	Fwmark = 51820
	// TransportPort is the UDP port of the tunnel's transport on [VPN4].
	TransportPort = 51820
)
