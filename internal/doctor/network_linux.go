package doctor

import (
	"fmt"
	"strings"

	"sidestep/internal/netmon"
	"sidestep/internal/route"
)

// snapshot reads the network of the calling thread's namespace.
func snapshot() (netmon.Snapshot, error) {
	r, err := netmon.OpenReader()
	if err != nil {
		return netmon.Snapshot{}, err
	}
	defer r.Close()
	return r.Snapshot()
}

// network says how the network looks to sidestep.
func network(snap netmon.Snapshot, cfg route.Config) []Line {
	plan := route.PlanFor(snap, cfg)
	lines := []Line{tunnels(plan), uplink(plan), rpFilter(snap, plan)}
	for _, w := range plan.Warnings {
		lines = append(lines, Line{Name: "routing", Grade: Warn, Detail: w})
	}
	for i := range lines {
		lines[i].Area = areaNetwork
	}
	return lines
}

func tunnels(plan route.Plan) Line {
	l := Line{Name: "tunnels", Detail: names(plan.Tunnels)}
	if l.Detail == "" {
		l.Detail = "none now"
		l.Hint = "a tunnel that sidestep does not find by itself can be named: sidestep daemon --tunnel IF"
	}
	return l
}

func uplink(plan route.Plan) Line {
	var parts []string
	if plan.Uplink4.Name != "" {
		parts = append(parts, "IPv4 "+plan.Uplink4.Name)
	}
	if plan.Uplink6.Name != "" {
		parts = append(parts, "IPv6 "+plan.Uplink6.Name)
	}
	if len(parts) == 0 {
		return Line{Name: "uplink", Grade: Warn, Detail: "none: excluded programs have no way out"}
	}
	return Line{Name: "uplink", Detail: strings.Join(parts, ", ")}
}

// rpFilter tells of strict reverse path filters, which drop the answers to excluded programs.
func rpFilter(snap netmon.Snapshot, plan route.Plan) Line {
	const strict = 1
	var where []string
	for _, up := range plan.Uplinks {
		if l, ok := snap.Link(up.Index); ok && max(l.RPFilter, snap.RPFilterAll) == strict {
			where = append(where, l.Name)
		}
	}
	if len(where) == 0 {
		return Line{Name: "rp_filter", Detail: "lets answers in"}
	}
	return Line{Name: "rp_filter", Detail: fmt.Sprintf("strict on %s: sidestep relaxes it while it runs", strings.Join(where, ", "))}
}

func names(ifaces []route.Iface) string {
	var all []string
	for _, i := range ifaces {
		all = append(all, i.Name)
	}
	return strings.Join(all, ", ")
}
