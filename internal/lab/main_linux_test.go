package lab

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

// roleEnv makes the test binary play a part instead of running tests. The parts are the keys of TestMain's table.
const roleEnv = "SIDESTEP_LAB_TEST_ROLE"

func TestMain(m *testing.M) {
	roles := map[string]func() error{
		"sleeper": sleeper,
		"parent":  parent,
		"builder": builder,
	}
	if play, ok := roles[os.Getenv(roleEnv)]; ok {
		if err := play(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

// role returns a command that plays a part in a process of its own, and what it prints.
func role(name string) (*exec.Cmd, io.Reader, error) {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), roleEnv+"="+name)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	return cmd, out, err
}

// sleeper prints its process id and does nothing until it is killed.
func sleeper() error {
	fmt.Println(os.Getpid())
	for {
		_ = unix.Pause() // until a signal, which may be one of the runtime's own
	}
}

// parent starts a sleeper, passes on its process id, and waits for it.
func parent() error {
	cmd, out, err := role("sleeper")
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	if _, err := io.Copy(os.Stdout, out); err != nil {
		return err
	}
	return cmd.Wait()
}

// builder builds a world, starts a family of processes in it, and prints the descriptors of the namespaces. Then it
// waits to be killed.
func builder() error {
	w, err := New(context.Background(), Options{})
	if err != nil {
		return err
	}
	cmd, out, err := role("parent")
	if err != nil {
		return err
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID}
	if err := w.Machine.Start(cmd); err != nil {
		return err
	}
	var pid int
	if _, err := fmt.Fscan(out, &pid); err != nil { // the family is complete
		return err
	}
	fmt.Println(w.Machine.fd(), w.Router.fd(), w.VPN.fd(), w.Internet.fd())
	return cmd.Wait()
}
