package check

import (
	"fmt"
	"slices"
	"strings"

	"sidestep/api"
)

// A fact is what became of one probe, before anybody thinks of it.
type fact struct {
	Probe
	reply
	left     []string // the interfaces that it left by, in order
	passedOn []string
	doubt    string // why the interfaces are not known
}

// sides are what the daemon says of the interfaces, and what the network is like.
type sides struct {
	tunnels []string
	uplink  api.Uplink
	network network
}

// uplinkOf returns the uplink of the probe's family; empty where there is none.
func (s sides) uplinkOf(p Probe) string {
	if p.To.Addr().Is4() {
		return s.uplink.IPv4
	}
	return s.uplink.IPv6
}

// leads says where an interface leads.
func (s sides) leads(name string) Side {
	switch {
	case slices.Contains(s.tunnels, name):
		return Tunnel
	case s.network.loopback(name):
		return Local
	case name == s.uplink.IPv4, name == s.uplink.IPv6:
		return Uplink
	}
	return Other
}

// side says where an interface leads a probe. By no tunnel, a local network is no side of the internet.
func (s sides) side(p Probe, name string) Side {
	on := s.leads(name)
	if on != Tunnel && s.network.local(p.To.Addr()) {
		return Local
	}
	return on
}

// expected says where a probe should be. It is empty where every side is right.
func (s sides) expected(p Probe) Side {
	switch {
	case s.network.local(p.To.Addr()):
		return ""
	case p.Program == Excluded && s.uplinkOf(p) == "":
		return None
	case p.Program == Excluded:
		return Uplink
	case len(s.tunnels) > 0:
		return Tunnel
	}
	return ""
}

// judge says what is to be thought of a fact.
func (s sides) judge(f fact) Result {
	r := Result{
		Probe: f.Probe, From: f.From, LeftBy: f.left, PassedOn: f.passedOn, Side: None,
		Expected: s.expected(f.Probe), Verdict: OK, Detail: f.Refused,
	}
	if len(f.left) == 0 {
		r.LeftBy = []string{}
		return s.stayed(r, f)
	}
	// A packet may be seen more than once on its way, on a bond and on the card below it. The first to lead to a side
	// is what routing chose.
	r.Side = s.side(f.Probe, f.left[0])
	for _, name := range f.left {
		if on := s.side(f.Probe, name); r.Side == Other && on != Other {
			r.Side = on
		}
		if f.Program == Excluded && slices.Contains(s.tunnels, name) {
			r.Side = Tunnel
		}
	}
	switch {
	case f.Program == Excluded && r.Side == Tunnel, r.Expected == Tunnel && r.Side != Tunnel && r.Side != Local:
		r.Verdict, r.Detail = Wrong, s.should(r)
	case f.Program == Excluded && r.Side == Other:
		r.Detail = "neither tunnel nor uplink"
	}
	return r
}

// stayed judges what did not leave.
func (s sides) stayed(r Result, f fact) Result {
	closed := f.Program == Excluded && s.uplinkOf(f.Probe) == ""
	switch {
	case f.Refused == "" && f.doubt != "":
		r.Verdict, r.Detail = Unknown, f.doubt
		return r
	case f.Refused == "":
		r.Detail = "not seen to leave"
	}
	if closed {
		r.Detail = "no uplink: " + r.Detail
	} else {
		r.Verdict = Stopped
	}
	return r
}

// should says where a probe on the wrong side belongs.
func (s sides) should(r Result) string {
	switch {
	case r.Program == Included:
		return "should leave by " + strings.Join(s.tunnels, " or ")
	case s.uplinkOf(r.Probe) == "":
		return "should be refused: there is no uplink"
	}
	return fmt.Sprintf("should leave by %s", s.uplinkOf(r.Probe))
}
