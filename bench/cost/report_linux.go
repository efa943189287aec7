package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// A result is one number of the report. Want is what it is held to, if anything.
type result struct {
	Part   string  `json:"part"`
	What   string  `json:"what"`
	With   string  `json:"with,omitempty"` // the rules in force
	Value  *spread `json:"value,omitempty"`
	Off    *spread `json:"off,omitempty"`
	Ratio  *spread `json:"ratio,omitempty"` // to the engine being off
	Text   string  `json:"text"`
	Want   string  `json:"want,omitempty"`
	Missed bool    `json:"missed,omitempty"`
	At     *int    `json:"at,omitempty"` // of growth: how many of what grows
}

// judge holds the result to a limit.
func (r result) judge(got, limit float64, want string) result {
	r.Want, r.Missed = want, !(got <= limit)
	return r
}

func (r result) verdict() string {
	switch {
	case r.Want == "":
		return ""
	case r.Missed:
		return r.Want + ": **missed**"
	}
	return r.Want + ": ok"
}

// A report is printed as it comes about, in Markdown, and written as JSON in the end.
type report struct {
	out     io.Writer
	Machine string   `json:"machine"`
	Results []result `json:"results"`
}

func (r *report) printf(format string, args ...any) { fmt.Fprintf(r.out, format, args...) }

// title says what machine it is.
func (b *bench) title() {
	var u unix.Utsname
	unix.Uname(&u) // fails on bad pointers only
	model := "unknown CPU"
	if text, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		if _, rest, ok := strings.Cut(string(text), "model name\t: "); ok {
			model, _, _ = strings.Cut(rest, "\n")
		}
	}
	load := "?"
	if text, err := os.ReadFile("/proc/loadavg"); err == nil {
		load = strings.Fields(string(text))[0]
	}
	b.report.Machine = fmt.Sprintf("Linux %s, %s, %d × %s, %s; load before the run %s; %d rounds", unix.ByteSliceToString(u.Release[:]),
		unix.ByteSliceToString(u.Machine[:]), runtime.NumCPU(), model, time.Now().Format("2006-01-02"), load, b.rounds)
	b.report.printf("%s.\n", b.report.Machine)
}

// table prints results under a heading, and keeps them.
func (r *report) table(heading string, columns []string, rows [][]string, results []result) {
	r.Results = append(r.Results, results...)
	r.printf("\n### %s\n\n", heading)
	widths := make([]int, len(columns))
	for _, row := range append([][]string{columns}, rows...) {
		for i, cell := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	line := func(cells []string, fill string) {
		for i, cell := range cells {
			r.printf("| %s%s ", cell, strings.Repeat(fill, widths[i]-utf8.RuneCountInString(cell)))
		}
		r.printf("|\n")
	}
	line(columns, " ")
	line(make([]string, len(columns)), "-")
	for _, row := range rows {
		line(row, " ")
	}
}

// keep writes the results, and a plot of those that grow, into a directory.
func (r *report) keep(dir string) error {
	text, err := json.MarshalIndent(r, "", "\t")
	if err != nil {
		return err
	}
	return errors.Join(
		os.WriteFile(filepath.Join(dir, "results.json"), append(text, '\n'), 0o644),
		os.WriteFile(filepath.Join(dir, "growth.svg"), r.figure(), 0o644))
}
