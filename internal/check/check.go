// Package check is `sidestep check`: it lets an included and an excluded process send, and says which side each packet
// was on.
//
//	Run ── what should be? ─────────────▶ daemon
//	 ├──▶ this program, plainly ────────▶ Send: UDP, TCP, DNS over IPv4 and IPv6
//	 ├──▶ this program, `sidestep run` ─▶ Send: the same
//	 ├─── what was? ────────────────────▶ witness: the packets on the interfaces
//	 │                              else ▶ network: who has the source addresses?
//	 └──▶ judge ────────────────────────▶ Report
//
// Everything that decides is a pure function: of the network to the addresses to send to (target.go), of a packet's
// bytes to the probe that it is (packet.go), of what became of a probe to the verdict (judge.go).
package check

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"sidestep/api"
)

// A Program is one of the two that send.
type Program string

// The programs.
const (
	Included Program = "included"
	Excluded Program = "excluded"
)

// A Kind is what is sent: a datagram, the first packet of a connection, a question to a name server.
type Kind string

// The kinds.
const (
	UDP Kind = "udp"
	TCP Kind = "tcp"
	DNS Kind = "dns"
)

// A Side is where an interface leads.
type Side string

// The sides. None is for what has not left.
const (
	Tunnel Side = "tunnel"
	Uplink Side = "uplink"
	Local  Side = "local" // this machine, or a network that is no part of the internet
	Other  Side = "other"
	None   Side = "none"
)

// A Verdict is what is to be thought of it.
type Verdict string

// The verdicts.
const (
	// OK: it is where it belongs.
	OK Verdict = "ok"
	// Wrong: it was on the wrong side.
	Wrong Verdict = "wrong"
	// Stopped: it did not leave. What is excluded and has no uplink is OK then.
	Stopped Verdict = "stopped"
	// Unknown: the evidence does not tell.
	Unknown Verdict = "unknown"
)

// Evidence is how it is known what a probe left by.
type Evidence string

const (
	// Packets: they were seen on the interfaces.
	Packets Evidence = "packets"
	// SourceAddress: the interface is the one that has the address which the kernel chose for the packet.
	SourceAddress Evidence = "source-address"
)

// A Probe is one packet that a program is told to send.
type Probe struct {
	Program Program `json:"program"`
	// Family is "ipv4" or "ipv6".
	Family string         `json:"family"`
	Kind   Kind           `json:"kind"`
	To     netip.AddrPort `json:"to"`
	// label is in the packet, and in no other.
	label string
}

// A Result is what became of a probe.
type Result struct {
	Probe
	// From is the address that the kernel chose; not valid where it refused.
	From netip.AddrPort `json:"from"`
	// LeftBy are the interfaces that it left by, in order.
	LeftBy []string `json:"left_by"`
	// PassedOn are the interfaces by which somebody on this machine passed it on, a resolver for instance.
	PassedOn []string `json:"passed_on,omitempty"`
	Side     Side     `json:"side"`
	// Expected is missing where every side is right.
	Expected Side    `json:"expected,omitempty"`
	Verdict  Verdict `json:"verdict"`
	// Detail says why, in words.
	Detail string `json:"detail,omitempty"`
}

// right reports whether nothing is to be done about it. What can't be sent does no harm, and is no wonder where a tunnel
// carries one family or a name server is gone; but where there is an uplink, it is there to be used.
func (r Result) right() bool { return r.Verdict == OK || r.Verdict == Stopped && r.Expected != Uplink }

// A Report is what was found.
type Report struct {
	// Version is that of the JSON form, 1.
	Version  int        `json:"version"`
	Evidence Evidence   `json:"evidence"`
	Tunnels  []string   `json:"tunnels"`
	Uplink   api.Uplink `json:"uplink"`
	Probes   []Result   `json:"probes"`
	// Notes are sentences about what the probes don't tell.
	Notes []string `json:"notes"`
}

// Err is nil if every probe was where it belongs.
func (r Report) Err() error {
	var err error
	for _, k := range []struct {
		verdict Verdict
		said    string
	}{
		{Wrong, "took the wrong side"},
		{Stopped, "got nowhere, though excluded programs have an uplink"},
		{Unknown, "left by an interface that can't be told"},
	} {
		if n := r.count(k.verdict); n > 0 {
			err = errors.Join(err, fmt.Errorf("%d of %d probes %s", n, len(r.Probes), k.said))
		}
	}
	return err
}

func (r Report) count(v Verdict) int {
	n := 0
	for _, p := range r.Probes {
		if p.Verdict == v && !p.right() {
			n++
		}
	}
	return n
}

// Hint says what may help; it is empty where nothing is known to.
func (r Report) Hint() string {
	has := func(v Verdict, p Program) bool {
		return slices.ContainsFunc(r.Probes, func(r Result) bool { return r.Verdict == v && r.Program == p && !r.right() })
	}
	switch {
	case has(Wrong, Included):
		return "the system's own routes lead past the tunnel there: the VPN must take that traffic in, or refuse it; " +
			"if it is for some addresses only, name one of them with --to"
	case has(Wrong, Excluded), has(Stopped, Excluded):
		return "the warnings of `sidestep status` and `sidestep doctor` say who is in the way, a VPN's kill switch for instance"
	case r.count(Unknown) > 0 && r.Evidence == SourceAddress:
		return "as root, check sees the packets themselves"
	}
	return ""
}
