package main

import (
	"bytes"
	"os"
	"strings"
	"testing"
)

// published returns the results that are committed.
func published(t *testing.T) *results {
	t.Helper()
	r, err := readResults(".")
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestTablesAndPlotShowThePublishedResults(t *testing.T) {
	r := published(t)
	docs, err := os.ReadFile("../../docs/benchmarks.md")
	if err != nil {
		t.Fatal(err)
	}
	for table := range strings.SplitSeq(strings.TrimSpace(r.tables()), "\n\n") {
		if !strings.Contains(string(docs), table) {
			t.Errorf("docs/benchmarks.md lacks\n%s", table)
		}
	}
	plot, err := os.ReadFile(plotFile)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(plot, r.plot()) {
		t.Error("results.svg does not show results.json")
	}
}

func TestPublishedSidestepIsNeverWrongAndTheControlAlwaysIs(t *testing.T) {
	r := published(t)
	for i, d := range designs() {
		r.Designs[i].design = d
		if r.Designs[i].facts != d.facts() {
			t.Errorf("design %d is %v, want %v", i, r.Designs[i].facts, d.facts())
		}
	}
	if err := r.verdict(); err != nil {
		t.Error(err)
	}
	for _, c := range r.Designs[0].Cells {
		if c.Wrong != c.Starts {
			t.Errorf("control: %+v", c)
		}
	}
}
