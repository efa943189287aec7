package main

import (
	"context"
	"encoding/json"
	"path"
	"path/filepath"
	"strings"
)

// A build is what was compiled for the guests of one architecture.
type build struct {
	root  string // of this repository
	dir   string
	files []string // of the repository
}

// compile builds everything that guests run. They have no compiler. Those with a system of their own need the first
// process alone.
func compile(ctx context.Context, root, dir, arch string, own bool) (*build, error) {
	env := []string{"CGO_ENABLED=0", "GOOS=linux", "GOARCH=" + arch}
	run := func(args ...string) error {
		_, err := output(ctx, root, env, "go", args...)
		return err
	}
	at := func(name string) string { return filepath.Join(dir, name) }
	err := run("build", "-trimpath", "-o", at("init"), "./internal/vm")
	if own {
		return &build{root: root, dir: dir}, err
	}
	if err == nil {
		err = run("build", "-trimpath", "-o", at(path.Base(guestEngine)), "./cmd/sidestep")
	}
	if err == nil {
		err = run("build", "-trimpath", "-tags", "elder", "-o", at(path.Base(guestElder)), "./cmd/sidestep")
	}
	if err == nil {
		err = run("test", "-c", "-ldflags=-s -w", "-tags", "deaf", "-o", at(path.Base(guestDeaf)), "./internal/datapath")
	}
	for _, s := range suites {
		if err == nil {
			err = run("test", "-c", "-ldflags=-s -w", "-o", at(s.binary()), "./"+s.pkg)
		}
	}
	if err != nil {
		return nil, err
	}
	names, err := output(ctx, root, nil, "git", "ls-files", "--cached", "--others", "--exclude-standard")
	return &build{root, dir, strings.Fields(names)}, err
}

// initramfs makes the guest's root directory for a kernel.
func (b *build) initramfs(name string, t tree, k kernel, steps []step) error {
	busybox, err := t.busybox()
	if err != nil {
		return err
	}
	p := plan{
		Steps: steps,
		Env: []string{
			"PATH=/bin", "HOME=/tmp", "TMPDIR=/tmp",
			"SIDESTEP_TEST_BINARY=" + guestEngine, "SIDESTEP_TEST_ELDER=" + guestElder, "SIDESTEP_TEST_DEAF=" + guestDeaf,
		},
	}
	return b.write(name, t, p, func(fs *initramfs) error {
		if err := userland(fs, busybox); err != nil {
			return err
		}
		if err := b.programs(fs, k.Tests); err != nil {
			return err
		}
		return fs.sources(guestSource, b.root, b.files)
	})
}

// system makes the root directory of a guest that runs the system in dir.
func (b *build) system(name string, t tree, dir string) error {
	return b.write(name, t, plan{Init: "/sbin/init"}, func(fs *initramfs) error { return fs.tree(dir) })
}

// write makes a root directory of what fill puts in, the plan, and what it takes to get there.
func (b *build) write(name string, t tree, p plan, fill func(*initramfs) error) error {
	mods, err := t.load(modules)
	if err != nil {
		return err
	}
	for _, m := range mods {
		p.Modules = append(p.Modules, path.Join(guestModules, m.name+".ko"))
	}
	text, err := json.Marshal(p)
	if err != nil {
		return err
	}
	return writeInitramfs(name, func(fs *initramfs) error {
		fs.text(guestPlan, string(text))
		for _, m := range mods {
			fs.text(path.Join(guestModules, m.name+".ko"), string(m.elf))
		}
		if err := fs.file("/init", filepath.Join(b.dir, "init")); err != nil {
			return err
		}
		return fill(fs)
	})
}

// userland is a small Debian: its commands, and its directories where tests look for them.
func userland(fs *initramfs, busybox string) error {
	for _, dir := range []string{"bin", "sbin", "lib"} {
		fs.dir("/usr/" + dir)
		fs.link("/"+dir, "usr/"+dir)
	}
	fs.dir("/usr/lib/tmpfiles.d")
	for _, name := range strings.Fields(commands) {
		fs.link("/usr/bin/"+name, "busybox")
	}
	fs.text("/etc/passwd", "root:x:0:0::/tmp:/bin/sh\n")
	fs.text("/etc/group", "root:x:0:\n")
	fs.text("/etc/resolv.conf", "")
	return fs.file("/usr/bin/busybox", busybox)
}

// commands are what tests call beside their own programs.
const commands = "sh cat env sleep readlink ip true false echo ls mount umount unshare ps grep kill"

// programs puts in what the kernel's steps need: an emulated kernel unpacks slowly.
func (b *build) programs(fs *initramfs, t tests) error {
	names := []string{path.Base(guestEngine)}
	if t != refuse {
		names = append(names, path.Base(guestElder), path.Base(guestDeaf))
	}
	for _, s := range suites {
		if t == all || t == core && s.core != "" {
			names = append(names, s.binary())
		}
	}
	for _, name := range names {
		if err := fs.file(path.Join(guestBin, name), filepath.Join(b.dir, name)); err != nil {
			return err
		}
	}
	return nil
}
