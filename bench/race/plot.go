package main

import (
	"fmt"
	"strconv"

	"sidestep/bench/plot"
)

// plot draws the UDP results: the share of packets on the wrong side over time, for programs and for threads, idle and in
// storms.
func (r *results) plot() []byte {
	f := plot.Figure{
		Title:  "First packets on the wrong side, in percent",
		Footer: fmt.Sprintf("UDP, %d starts each. Linux %s, %d CPUs, %s.", r.Starts, r.Kernel, r.CPUs, r.Date),
	}
	for _, d := range r.Designs {
		f.Curves = append(f.Curves, d.Name)
	}
	for _, thread := range []bool{false, true} {
		for _, storm := range []bool{false, true} {
			f.Panels = append(f.Panels, r.panel(storm, thread))
		}
	}
	return f.SVG()
}

// panel is one condition.
func (r *results) panel(storm, thread bool) plot.Panel {
	p := plot.Panel{Title: condition(storm) + ": milliseconds after the start of the program", Top: 100}
	if thread {
		p.Title = condition(storm) + ": milliseconds after the start of a new thread"
	}
	for i, d := range r.Designs {
		var values []float64
		for _, c := range d.series(storm, thread) {
			if i == 0 {
				p.Steps = append(p.Steps, strconv.FormatFloat(c.DelayMS, 'g', -1, 64))
			}
			values = append(values, 100*float64(c.Wrong)/float64(max(1, c.Starts)))
		}
		p.Values = append(p.Values, values)
	}
	return p
}

// series returns the cells of one curve.
func (r *result) series(storm, thread bool) []cell {
	var cells []cell
	for _, c := range r.Cells {
		if c.Protocol == "udp" && c.Storm == storm && c.Thread == thread {
			cells = append(cells, c)
		}
	}
	return cells
}
