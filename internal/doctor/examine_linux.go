package doctor

import (
	"context"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"sidestep/internal/route"
)

// Examine looks at everything, with the numbers that sidestep uses unless told otherwise. When ctx ends, the
// rest is left out, and a line says so.
func Examine(ctx context.Context) Report {
	return ExamineFor(ctx, route.DefaultConfig())
}

// ExamineFor is [Examine] for a machine where sidestep uses these numbers and interfaces.
func ExamineFor(ctx context.Context, cfg route.Config) Report {
	h := host{root: "/"}
	r := Report{Version: 1, Kernel: release()}
	privileged := h.privileges().Grade == OK
	for _, c := range Capabilities() {
		if ctx.Err() == nil {
			r.Lines = append(r.Lines, c.line(privileged))
		}
	}
	for _, part := range []func() []Line{h.machine, func() []Line { return h.around(cfg) }} {
		if ctx.Err() == nil {
			r.Lines = append(r.Lines, part()...)
		}
	}
	if err := ctx.Err(); err != nil {
		r.Lines = append(r.Lines, Line{Area: areaMachine, Name: "the rest", Grade: Warn, Detail: fmt.Sprintf("not looked at: %v", err)})
	}
	return r
}

// around looks at the network and at who else works on it.
func (h host) around(cfg route.Config) []Line {
	var lines []Line
	var e evidence
	var err error
	if e.snap, err = snapshot(); err != nil {
		lines = append(lines, unknown(areaNetwork, "network", err))
	} else {
		lines = append(lines, network(e.snap, cfg)...)
	}
	var failed []Line
	if e.procs, err = h.processes(); err != nil {
		failed = append(failed, unknown(areaPeers, "processes", err))
	}
	if e.tables, err = nftables(); err != nil {
		failed = append(failed, unknown(areaPeers, "nftables", err))
	}
	return slices.Concat(lines, e.lines(), failed)
}

// unknown is the line for something that could not be looked at.
func unknown(area, name string, err error) Line {
	return Line{Area: area, Name: name, Grade: Warn, Detail: fmt.Sprintf("cannot tell: %v", err)}
}

// release returns the kernel's own name for its version.
func release() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "of unknown version"
	}
	return unix.ByteSliceToString(u.Release[:])
}
