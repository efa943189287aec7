package main

import (
	"fmt"
	"strconv"
	"strings"
)

// tables returns the results as Markdown that is also good to read as it is.
func (r *results) tables() string {
	var b strings.Builder
	for _, storm := range []bool{false, true} {
		for _, protocol := range []string{"udp", "tcp"} {
			fmt.Fprintf(&b, "%s, %s\n\n", condition(storm), protocolName(protocol))
			r.raceTable(storm, protocol).write(&b)
			b.WriteString("\n")
		}
	}
	b.WriteString("A running program is listed: the next packet of its sockets\n\n")
	r.runningTable().write(&b)
	b.WriteString("\nThe agent is killed: programs on the wrong side from then on\n\n")
	r.tallyTable(func(d *result) []tally { return d.Killed }).write(&b)
	b.WriteString("\nEvents are lost: programs on the wrong side for the rest of their lives\n\n")
	r.tallyTable(func(d *result) []tally { return d.Lost }).write(&b)
	return b.String()
}

func condition(storm bool) string {
	if storm {
		return "Four fork storms"
	}
	return "Idle"
}

func protocolName(p string) string {
	if p == "tcp" {
		return "TCP (the SYN)"
	}
	return "UDP"
}

// A grid is rows of equal length, the first one the head.
type grid [][]string

// write writes the grid as a table whose columns are in line.
func (g grid) write(b *strings.Builder) {
	widths := make([]int, len(g[0]))
	for _, row := range g {
		for i, text := range row {
			widths[i] = max(widths[i], len([]rune(text)), 3)
		}
	}
	for i, row := range g {
		for j, text := range row {
			if j == 0 {
				fmt.Fprintf(b, "| %-*s ", widths[j], text)
			} else {
				fmt.Fprintf(b, "| %*s ", widths[j], text)
			}
		}
		b.WriteString("|\n")
		if i > 0 {
			continue
		}
		for j, w := range widths {
			if j == 0 {
				b.WriteString("|" + strings.Repeat("-", w+2))
			} else {
				b.WriteString("|" + strings.Repeat("-", w+1) + ":")
			}
		}
		b.WriteString("|\n")
	}
}

// raceTable shows the share of packets on the wrong side: a row for each design and thread, a column for each moment.
func (r *results) raceTable(storm bool, protocol string) grid {
	var g grid
	for _, thread := range []bool{false, true} {
		for _, d := range r.Designs {
			head := []string{"% on the wrong side, after"}
			row := []string{d.Name}
			if thread {
				row[0] += ", new thread"
			}
			for _, c := range d.Cells {
				if c.Storm == storm && c.Protocol == protocol && c.Thread == thread {
					head = append(head, strconv.FormatFloat(c.DelayMS, 'g', -1, 64)+" ms")
					row = append(row, c.share())
				}
			}
			if g == nil {
				g = grid{head}
			}
			g = append(g, row)
		}
	}
	return g
}

// share is the percentage of starts whose packet was on the wrong side. Only none is "0", and only all is "100".
func (c cell) share() string {
	text := percent(c.Wrong, c.Starts)
	if lost := c.Starts - c.Right - c.Wrong; lost != 0 { // no wire has seen them
		text += fmt.Sprintf(" (%d lost)", lost)
	}
	return text
}

func percent(part, whole int) string {
	switch {
	case whole == 0:
		return "-"
	case part == 0:
		return "0"
	case part == whole:
		return "100"
	}
	share := 100 * float64(part) / float64(whole)
	return strconv.FormatFloat(min(max(share, 0.1), 99.9), 'f', 1, 64)
}

// runningTable shows in words what became of each kind of socket.
func (r *results) runningTable() grid {
	head := []string{"design"}
	for _, name := range socketNames() {
		head = append(head, name)
	}
	g := grid{head}
	for _, d := range r.Designs {
		row := []string{d.Name}
		for _, f := range d.Running {
			row = append(row, f.words())
		}
		if len(row) == len(head) {
			g = append(g, row)
		}
	}
	return g
}

// words returns what became of the sockets, with numbers where they differ.
func (f fate) words() string {
	all := f.Right + f.Wrong + f.Foreign + f.Refused + f.Silent
	var parts []string
	for _, p := range []struct {
		n    int
		word string
	}{{f.Right, "moved"}, {f.Wrong, "old side"}, {f.Foreign, "wrong source"}, {f.Refused, "error"}, {f.Silent, "nothing"}} {
		switch p.n {
		case 0:
		case all:
			parts = append(parts, p.word)
		default:
			parts = append(parts, fmt.Sprintf("%d %s", p.n, p.word))
		}
	}
	return strings.Join(parts, ", ")
}

// tallyTable shows tallies as "wrong of checked": a row for each design, a column for each thing that was looked at.
func (r *results) tallyTable(of func(*result) []tally) grid {
	head := []string{"design"}
	for _, d := range r.Designs {
		if t := of(d); len(t) >= len(head) {
			head = head[:1]
			for _, one := range t {
				head = append(head, one.What)
			}
		}
	}
	g := grid{head}
	for _, d := range r.Designs {
		row := []string{d.Name}
		for _, what := range head[1:] {
			row = append(row, find(of(d), what))
		}
		g = append(g, row)
	}
	return g
}

func find(tallies []tally, what string) string {
	for _, t := range tallies {
		if t.What == what {
			return fmt.Sprintf("%d of %d", t.Wrong, t.Checked)
		}
	}
	return "no agent"
}
