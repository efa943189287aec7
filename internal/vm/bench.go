package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// A bench is where kernels are tried.
type bench struct {
	cache     string
	fresh     bool
	kvm       bool
	limit     time.Duration
	run, only string
	root      string // of the guests, if they run a system of their own
	builds    map[string]*build
}

// all tries the kernels. One that cannot be had is left out, and that is said.
func (b *bench) all(ctx context.Context, list []kernel) ([]*result, error) {
	work, err := os.MkdirTemp("", "sidestep-vm-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(work)
	var results []*result
	for _, k := range list {
		r, err := b.try(ctx, work, k)
		if errors.Is(err, errNoArchive) || errors.Is(err, errNoKernel) {
			fmt.Fprintf(os.Stderr, "%s: not run: %v\n", k.Name, err)
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", k.Name, err)
		}
		results = append(results, r)
	}
	return results, nil
}

// try boots one kernel and returns what came of it.
func (b *bench) try(ctx context.Context, work string, k kernel) (*result, error) {
	if b.root != "" {
		k.Tests = service
	}
	t, err := fetch(ctx, b.cache, k, b.fresh)
	if err != nil {
		return nil, err
	}
	if b.builds[k.Arch] == nil {
		root, err := output(ctx, "", nil, "git", "rev-parse", "--show-toplevel")
		if err != nil {
			return nil, err
		}
		dir := filepath.Join(work, k.Arch)
		if err := os.Mkdir(dir, 0o755); err != nil {
			return nil, err
		}
		if b.builds[k.Arch], err = compile(ctx, strings.TrimSpace(root), dir, k.Arch, b.root != ""); err != nil {
			return nil, err
		}
	}
	initrd := filepath.Join(work, k.Name+".cpio")
	if err := b.fill(initrd, t, k); err != nil {
		return nil, err
	}
	defer os.Remove(initrd)
	return b.boot(ctx, k, t, initrd)
}

// fill makes the guest's root directory.
func (b *bench) fill(initrd string, t tree, k kernel) error {
	if k.Tests == service {
		return b.builds[k.Arch].system(initrd, t, b.root)
	}
	return b.builds[k.Arch].initramfs(initrd, t, k, b.steps(k))
}

// steps is the kernel's part, or what the command line leaves of it.
func (b *bench) steps(k kernel) []step {
	steps := planFor(k.Tests)
	if b.only != "" {
		steps = slices.DeleteFunc(steps, func(s step) bool { return !strings.HasPrefix(s.Name, b.only) })
	}
	if b.run != "" {
		for i := range steps {
			if steps[i].Tests {
				steps[i].Args = append(steps[i].Args, "-test.run="+b.run)
			}
		}
	}
	return steps
}

func (b *bench) boot(ctx context.Context, k kernel, t tree, initrd string) (*result, error) {
	dir := filepath.Join(b.cache, "logs")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	log, err := os.Create(filepath.Join(dir, k.Name+".log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	fmt.Fprintf(os.Stderr, "%s: Linux %s, %s, log in %s\n", k.Name, t.Version(), k.Tests, log.Name())
	ctx, cancel := context.WithTimeout(ctx, b.limit)
	defer cancel()
	r := &result{kernel: k, part: strings.ReplaceAll(strings.TrimSpace(b.only+" "+b.run), "|", ", ")}
	start := time.Now()
	err = boot(ctx, k, t, initrd, b.kvm, func(console io.Reader) error { return r.read(console, log, os.Stderr) })
	r.took = time.Since(start)
	if ctx.Err() == nil && err != nil {
		return nil, err
	}
	if !r.good() {
		err = showEnd(log.Name())
	}
	return r, err
}

// showEnd shows the end of a guest's log: whoever reads what failed may have nothing else of the machine.
func showEnd(log string) error {
	const enough = 120 // lines
	b, err := os.ReadFile(log)
	if err != nil {
		return err
	}
	lines := strings.SplitAfter(string(b), "\n")
	_, err = io.WriteString(os.Stderr, strings.Join(lines[max(0, len(lines)-enough):], ""))
	return err
}
