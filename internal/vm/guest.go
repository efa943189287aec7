package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// mark begins the lines that are the guest's and not its programs'.
const mark = "@@ "

// beFirst is what the first process of a guest does.
func beFirst() {
	p, err := readPlan()
	switch {
	case err != nil:
	case p.Init != "":
		p.prepare()
		err = unix.Exec(p.Init, []string{p.Init}, []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"})
	default:
		mountAll()
		err = runChild()
	}
	if err != nil {
		say("error %v", err)
	}
	say("off")
	unix.Sync()
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}

// runChild runs the plan in a child and reaps orphans meanwhile, as the first process has to.
func runChild() error {
	child, err := os.StartProcess("/proc/self/exe", []string{"plan"}, &os.ProcAttr{Files: []*os.File{nil, os.Stdout, os.Stderr}})
	if err != nil {
		return err
	}
	for pid := 0; pid != child.Pid; {
		if pid, err = unix.Wait4(-1, nil, 0, nil); err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
	}
	return nil
}

func say(format string, args ...any) { fmt.Printf(mark+format+"\n", args...) }

// mounts are a usual machine's, with a pure cgroup v2.
var mounts = []struct{ source, target, kind, data string }{
	{"proc", "/proc", "proc", ""},
	{"sysfs", "/sys", "sysfs", ""},
	{"devtmpfs", "/dev", "devtmpfs", ""},
	{"devpts", "/dev/pts", "devpts", ""},
	{"tmpfs", "/dev/shm", "tmpfs", ""},
	{"tmpfs", "/tmp", "tmpfs", "mode=1777"},
	{"tmpfs", "/run", "tmpfs", "mode=755"},
	{"tmpfs", "/var", "tmpfs", "mode=755"},
	{"cgroup2", "/sys/fs/cgroup", "cgroup2", ""},
	{"bpf", "/sys/fs/bpf", "bpf", "mode=700"},
	{"securityfs", "/sys/kernel/security", "securityfs", ""},
	{"tracefs", "/sys/kernel/tracing", "tracefs", ""},
}

// mountAll is before all else: the first process finds itself in /proc.
func mountAll() {
	for _, m := range mounts {
		err := os.MkdirAll(m.target, 0o755)
		if err == nil {
			err = unix.Mount(m.source, m.target, m.kind, 0, m.data)
		}
		if err != nil {
			say("note mount %s: %v", m.target, err)
		}
	}
	if err := os.WriteFile("/sys/fs/cgroup/cgroup.subtree_control", []byte("+memory"), 0); err != nil { // as systemd does
		say("note limit memory: %v", err)
	}
}

func readPlan() (p plan, err error) {
	b, err := os.ReadFile(guestPlan)
	if err != nil {
		return p, err
	}
	return p, json.Unmarshal(b, &p)
}

// prepare completes the kernel, and says which it is.
func (p plan) prepare() {
	for _, m := range p.Modules {
		if err := insert(m); err != nil {
			say("note insert %s: %v", filepath.Base(m), err)
		}
	}
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		say("note uname: %v", err)
	}
	say("kernel %s", unix.ByteSliceToString(u.Release[:]))
}

// runPlan prepares the guest and goes through the plan.
func runPlan() error {
	p, err := readPlan()
	if err != nil {
		return err
	}
	p.prepare()
	for _, v := range p.Env {
		name, value, _ := strings.Cut(v, "=")
		if err := os.Setenv(name, value); err != nil {
			return err
		}
	}
	if out, err := exec.Command("ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
		say("note lo: %v: %s", err, out)
	}
	for _, s := range p.Steps {
		s.run()
	}
	return nil
}

func insert(file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.FinitModule(int(f.Fd()), "", 0)
}

// run runs the program, and says what there is to run, when it begins, and how it ends.
func (s step) run() {
	if s.Tests {
		list := exec.Command(s.Args[0], "-test.list=^Test")
		list.Dir = s.Dir
		out, err := list.Output()
		if err != nil {
			say("note list %s: %v", s.Name, err)
		}
		lines := bufio.NewScanner(strings.NewReader(string(out)))
		for lines.Scan() {
			say("has %s %s", s.Name, lines.Text())
		}
	}
	say("step %s", s.Name)
	start := time.Now()
	ctx, cancel := context.WithTimeout(context.Background(), s.Limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, s.Args[0], s.Args[1:]...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = s.Dir, os.Stdout, os.Stdout
	cmd.WaitDelay = 5 * time.Second
	result := "ok"
	if err := cmd.Run(); err != nil {
		result = err.Error()
	}
	say("end %s %.1f %s", s.Name, time.Since(start).Seconds(), result)
}
