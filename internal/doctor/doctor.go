// Package doctor says whether this kernel and this machine have what sidestep needs, and who may get in its way.
//
// It looks and tries, it never concludes from a version number, and it changes nothing: programs that it loads
// to see whether the kernel takes them are never attached. [Examine] returns a [Report] of lines, each with its
// own verdict and, where something can be done, a hint.
package doctor

import (
	"fmt"
	"slices"
	"strings"
)

// A Grade is the verdict on one line of a report.
type Grade uint8

const (
	// OK: as it should be.
	OK Grade = iota
	// Warn: sidestep works, with less than everything or next to something that deserves a look.
	Warn
	// Missing: sidestep cannot work without it.
	Missing
)

var grades = [...]string{"ok", "warn", "missing"}

func (g Grade) String() string {
	if int(g) < len(grades) {
		return grades[g]
	}
	return fmt.Sprintf("grade(%d)", uint8(g))
}

// MarshalText writes the grade as String does.
func (g Grade) MarshalText() ([]byte, error) { return []byte(g.String()), nil }

// UnmarshalText reads what MarshalText wrote.
func (g *Grade) UnmarshalText(b []byte) error {
	i := slices.Index(grades[:], string(b))
	if i < 0 {
		return fmt.Errorf("unknown grade %q", b)
	}
	*g = Grade(i)
	return nil
}

// The areas of a report, in its order.
const (
	areaKernel  = "kernel"
	areaMachine = "machine"
	areaNetwork = "network"
	areaPeers   = "other software"
)

// A Line is one thing that was looked at.
type Line struct {
	Area string `json:"area"`
	Name string `json:"name"`
	// Grade is "ok", "warn" or "missing".
	Grade  Grade  `json:"grade"`
	Detail string `json:"detail,omitempty"`
	// Hint says what to do about it.
	Hint string `json:"hint,omitempty"`
}

// A Report is what was found on a machine.
type Report struct {
	// Version is that of the JSON form, 1.
	Version int    `json:"version"`
	Kernel  string `json:"kernel"`
	Lines   []Line `json:"lines"`
}

// Healthy reports whether nothing that is needed is missing. `sidestep doctor` exits with 1 if it is false.
func (r Report) Healthy() bool { return r.count(Missing) == 0 }

func (r Report) count(g Grade) int {
	n := 0
	for _, l := range r.Lines {
		if l.Grade == g {
			n++
		}
	}
	return n
}

// String returns the report as people read it.
func (r Report) String() string {
	var b strings.Builder
	width := 0
	for _, l := range r.Lines {
		width = max(width, len(l.Name))
	}
	fmt.Fprintf(&b, "Linux %s\n", r.Kernel)
	area := ""
	for _, l := range r.Lines {
		if l.Area != area {
			area = l.Area
			fmt.Fprintf(&b, "\n%s\n", area)
		}
		line := fmt.Sprintf("  %-7s  %-*s  %s", l.Grade, width, l.Name, l.Detail)
		b.WriteString(strings.TrimRight(line, " ") + "\n")
		if l.Hint != "" {
			fmt.Fprintf(&b, "  %-7s  %-*s  hint: %s\n", "", width, "", l.Hint)
		}
	}
	fmt.Fprintf(&b, "\n%s\n", r.summary())
	return b.String()
}

func (r Report) summary() string {
	missing, warn := r.count(Missing), r.count(Warn)
	switch {
	case missing > 0:
		return fmt.Sprintf("sidestep cannot work here: %s missing, %s", things(missing), warnings(warn))
	case warn > 0:
		return fmt.Sprintf("sidestep can work here: nothing missing, %s", warnings(warn))
	}
	return "sidestep can work here"
}

func things(n int) string {
	if n == 1 {
		return "1 thing"
	}
	return fmt.Sprintf("%d things", n)
}

func warnings(n int) string {
	if n == 1 {
		return "1 warning"
	}
	return fmt.Sprintf("%d warnings", n)
}
