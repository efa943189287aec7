package route

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"sidestep/internal/netmon"
)

// An Actuator makes one network namespace equal a [Plan]. It is not for use by several goroutines at a time.
type Actuator struct {
	cfg     Config
	reader  *netmon.Reader
	conn    *conn
	sysctls *sysctls
}

// New opens all that the actuator will ever use, in the network namespace of the calling thread.
//
// saved is what an actuator before this one saved last. save stores what [Actuator.Set] is about to change,
// and is called before the change; if it fails there is no change. A nil save stores nothing, and what a
// crash leaves behind then stays.
func New(cfg Config, saved Saved, save func(Saved) error) (*Actuator, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	reader, err := netmon.OpenReader()
	if err != nil {
		return nil, err
	}
	c, err := dial()
	if err != nil {
		return nil, errors.Join(err, reader.Close())
	}
	s, err := openSysctls(saved, save)
	if err != nil {
		c.close()
		return nil, errors.Join(err, reader.Close())
	}
	return &Actuator{cfg: cfg, reader: reader, conn: c, sysctls: s}, nil
}

// Close gives the sockets back; what was set stays.
func (a *Actuator) Close() error {
	a.conn.close()
	return errors.Join(a.sysctls.close(), a.reader.Close())
}

// Saved returns what [Actuator.Clean] would put back.
func (a *Actuator) Saved() Saved { return Saved{Sysctls: slices.Clone(a.sysctls.saved.Sysctls)} }

// Set makes the world equal the plan. Setting the same plan again changes nothing.
//
// It may fail half-way, and ctx may end it half-way, without a packet going wrong: routes come before the
// rules that lead to them, the rule that refuses before the one that looks, and what is not wanted any more
// goes last. A family that fails does not keep the other from being set. A kernel without IPv6 has nothing
// to set there.
func (a *Actuator) Set(ctx context.Context, p Plan) error {
	a.conn.requests = 0
	errs := []error{a.sysctls.set(p.Sysctls)}
	for _, fam := range []netmon.Family{netmon.IPv4, netmon.IPv6} {
		errs = append(errs, a.setFamily(ctx, fam, p))
	}
	if errors.Join(errs...) == nil {
		_, err := a.sysctls.restore(p.Sysctls)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// Changed reports whether the last Set has changed rules or routes, or tried to.
func (a *Actuator) Changed() bool { return a.conn.requests > 0 }

func (a *Actuator) setFamily(ctx context.Context, fam netmon.Family, p Plan) error {
	routes, err := a.reader.Routes(fam, a.cfg.Table)
	if err != nil {
		return err
	}
	rules, err := a.reader.Rules(fam)
	if err != nil {
		return err
	}
	c := a.compare(routes, ofFamily(p.Routes, fam))
	errs := a.enter(ctx, p, c)
	err = a.setRules(ctx, rules, rulesOfFamily(p.Rules, fam))
	if fam == netmon.IPv6 && (errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP)) {
		return nil
	}
	errs = append(errs, err)
	errs = append(errs, a.leave(ctx, p, c)...)
	return errors.Join(errs...)
}

// A change is what to do to the routes of one family.
type change struct {
	add     []netmon.Route
	replace []replacement
	stale   []netmon.Route
}

type replacement struct{ from, to netmon.Route }

// compare finds out what to do. A route that alone has its key is replaced by one that alone has it; others
// are added before the stale ones go. Routes of others in our table are not touched.
func (a *Actuator) compare(have, want []netmon.Route) change {
	var c change
	present, wanted := group(have), group(want)
	for _, w := range want {
		key := keyOf(w)
		old := present[key]
		switch {
		case contains(old, w):
		case len(old) == 1 && len(wanted[key]) == 1 && a.cfg.ownsRoute(old[0]):
			c.replace = append(c.replace, replacement{from: old[0], to: w})
		default:
			c.add = append(c.add, w)
		}
	}
	for _, h := range have {
		key := keyOf(h)
		replaced := len(present[key]) == 1 && len(wanted[key]) == 1
		if a.cfg.ownsRoute(h) && !replaced && !contains(wanted[key], h) {
			c.stale = append(c.stale, h)
		}
	}
	return c
}

// group sorts routes by their key, in canonical form.
func group(routes []netmon.Route) map[routeKey][]netmon.Route {
	by := make(map[routeKey][]netmon.Route, len(routes))
	for _, r := range routes {
		by[keyOf(r)] = append(by[keyOf(r)], canonical(r))
	}
	return by
}

func contains(canon []netmon.Route, r netmon.Route) bool {
	return slices.ContainsFunc(canon, canonical(r).Equal)
}

// canonical leaves out what makes no difference: the order of ways out, and whether one is dead just now.
func canonical(r netmon.Route) netmon.Route {
	r.Nexthops = slices.Clone(r.Nexthops)
	for i := range r.Nexthops {
		r.Nexthops[i].Dead = false
	}
	slices.SortFunc(r.Nexthops, func(a, b netmon.Nexthop) int {
		return cmp.Or(cmp.Compare(a.OIF, b.OIF), a.Gateway.Compare(b.Gateway), cmp.Compare(a.Weight, b.Weight))
	})
	return r
}

// enter adds and replaces routes: those without a gateway first, since gateways are reached through them.
func (a *Actuator) enter(ctx context.Context, p Plan, c change) []error {
	var errs []error
	for _, direct := range []bool{true, false} {
		for _, r := range c.add {
			if routed(r) != direct {
				errs = append(errs, a.each(ctx, p, "add", r, a.conn.addRoute))
			}
		}
		for _, r := range c.replace {
			if routed(r.to) != direct {
				errs = append(errs, a.each(ctx, p, "replace", r.to, func(to netmon.Route) error {
					return a.replace(r.from, to)
				}))
			}
		}
	}
	return errs
}

// replace puts one route in the place of another. If it cannot, the other goes all the same: it may lead into
// what has become a tunnel.
//
// IPv6 has a request for that; where it leaves a gap, packets are refused: see [Config.rules]. The one of IPv4
// has a gap too: a lookup that is at the old route as it dies goes on with the one behind it, which is not the
// new one. So the new one is put behind it first.
func (a *Actuator) replace(from, to netmon.Route) error {
	if to.Family() == netmon.IPv4 {
		return errors.Join(a.conn.addRoute(to), a.conn.deleteRoute(from))
	}
	err := a.conn.replaceRoute(to)
	if err != nil {
		err = errors.Join(err, a.conn.deleteRoute(from))
	}
	return err
}

func (a *Actuator) leave(ctx context.Context, p Plan, c change) []error {
	var errs []error
	for _, r := range c.stale {
		errs = append(errs, a.each(ctx, p, "delete", r, a.conn.deleteRoute))
	}
	return errs
}

// each does one thing to one route. An error does not keep the rest from being done: the rule that refuses holds.
func (a *Actuator) each(ctx context.Context, p Plan, verb string, r netmon.Route, do func(netmon.Route) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := do(r); err != nil {
		return fmt.Errorf("%s route %q: %w", verb, r.Text(namer(p.Links)), err)
	}
	return nil
}

// setRules adds what is missing, the rule that refuses first, and then removes what is ours and not wanted.
func (a *Actuator) setRules(ctx context.Context, have, want []netmon.Rule) error {
	for _, r := range slices.Backward(want) {
		if slices.Contains(have, r) {
			continue
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := a.conn.addRule(r); err != nil {
			return fmt.Errorf("add rule %q: %w", r, err)
		}
	}
	for _, r := range have {
		if !a.cfg.ownsRule(r) || slices.Contains(want, r) {
			continue
		}
		if err := a.conn.deleteRule(r); err != nil {
			return fmt.Errorf("delete rule %q: %w", r, err)
		}
	}
	return nil
}

func ofFamily(routes []netmon.Route, fam netmon.Family) []netmon.Route {
	return slices.DeleteFunc(slices.Clone(routes), func(r netmon.Route) bool { return r.Family() != fam })
}

func rulesOfFamily(rules []netmon.Rule, fam netmon.Family) []netmon.Rule {
	return slices.DeleteFunc(slices.Clone(rules), func(r netmon.Rule) bool { return r.Family != fam })
}
