package check

import (
	"fmt"
	"slices"
	"strings"
)

// sight notes which probe a packet is, if it is one, and by which interface it left.
//
// What has left by the loopback interface has reached somebody on this machine, a resolver for instance. The same
// question by another interface is theirs.
func (n network) sight(facts []fact, p packet) {
	i := slices.IndexFunc(facts, func(f fact) bool { return p.is(f.Probe, f.From.Port()) })
	if i < 0 {
		return
	}
	f, name := &facts[i], n.name(p.by)
	seen := &f.left
	if len(f.left) > 0 && n.loopback(f.left[0]) && !n.loopback(name) {
		seen = &f.passedOn
	}
	if !slices.Contains(*seen, name) {
		*seen = append(*seen, name)
	}
}

// sighted reports whether everything that can have left has been seen.
func sighted(facts []fact) bool {
	return !slices.ContainsFunc(facts, func(f fact) bool { return len(f.left) == 0 && f.Refused == "" })
}

// attribute says by which interfaces the probes left, going by their source addresses.
func (n network) attribute(facts []fact) {
	for i := range facts {
		f := &facts[i]
		if f.Refused != "" {
			continue
		}
		switch names := n.holders(f.From.Addr()); {
		case n.here(f.To.Addr()):
			f.left = n.loopbacks()
		case len(names) == 1:
			f.left = names
		case len(names) == 0:
			f.doubt = fmt.Sprintf("no interface has the source address %s", f.From.Addr())
		default:
			f.doubt = fmt.Sprintf("the source address %s is that of %s", f.From.Addr(), strings.Join(names, " and "))
		}
	}
}
