package main

import (
	"bytes"
	"fmt"
	"strconv"
)

// The plot's measures, in pixels.
const (
	plotWidth, plotHeight = 900, 640
	panelWidth            = 360
	panelHeight           = 200
	panelLeft, panelTop   = 64, 112
	panelRight, panelDown = 440, 262 // from one panel to the next
)

// colours are those of the designs, in their order: legible on a light and on a dark ground.
func colours() []string {
	return []string{"#8b949e", "#e5534b", "#d4880c", "#a475f9", "#539bf5", "#2da44e"}
}

// plot draws the UDP results: the share of packets on the wrong side over time, for programs and for threads, idle and in
// storms. The ground follows what the reader prefers, light or dark.
func (r *results) plot() []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12">
<title>First packets on the wrong side</title>
<style>
.ground { fill: #ffffff } .text { fill: #24292f } .grid { stroke: #d0d7de }
@media (prefers-color-scheme: dark) { .ground { fill: #161b22 } .text { fill: #e6edf3 } .grid { stroke: #3d444d } }
</style>
<rect class="ground" width="%d" height="%d" rx="8"/>
<text class="text" x="24" y="32" font-size="16" font-weight="bold">First packets on the wrong side, in percent</text>
`, plotWidth, plotHeight, plotWidth, plotHeight)
	r.legend(&b)
	for i, thread := range []bool{false, true} {
		for j, storm := range []bool{false, true} {
			fmt.Fprintf(&b, "<g transform=\"translate(%d %d)\">\n", panelLeft+j*panelRight, panelTop+i*panelDown)
			r.panel(&b, storm, thread)
			b.WriteString("</g>\n")
		}
	}
	fmt.Fprintf(&b, "<text class=\"text\" x=\"24\" y=\"%d\" font-size=\"11\">UDP, %d starts each. Linux %s, %d CPUs, %s.</text>\n</svg>\n",
		plotHeight-14, r.Starts, r.Kernel, r.CPUs, r.Date)
	return b.Bytes()
}

// legend writes the designs' names in two rows.
func (r *results) legend(b *bytes.Buffer) {
	const perRow, column, row = 3, 200, 20
	for i, d := range r.Designs {
		x, y := 24+i%perRow*column, 50+i/perRow*row
		fmt.Fprintf(b, "<rect x=\"%d\" y=\"%d\" width=\"18\" height=\"4\" fill=\"%s\"/>\n", x, y, colours()[i])
		fmt.Fprintf(b, "<text class=\"text\" x=\"%d\" y=\"%d\">%s</text>\n", x+26, y+6, d.Name)
	}
}

// panel draws one condition.
func (r *results) panel(b *bytes.Buffer, storm, thread bool) {
	title := condition(storm) + ": milliseconds after the start of "
	if thread {
		title += "a new thread"
	} else {
		title += "the program"
	}
	fmt.Fprintf(b, "<text class=\"text\" x=\"0\" y=\"-10\">%s</text>\n", title)
	for share := 0; share <= 100; share += 25 {
		y := panelHeight - share*panelHeight/100
		fmt.Fprintf(b, "<line class=\"grid\" x1=\"0\" x2=\"%d\" y1=\"%d\" y2=\"%d\"/>\n", panelWidth, y, y)
		fmt.Fprintf(b, "<text class=\"text\" x=\"-8\" y=\"%d\" text-anchor=\"end\">%d</text>\n", y+4, share)
	}
	for i, d := range r.Designs {
		r.curve(b, i, d.series(storm, thread), i == 0)
	}
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

// curve draws one design. The first also writes the scale. Earlier ones are broader, so that those below others are seen.
func (r *results) curve(b *bytes.Buffer, design int, cells []cell, scale bool) {
	var points bytes.Buffer
	for i, c := range cells {
		x := 10 + i*(panelWidth-20)/max(1, len(cells)-1)
		y := panelHeight - float64(c.Wrong*panelHeight)/float64(max(1, c.Starts))
		fmt.Fprintf(&points, "%d,%.1f ", x, y)
		if scale {
			delay := strconv.FormatFloat(c.DelayMS, 'g', -1, 64)
			fmt.Fprintf(b, "<text class=\"text\" x=\"%d\" y=\"%d\" text-anchor=\"middle\">%s</text>\n", x, panelHeight+18, delay)
		}
	}
	width := 2 + float64(len(r.Designs)-1-design)*0.8
	fmt.Fprintf(b, "<polyline points=\"%s\" fill=\"none\" stroke=\"%s\" stroke-width=\"%.1f\" stroke-linejoin=\"round\"/>\n",
		bytes.TrimSpace(points.Bytes()), colours()[design], width)
}
