package main

import (
	"bufio"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"time"
)

// A result is what came of one kernel.
type result struct {
	kernel  kernel
	part    string // of its tests, if the command line chose one
	version string
	passed  int
	failed  []string
	skipped []string
	left    []string // not in the kernel's part, or never reached
	notes   []string // what the guest or its kernel complained of
	said    string   // by a daemon that refuses
	missed  string   // what a test under fork storms says of events that the kernel did not tell of
	took    time.Duration

	step     string
	lacks    []string // of kernel and guest, as tests say that are about to be skipped
	reported map[string]bool
	has      []string
	ended    bool // the guest came to its end
}

var (
	testLine = regexp.MustCompile(`--- (PASS|FAIL|SKIP): (Test[^ /]*)[^ ]* \(`)
	// What tests say that are about to be skipped, for want of something in the kernel, or of a program in the guest.
	lackLine = regexp.MustCompile(`: (?:this kernel has no (.*)|needs (\S+): apt-get install )`)
	// What kernels print when something is wrong with them.
	kernelLine = regexp.MustCompile(`^\[ *[0-9.]+\].*(BUG|WARNING:|Oops|Call Trace|general protection|lockdep|stall)`)
)

// read takes the console's lines, copies them to log, and says what fails as it does.
func (r *result) read(console io.Reader, log, screen io.Writer) error {
	r.reported = map[string]bool{}
	lines := bufio.NewScanner(console)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line := strings.TrimRight(lines.Text(), "\r")
		if _, err := fmt.Fprintln(log, line); err != nil {
			return err
		}
		before := len(r.failed)
		r.line(line)
		for _, f := range r.failed[before:] {
			fmt.Fprintf(screen, "  failed: %s\n", f)
		}
	}
	r.finish()
	return lines.Err()
}

func (r *result) line(line string) {
	if at := strings.Index(line, mark); at >= 0 {
		r.word(line[at+len(mark):])
		return
	}
	if kernelLine.MatchString(line) {
		r.notes = append(r.notes, line)
	}
	if at := strings.Index(line, "the kernel did not tell of "); at >= 0 {
		r.missed = line[at:]
	}
	if r.step == "daemon" && strings.HasPrefix(line, "sidestep: ") && r.said == "" {
		r.said = strings.TrimPrefix(line, "sidestep: ")
	}
	if m := lackLine.FindStringSubmatch(line); m != nil {
		r.lacks = append(r.lacks, m[1]+m[2])
	}
	m := testLine.FindStringSubmatch(line)
	if m == nil {
		return
	}
	if strings.HasPrefix(line, " ") { // a part of a test
		if m[1] == "SKIP" && len(r.lacks) > 0 {
			r.lacks = r.lacks[1:]
		}
		return
	}
	name := r.step + " " + m[2]
	r.reported[name] = true
	switch m[1] {
	case "PASS":
		r.passed++
	case "FAIL":
		r.failed = append(r.failed, name)
	case "SKIP":
		r.skip(name)
	}
}

// skip takes a test that says that this kernel has not got what it is about. Whatever else is skipped fails.
func (r *result) skip(name string) {
	if len(r.lacks) == 0 {
		r.failed = append(r.failed, name+" was skipped, and not for want of anything in the kernel")
		return
	}
	r.skipped = append(r.skipped, name+": no "+r.lacks[0])
	r.lacks = r.lacks[1:]
}

// word is a line of the guest's own.
func (r *result) word(line string) {
	verb, rest, _ := strings.Cut(line, " ")
	switch verb {
	case "kernel":
		r.version = rest
	case "has":
		r.has = append(r.has, rest)
	case "step":
		r.step = rest
	case "end":
		r.end(rest)
	case "note", "error":
		r.notes = append(r.notes, rest)
	case "off":
		r.ended = true
	}
}

// end is the end of a step: its name, its seconds, and "ok" or what it ended with. A program without tests is one.
func (r *result) end(rest string) {
	f := strings.SplitN(rest, " ", 3)
	if len(f) < 3 {
		return
	}
	tests := slices.ContainsFunc(r.has, func(n string) bool { return strings.HasPrefix(n, r.step+" ") })
	failed := slices.ContainsFunc(r.failed, func(n string) bool { return strings.HasPrefix(n, r.step+" ") })
	ok := f[2] == "ok" != (r.kernel.Tests == refuse)
	switch {
	case !ok && !failed:
		r.failed = append(r.failed, r.step+": "+f[2])
	case ok && !tests:
		r.passed++
	}
	r.step = ""
}

// finish counts what was not run, and what a guest that died did not come to.
func (r *result) finish() {
	for _, name := range r.has {
		if !r.reported[name] {
			r.left = append(r.left, name)
		}
	}
	switch {
	case r.version == "":
		r.failed = append(r.failed, "the guest did not boot")
	case !r.ended && r.step != "":
		r.failed = append(r.failed, r.step+": the guest died")
	case !r.ended:
		r.failed = append(r.failed, "the guest died")
	}
	slices.Sort(r.left)
}

// good reports whether all that was tried is as it should be.
func (r *result) good() bool { return len(r.failed) == 0 }

// verdict says it in a word or two.
func (r *result) verdict() string {
	switch {
	case !r.good():
		return "fails"
	case r.kernel.Tests == refuse:
		return "refused"
	}
	return "passes"
}
