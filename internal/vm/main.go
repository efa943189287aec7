package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

func main() {
	switch {
	case os.Args[0] == "plan":
		if err := runPlan(); err != nil {
			say("error %v", err)
		}
	case os.Getpid() == 1:
		beFirst()
	default:
		if err := host(); err != nil {
			fmt.Fprintln(os.Stderr, "vm:", err)
			os.Exit(1)
		}
	}
}

var errFailed = errors.New("something failed")

func usage() {
	fmt.Fprintf(os.Stderr, "usage: go run ./internal/vm [flags] KERNEL|SET ...\n\n")
	flag.PrintDefaults()
	fmt.Fprintf(os.Stderr, "\nkernels, and the sets that they are in:\n")
	for _, k := range kernels {
		fmt.Fprintf(os.Stderr, "  %-18s %s\n", k.Name, strings.Join(k.Sets, ", "))
	}
}

// host runs the kernels that are named, one after the other.
func host() error {
	base, err := os.UserCacheDir()
	if err != nil {
		return err
	}
	cache := flag.String("cache", filepath.Join(base, "sidestep-vm"), "where kernels, lists of packages and logs are kept")
	fresh := flag.Bool("fresh", false, "fetch kernels again")
	kvm := flag.Bool("kvm", false, "let the hardware run guests of this machine's architecture, not QEMU's emulation")
	doc := flag.String("write", "", "write the results into the table of this `FILE`")
	run := flag.String("run", "", "only tests that match this pattern")
	only := flag.String("only", "", "only steps that begin with this")
	root := flag.String("root", "", "boot the system in this `DIR`, which says how it goes on its console and powers off")
	limit := flag.Duration("limit", 45*time.Minute, "longest time of a guest")
	flag.Usage = usage
	flag.Parse()
	if *root != "" && *doc != "" {
		return errors.New("-write is for the results of tests, not of -root")
	}
	list := chosen(flag.Args())
	if len(list) == 0 {
		usage()
		return errors.New("no such kernel")
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	b := &bench{cache: *cache, fresh: *fresh, kvm: *kvm, limit: *limit, run: *run, only: *only, root: *root, builds: map[string]*build{}}
	results, err := b.all(ctx, list)
	if err != nil {
		return err
	}
	printTable(results)
	if *doc != "" {
		err = writeTable(*doc, results, time.Now())
	}
	return errors.Join(err, failed(results))
}

// failed names the kernels on which something failed.
func failed(results []*result) (err error) {
	for _, r := range results {
		if !r.good() {
			err = errors.Join(err, fmt.Errorf("%s: %w", r.kernel.Name, errFailed))
		}
	}
	return err
}
