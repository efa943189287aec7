package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// outsideEnv tells the inside which mount namespace it must not be in.
	outsideEnv = "SIDESTEP_DEMO_OUTSIDE"
	// reportFD is where the inside leaves its error. It says nothing if all went well.
	reportFD = 3
	// endLimit is how long the inside may take to end when it is told to. It is killed then, which leaves no more behind.
	endLimit = 15 * time.Second
)

// isInside reports whether this is the second process. A variable that somebody passed on does not make it that.
func isInside() (bool, error) {
	outside := os.Getenv(outsideEnv)
	if outside == "" {
		return false, nil
	}
	own, err := mountNamespace()
	return err == nil && own != outside, err
}

func mountNamespace() (string, error) {
	ns, err := os.Readlink("/proc/self/ns/mnt")
	if err != nil {
		return "", fmt.Errorf("find the mount namespace: %w", err)
	}
	return ns, nil
}

// runInside starts the inside, and returns when it has ended, with its error.
func runInside(ctx context.Context, out io.Writer) error {
	report, theirs, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("start the demo: %w", err)
	}
	defer report.Close()
	// The inside never writes to the terminal itself, for it is not in the terminal's foreground. What it says on
	// stderr is of interest when it crashes only.
	story, crash := &sink{w: out}, &strings.Builder{}
	cmd, err := insideCommand(ctx)
	if err != nil {
		return err
	}
	cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = story, crash, []*os.File{theirs}
	runtime.LockOSThread() // the kernel takes the end of the thread for our death
	defer runtime.UnlockOSThread()
	if err := errors.Join(cmd.Start(), theirs.Close()); err != nil {
		return fmt.Errorf("start the demo in a mount namespace of its own: %w", err)
	}
	said, readErr := io.ReadAll(report)
	err = errors.Join(cmd.Wait(), readErr)
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case story.err != nil:
		return fmt.Errorf("tell the story: %w", story.err)
	case len(said) > 0:
		return errors.New(string(said))
	case err != nil:
		return fmt.Errorf("the demo did not come to its end: %w%s", err, firstLine("; it said: ", crash.String()))
	}
	return nil
}

// insideCommand is this command once more, with mounts of its own. It ends when ctx does, and dies when we die.
func insideCommand(ctx context.Context) (*exec.Cmd, error) {
	outside, err := mountNamespace()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, self, os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(os.Environ(), outsideEnv+"="+outside)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Unshareflags: unix.CLONE_NEWNS, // and all mounts private: what happens there stays there
		Pdeathsig:    unix.SIGKILL,     // when we die, in whatever way
		Setpgid:      true,             // ^C is for us; we pass it on in an orderly way
	}
	cmd.Cancel = func() error { return cmd.Process.Signal(unix.SIGTERM) }
	cmd.WaitDelay = endLimit
	return cmd, nil
}

// A sink remembers why it could not be written to.
type sink struct {
	w   io.Writer
	err error
}

func (s *sink) Write(b []byte) (int, error) {
	n, err := s.w.Write(b)
	s.err = errors.Join(s.err, err)
	return n, err
}

func firstLine(prefix, text string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(text), "\n")
	if line == "" {
		return ""
	}
	return prefix + line
}

// reportOutside hands the inside's error to the outside, which is the one that talks to the user.
func reportOutside(err error) error {
	f := os.NewFile(reportFD, "report")
	if err == nil {
		return f.Close()
	}
	_, werr := f.WriteString(err.Error())
	return errors.Join(werr, f.Close())
}
