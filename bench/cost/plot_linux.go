package main

import (
	"slices"
	"strconv"
	"strings"

	"sidestep/bench/plot"
)

// curves are what the plots show: programs in the kernel, by their nanoseconds, and the daemon, by its share of a CPU.
func curves() []string {
	return []string{"on_exec", "on_newtask", "on_socket", "on_egress", alone, listened}
}

// figure draws how the cost grows, a panel for each thing that does.
func (r *report) figure() []byte {
	f := plot.Figure{Title: "What others pay while something grows", Curves: curves(), Footer: strings.SplitAfter(r.Machine, ";")[0]}
	var parts []string // of the report's growth, in its order
	for _, x := range r.Results {
		if x.At != nil && !slices.Contains(parts, x.What) {
			parts = append(parts, x.What)
		}
	}
	for _, what := range parts {
		f.Panels = append(f.Panels, r.panel(what))
	}
	return f.SVG()
}

func (r *report) panel(what string) plot.Panel {
	p := plot.Panel{Title: what}
	for _, curve := range curves() {
		var values []float64
		for _, x := range r.Results {
			if x.At == nil || x.What != what || x.With != curve {
				continue
			}
			if step := strconv.Itoa(*x.At); !slices.Contains(p.Steps, step) {
				p.Steps = append(p.Steps, step)
			}
			values = append(values, x.Value.Median)
		}
		p.Values = append(p.Values, values)
	}
	return p
}
