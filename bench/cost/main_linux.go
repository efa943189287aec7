// Command cost measures what sidestep costs a machine: each thing that programs do, with the engine off and on, in one run.
//
//	go run ./bench/cost            # as root; a quarter of an hour on two cores
//	go run ./bench/cost -short     # the same, coarser, in a minute and a half
//
// It runs the real daemon in a world of its own (package lab), so nothing outside is touched but for the time. Every
// number is taken in rounds, and before and after each time that the engine is on it is off: a ratio compares neighbours,
// so a machine that gets slower or faster meanwhile does not matter. What is printed is the median over the rounds, and
// the range of the middle half.
//
// The load generator is a C program without a C library (src/). It keeps the time itself.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"sidestep/internal/lab/labtest"
)

//go:generate sh src/build.sh

// settings are what the command line says.
type settings struct {
	short  bool
	rounds int
	only   string
	ops    *regexp.Regexp
	out    string
}

func main() {
	var s settings
	flag.BoolVar(&s.short, "short", false, "coarse, in less than 90 seconds")
	flag.IntVar(&s.rounds, "rounds", 0, "how many `rounds` (default 12, with -short 2)")
	flag.StringVar(&s.only, "only", "", "only these `parts`: ratios, programs, growth, daemon, flip, with commas between them")
	flag.Func("ops", "only what programs do that matches the `regexp`", func(text string) (err error) {
		s.ops, err = regexp.Compile(text)
		return err
	})
	flag.StringVar(&s.out, "out", "", "keep results.json and growth.svg in `DIR`")
	flag.Parse()
	if s.rounds == 0 {
		s.rounds = 12
		if s.short {
			s.rounds = 2
		}
	}
	os.Exit(labtest.Inside(func() int {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
		defer stop()
		if err := run(ctx, s, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, "cost:", err)
			return 1
		}
		return 0
	}))
}

// run measures everything and reports as it goes. It fails if something cannot be measured, and never for being slow.
func run(ctx context.Context, s settings, out io.Writer) (err error) {
	if os.Geteuid() != 0 {
		return errors.New("needs root")
	}
	b, err := newBench(ctx, s, out)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	b.title()
	parts := []struct {
		name string
		run  func(context.Context) error
	}{
		{"ratios", b.ratios}, {"programs", b.programs}, {"growth", b.growth}, {"daemon", b.daemonCosts}, {"flip", b.flips},
	}
	for _, p := range parts {
		if s.only != "" && !slices.Contains(strings.Split(s.only, ","), p.name) {
			continue
		}
		if err := p.run(ctx); err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
	}
	if s.out != "" {
		return b.report.keep(s.out)
	}
	return nil
}
