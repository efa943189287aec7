package demo

import (
	"fmt"
	"io"
	"strings"
)

// A screen is where the story appears, a line at a time. Writing to it may fail unnoticed: the demo ends when nobody
// reads it any more, because the kernel ends whoever writes to a broken pipe.
type screen struct {
	w    io.Writer
	step int
}

// The widths of a line: a number, a sentence, two counts, a verdict. 90 columns in all.
const proofLine = "%4d  %-60s%8d%8d  %s\n"

func (s *screen) title() {
	fmt.Fprint(s.w, `sidestep demo: a computer with an uplink and a VPN tunnel, in namespaces of its own.
The kernel counts every packet on both wires. Nothing outside is touched.

`)
}

func (s *screen) header() {
	fmt.Fprintf(s.w, "\n      %-60s%8s%8s\n", "", "uplink", "tunnel")
}

// command shows what would be typed.
func (s *screen) command(words ...string) {
	fmt.Fprintf(s.w, "\n      # %s\n", strings.Join(words, " "))
}

// fact shows what was found out without counting.
func (s *screen) fact(format string, args ...any) {
	s.step++
	fmt.Fprintf(s.w, "%4d  %s\n", s.step, fmt.Sprintf(format, args...))
}

// proof shows on which side the packets of a part were.
func (s *screen) proof(text string, p part, n counts) {
	s.step++
	verdict := "ok"
	if n[p.side.other()] > 0 || n[p.side] == 0 {
		verdict = "WRONG"
	}
	fmt.Fprintf(s.w, proofLine, s.step, text, n[uplink], n[tunnel], verdict)
}

// table shows all packets, and the number that it is all about.
func (s *screen) table(rows []row, wrong uint64) {
	width := len("packets on the wrong side:")
	for _, r := range rows {
		width = max(width, len(r.name))
	}
	line := fmt.Sprintf("  %%-%ds  %%-8s%%8s%%8s\n", width)
	fmt.Fprint(s.w, "\n")
	fmt.Fprintf(s.w, line, "packets sent by", "side", "uplink", "tunnel")
	fmt.Fprintf(s.w, "  %s\n", strings.Repeat("-", width+2+8+8+8))
	for _, r := range rows {
		fmt.Fprintf(s.w, line, r.name, r.side, fmt.Sprint(r.counts[uplink]), fmt.Sprint(r.counts[tunnel]))
	}
	fmt.Fprintf(s.w, "\n  packets on the wrong side: %d\n", wrong)
}
