package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// A tree is an unpacked kernel: the files of its packages, and busybox.
type tree struct {
	dir     string
	image   string // the kernel itself
	modules string // the directory of its modules
}

// Version is the kernel's own name for its version.
func (t tree) Version() string { return filepath.Base(t.modules) }

// fetch returns the kernel from the cache, and fills the cache first if it is not there or fresh is asked for.
func fetch(ctx context.Context, cache string, k kernel, fresh bool) (tree, error) {
	dir := filepath.Join(cache, "kernels", k.Name)
	if fresh {
		if err := os.RemoveAll(dir); err != nil {
			return tree{}, err
		}
	}
	if t, err := open(dir); err == nil {
		return t, nil
	}
	a, err := newArchive(ctx, filepath.Join(cache, "apt", k.Suite+"-"+k.Arch), k)
	if err != nil {
		return tree{}, err
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return tree{}, err
	}
	part, err := os.MkdirTemp(filepath.Dir(dir), ".part-")
	if err != nil {
		return tree{}, err
	}
	defer os.RemoveAll(part)
	if err := a.unpackKernel(ctx, part, k); err != nil {
		return tree{}, err
	}
	// Whole or not at all: a run that is interrupted leaves no half a kernel in the cache.
	if err := os.Rename(part, dir); err != nil {
		return tree{}, err
	}
	return open(dir)
}

// unpackKernel lays out the newest packages of the kernel, and busybox, in dir.
func (a *archive) unpackKernel(ctx context.Context, dir string, k kernel) error {
	packages := []string{"busybox-static"}
	for _, pattern := range []string{k.Image, k.Modules} {
		name, err := a.newest(ctx, pattern)
		if err != nil {
			return err
		}
		if name != "" {
			packages = append(packages, name)
		}
	}
	if len(packages) == 1 {
		return fmt.Errorf("%s: %w", k.Image, errNoKernel)
	}
	err := a.unpack(ctx, dir, packages...)
	if err == nil {
		_, err = open(dir)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", strings.Join(packages, ", "), err)
	}
	return nil
}

// open finds the parts of an unpacked kernel. Distributions do not agree where they are.
func open(dir string) (tree, error) {
	t := tree{dir: dir}
	var err error
	if t.modules, err = one(dir, "lib/modules/*", "usr/lib/modules/*"); err != nil {
		return t, err
	}
	t.image, err = one(dir, "boot/vmlinuz-*", "usr/lib/modules/*/vmlinuz")
	return t, err
}

// busybox returns the path of the guest's commands.
func (t tree) busybox() (string, error) { return one(t.dir, "bin/busybox", "usr/bin/busybox") }

// one returns the file below dir that fits the first of the patterns that any file fits.
func one(dir string, patterns ...string) (string, error) {
	for _, p := range patterns {
		found, err := filepath.Glob(filepath.Join(dir, p))
		if err != nil {
			return "", err
		}
		if len(found) > 0 {
			return found[0], nil
		}
	}
	return "", fmt.Errorf("no %s in %s", strings.Join(patterns, " or "), dir)
}
