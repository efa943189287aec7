// Package route sends marked packets out of the uplink, and nowhere else.
//
// [PlanFor] is pure: from a [netmon.Snapshot] and a [Config] it finds the tunnels and the uplink and says
// which rules, routes and sysctls there should be. [Actuator.Set] makes the world equal the plan, and
// [Actuator.Clean] takes everything back. Per family the plan is
//
//	90: fwmark 0x10000000/0x70000000 lookup 28416       table 28416: the routes of main that use no tunnel
//	91: fwmark 0x10000000/0x70000000 unreachable
//
// so that a marked packet that finds no way out through the uplink is refused at once with "network is unreachable",
// and never reaches the rules that lead into the tunnel.
package route

import (
	"errors"
	"fmt"
	"math/bits"
	"slices"

	"sidestep/internal/netmon"
)

// ExitOutside is the exit number of programs that go out through the uplink; 0 is the system's default.
const ExitOutside = 1

// The numbers we use unless told otherwise. Whoever chooses others wants to know who uses what; the list is
// in the design's linux-peers.md, section 4.
const (
	// DefaultMask: bits 28-30 make eight exits. Bits 0-12 and 16-31 are Cilium's, 13-15 Kubernetes', 16-23
	// Tailscale's, 27 dae's, and Calico defaults to all of 16-31; so on a desktop these three are free. They
	// are set in two marks that their owners compare as a whole: Mullvad's 0x6d6f6c65 reads as exit 6 and
	// Windscribe's 0xdecafbad as exit 5, neither of which we route. Bit 31 is left alone: tools that keep
	// marks in a signed int mangle it.
	DefaultMask uint32 = 0x7000_0000

	// DefaultTable: 0x6f00. Small numbers belong to distributions (220 strongSwan, 205 NordVPN, 100-250
	// Calico, 2004 Cilium, 2023 dae, 7120 NetBird, 10007 cgproxy, 10011 Amnezia), and 51820 to wg-quick.
	DefaultTable uint32 = 28416

	// DefaultPriority: a rule that comes before ours can take marked packets into its tunnel, so ours comes
	// before Calico's 99, PIA's 100, NetBird's 105, strongSwan's 220, VRF's 1000, Tailscale's 1310 and 5210,
	// Windscribe's 16383, NetworkManager's 31xxx and wg-quick's 327xx. Below 50 is Cilium's. Amnezia's
	// 50 and 70 look at marks of their own. We use this number and the next, or lower ones: see [Config].
	DefaultPriority uint32 = 90

	// DefaultProtocol marks rules and routes as ours. 'S'; below it iproute2 names up to 42 (Babel), above it
	// 84 (OVN) and 99 (Open/R).
	DefaultProtocol uint8 = 83
)

// A Config says which numbers are ours and what the user chose.
type Config struct {
	// Mask holds the bits of a packet's mark that are ours, in one piece.
	Mask uint32
	// Table holds the uplink's routes.
	Table uint32
	// Priority is that of our first rule; the second has the next. Where a rule of others would take marked
	// packets before that, both go before it. That happens by itself: a rule that is added without a priority, as
	// wg-quick does, gets the one just before the first rule after "local" (fib_default_rule_pref in
	// net/core/fib_rules.c), so before ours.
	Priority uint32
	// Protocol marks rules and routes as ours.
	Protocol uint8
	// Tunnels names the tunnels; empty means that they are looked for.
	Tunnels []string
	// Uplink names the uplink; empty means that it is looked for.
	Uplink string
}

// DefaultConfig returns the configuration with the default numbers and nothing named.
func DefaultConfig() Config {
	return Config{
		Mask:     DefaultMask,
		Table:    DefaultTable,
		Priority: DefaultPriority,
		Protocol: DefaultProtocol,
	}
}

// Mark returns the mark of packets that use this exit, to be compared under c.Mask.
func (c Config) Mark(exit uint32) uint32 {
	return exit << bits.TrailingZeros32(c.Mask) & c.Mask
}

// Exits returns the largest exit number that the mask has room for.
func (c Config) Exits() uint32 { return c.Mask >> bits.TrailingZeros32(c.Mask) }

// Validate says what is wrong with the configuration.
func (c Config) Validate() error {
	var errs []error
	if exits := uint64(c.Exits()); c.Mask == 0 || exits&(exits+1) != 0 {
		errs = append(errs, fmt.Errorf("mark mask %#x: not one piece of bits", c.Mask))
	}
	switch {
	case c.Table == 0, c.Table == netmon.TableDefault, c.Table == netmon.TableMain, c.Table == netmon.TableLocal,
		c.Table > 1<<31-1:
		errs = append(errs, fmt.Errorf("routing table %d: reserved", c.Table))
	}
	if c.Priority == 0 || c.Priority > 32764 {
		errs = append(errs, fmt.Errorf("rule priority %d: not between 1 and 32764", c.Priority))
	}
	if c.Protocol == 0 {
		errs = append(errs, errors.New("routing protocol 0: means unknown"))
	}
	if c.Uplink != "" && slices.Contains(c.Tunnels, c.Uplink) {
		errs = append(errs, fmt.Errorf("interface %q: named as tunnel and as uplink", c.Uplink))
	}
	return errors.Join(errs...)
}

// ownsRoute reports whether the route is one of those that [Actuator.Set] makes.
func (c Config) ownsRoute(r netmon.Route) bool { return r.Table == c.Table && r.Protocol == c.Protocol }

// ownsRule reports whether the rule is one of those that [Actuator.Set] makes, perhaps with another mask.
func (c Config) ownsRule(r netmon.Rule) bool {
	switch {
	case r.Protocol != c.Protocol:
		return false
	case r.Action == netmon.Lookup:
		return r.Table == c.Table && r.Priority <= c.Priority
	}
	return r.Action == netmon.RuleUnreachable && r.Priority <= c.Priority+1
}
