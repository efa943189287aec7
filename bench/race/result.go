package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// The files that results are kept in.
const (
	resultsFile = "results.json"
	plotFile    = "results.svg"
)

// results are what a run has found.
type results struct {
	Version int       `json:"version"` // 1
	Date    string    `json:"date"`
	Kernel  string    `json:"kernel"`
	CPU     string    `json:"cpu"`
	CPUs    int       `json:"cpus"`
	Load    string    `json:"load"`   // one, five and fifteen minutes before the run
	Starts  int       `json:"starts"` // of each design, idle and in the storms
	Designs []*result `json:"designs"`
}

// A result is what a run has found of one design.
type result struct {
	facts
	Cells   []cell  `json:"cells"`
	Running []fate  `json:"running"` // a running program is listed
	Killed  []tally `json:"killed"`  // the agent is killed
	Lost    []tally `json:"lost"`    // programs that started under a disturbance, after it

	design design
	fresh  []cell // of the condition that is being raced
}

func newResults(starts int) (*results, error) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return nil, err
	}
	load, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return nil, err
	}
	r := &results{
		Version: 1,
		Date:    time.Now().UTC().Format(time.DateOnly),
		Kernel:  unix.ByteSliceToString(u.Release[:]),
		CPU:     cpuModel(),
		CPUs:    runtime.NumCPU(),
		Load:    strings.Join(strings.Fields(string(load))[:3], " "),
		Starts:  starts,
	}
	for _, d := range designs() {
		r.Designs = append(r.Designs, &result{facts: d.facts(), design: d})
	}
	return r, nil
}

// cpuModel returns "" where the kernel does not tell.
func cpuModel() string {
	b, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(b)) {
		if name, ok := strings.CutPrefix(line, "model name"); ok {
			return strings.Trim(name, "\t :\n")
		}
	}
	return ""
}

// wrongs counts what a design has on the wrong side, in everything that was looked at.
func (r *result) wrongs() int {
	n := 0
	for _, c := range r.Cells {
		n += c.Wrong
	}
	for _, f := range r.Running {
		n += f.Wrong + f.Foreign
	}
	for _, t := range append(r.Killed, r.Lost...) {
		n += t.Wrong
	}
	return n
}

// marshal returns the results as JSON, a line for each design.
func (r *results) marshal() ([]byte, error) {
	head := *r
	head.Designs = nil
	b, err := json.Marshal(head)
	if err != nil {
		return nil, err
	}
	b = append(bytes.TrimSuffix(b, []byte("null}")), '[')
	for i, d := range r.Designs {
		line, err := json.Marshal(d)
		if err != nil {
			return nil, err
		}
		if i > 0 {
			b = append(b, ',')
		}
		b = append(append(b, '\n'), line...)
	}
	return append(b, "\n]}\n"...), nil
}

// readResults reads what is kept in a directory.
func readResults(dir string) (*results, error) {
	path := filepath.Join(dir, resultsFile)
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	r := &results{}
	if err := json.Unmarshal(b, r); err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return r, nil
}

// keep writes the files that are committed.
func (r *results) keep(dir string) error {
	b, err := r.marshal()
	if err != nil {
		return err
	}
	return errors.Join(
		os.WriteFile(filepath.Join(dir, resultsFile), b, 0o644),
		os.WriteFile(filepath.Join(dir, plotFile), r.plot(), 0o644))
}
