package route

import (
	"context"
	"errors"
	"fmt"

	"sidestep/internal/netmon"
)

// Clean removes everything of ours, also what a crashed actuator with the same [Config] left behind, and says
// what it removed, a line for each thing. Cleaning again removes nothing.
//
// Rules go first, then routes, then sysctls are put back. A packet that still carries our mark then goes the
// way of all others: the caller sees to it that nothing is excluded any more.
func (a *Actuator) Clean(ctx context.Context) (removed []string, err error) {
	var errs []error
	for _, fam := range []netmon.Family{netmon.IPv4, netmon.IPv6} {
		lines, err := a.cleanRules(ctx, fam)
		removed, errs = append(removed, lines...), append(errs, err)
	}
	name := a.linkName()
	for _, fam := range []netmon.Family{netmon.IPv4, netmon.IPv6} {
		lines, err := a.cleanRoutes(ctx, fam, name)
		removed, errs = append(removed, lines...), append(errs, err)
	}
	lines, err := a.sysctls.restore(nil)
	return append(removed, lines...), errors.Join(append(errs, err)...)
}

// cleanRules removes the rule that leads to our table before the one that refuses: in between, marked packets
// are refused.
func (a *Actuator) cleanRules(ctx context.Context, fam netmon.Family) (removed []string, err error) {
	rules, err := a.reader.Rules(fam)
	if err != nil {
		return nil, err
	}
	for _, r := range rules { // in order of priority
		if !a.cfg.ownsRule(r) {
			continue
		}
		if err := ctx.Err(); err != nil {
			return removed, err
		}
		if err := a.conn.deleteRule(r); err != nil {
			return removed, fmt.Errorf("delete rule %q: %w", r, err)
		}
		removed = append(removed, "rule "+r.String())
	}
	return removed, nil
}

func (a *Actuator) cleanRoutes(
	ctx context.Context, fam netmon.Family, name func(int) string,
) (removed []string, err error) {
	routes, err := a.reader.Routes(fam, a.cfg.Table)
	if err != nil {
		return nil, err
	}
	for _, r := range routes {
		if !a.cfg.ownsRoute(r) {
			continue
		}
		if err := ctx.Err(); err != nil {
			return removed, err
		}
		if err := a.conn.deleteRoute(r); err != nil {
			return removed, fmt.Errorf("delete route %q: %w", r.Text(name), err)
		}
		removed = append(removed, "route "+r.Text(name))
	}
	return removed, nil
}

// linkName names links for the report; without a list of them they keep their numbers.
func (a *Actuator) linkName() func(int) string {
	links, err := a.reader.Links()
	if err != nil {
		return nil
	}
	all := make([]Iface, len(links))
	for i, l := range links {
		all[i] = Iface{Index: l.Index, Name: l.Name}
	}
	return namer(all)
}
