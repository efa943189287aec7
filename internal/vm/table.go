package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// print writes the rows as people read them.
func printTable(results []*result) {
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "\nSYSTEM\tARCH\tKERNEL\tPASSED\tFAILED\tSKIPPED\tNOT RUN\tTIME\n")
	for _, r := range results {
		fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%d\t%d\t%d\t%v\n", r.kernel.System, r.kernel.Arch, r.version,
			r.passed, len(r.failed), len(r.skipped), len(r.left), r.took.Round(time.Second))
	}
	w.Flush()
	for _, r := range results {
		for _, what := range []struct {
			word  string
			names []string
		}{{"failed", r.failed}, {"skipped", r.skipped}, {"noted", r.notes}} {
			for _, n := range what.names {
				fmt.Printf("%s: %s: %s\n", r.kernel.Name, what.word, n)
			}
		}
		if r.said != "" {
			fmt.Printf("%s: the daemon says: %s\n", r.kernel.Name, r.said)
		}
	}
	for _, r := range results {
		if r.missed != "" {
			fmt.Printf("%s: in fork storms %s\n", r.kernel.Name, r.missed)
		}
	}
	if slices.ContainsFunc(results, func(r *result) bool { return r.kernel.Tests != service }) {
		fmt.Printf("\nloops: %g of the usual (%.0f steps of each random history, not 2500)\n", loops, 2500*loops)
	}
}

// The table in docs/kernels.md is between these lines. Rows of kernels that have not been run again stay.
const (
	tableBegin = "<!-- runs: written by `make check-vm` -->\n"
	tableEnd   = "<!-- end of runs -->\n"
	tableHead  = "| system | kernel | arch | tried | result | passed | failed | skipped | date |\n|---|---|---|---|---|---|---|---|---|\n"
)

// writeTable puts the results into the document.
func writeTable(doc string, results []*result, day time.Time) error {
	b, err := os.ReadFile(doc)
	if err != nil {
		return err
	}
	before, rest, ok := strings.Cut(string(b), tableBegin)
	old, after, ok2 := strings.Cut(rest, tableEnd)
	if !ok || !ok2 {
		return fmt.Errorf("%s has no place for the runs", doc)
	}
	text := before + tableBegin + tableHead + strings.Join(rows(old, results, day), "") + tableEnd + after
	if err := os.WriteFile(doc, []byte(text), 0o644); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// rows returns the table's lines in the order of the list of kernels.
func rows(old string, results []*result, day time.Time) []string {
	var lines []string
	for _, k := range kernels {
		i := slices.IndexFunc(results, func(r *result) bool { return r.kernel.Name == k.Name })
		if i >= 0 {
			lines = append(lines, results[i].row(day))
			continue
		}
		for line := range strings.Lines(old) {
			if strings.HasPrefix(line, "| "+k.label()+" |") {
				lines = append(lines, line)
			}
		}
	}
	return lines
}

// label is the row's first cell.
func (k kernel) label() string {
	l := k.System + " (`" + k.Name + "`"
	if k.Append != "" {
		l += ", `" + k.Append + "`"
	}
	return l + ")"
}

func (r *result) row(day time.Time) string {
	tried := string(r.kernel.Tests)
	if r.part != "" {
		tried += ", of it " + r.part
	}
	return fmt.Sprintf("| %s | %s | %s | %s | %s | %d | %d | %d | %s |\n", r.kernel.label(), r.version, r.kernel.Arch, tried,
		r.verdict(), r.passed, len(r.failed), len(r.skipped), day.Format(time.DateOnly))
}
