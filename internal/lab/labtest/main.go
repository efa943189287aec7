package labtest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

const insideEnv = "SIDESTEP_TEST_INSIDE"

// Main runs a package's tests [Inside]. It returns what the caller exits with.
func Main(m *testing.M) int { return Inside(m.Run) }

// Inside calls run with mounts of its own, so that pins and mounts made there are nobody else's, and end with it: it runs
// this program again in a new mount namespace, with an empty BPF file system at /sys/fs/bpf. Without root it just calls
// run. It returns what the caller exits with.
func Inside(run func() int) int {
	if os.Geteuid() != 0 {
		return run()
	}
	if os.Getenv(insideEnv) != "" {
		if err := privateBPF(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return run()
	}
	code, err := again()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}

func again() (int, error) {
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(os.Environ(), insideEnv+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS}
	if err := cmd.Start(); err != nil {
		return 0, fmt.Errorf("run with mounts of its own: %w", err)
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, unix.SIGINT, unix.SIGTERM, unix.SIGQUIT) // ^C comes twice then, to the whole process group and from here
	go func() {
		for s := range signals {
			cmd.Process.Signal(s)
		}
	}()
	err := cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return 0, fmt.Errorf("run with mounts of its own: %w", err)
	}
	return cmd.ProcessState.ExitCode(), nil
}

func privateBPF() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := unix.Mount("bpf", "/sys/fs/bpf", "bpf", 0, "mode=0700"); err != nil {
		return fmt.Errorf("mount a BPF file system: %w", err)
	}
	return nil
}
