package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
)

// A machine is how an architecture is emulated.
type machine struct {
	qemu, console string
	args          []string
}

var machines = map[string]machine{
	"amd64": {"qemu-system-x86_64", "ttyS0", []string{"-cpu", "max,la57=off"}}, // four levels of page tables are faster
	"arm64": {"qemu-system-aarch64", "ttyAMA0", []string{"-M", "virt", "-cpu", "max,pauth-impdef=on"}},
}

// boot runs a kernel until it powers off, and gives fn all that it prints. The guest has no network device.
func boot(ctx context.Context, k kernel, t tree, initrd string, kvm bool, fn func(io.Reader) error) error {
	m := machines[k.Arch]
	accel := "tcg,thread=multi"
	if kvm {
		accel = "kvm"
	}
	words := strings.Join([]string{"console=" + m.console, "panic=-1 loglevel=5 net.ifnames=0 mitigations=off", k.Append}, " ")
	args := append([]string{
		"-accel", accel, "-m", "4096", "-smp", "2", "-nographic", "-no-reboot", "-nodefaults", "-serial", "stdio",
		"-kernel", t.image, "-initrd", initrd, "-append", words,
	}, m.args...)
	cmd := exec.CommandContext(ctx, m.qemu, args...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start QEMU: %w", err)
	}
	err = fn(out)
	return errors.Join(err, cmd.Wait())
}
