package identity

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"testing"
)

func TestExecutable(t *testing.T) {
	want, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := Executable(os.Getpid()); err != nil || got != want {
		t.Errorf("executable %q, %v, want %q", got, err, want)
	}
	if _, err := Executable(-1); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error %v, want %v", err, fs.ErrNotExist)
	}
}

func TestExecutableThatWasDeleted(t *testing.T) {
	for _, name := range []string{"cat", "cat (deleted)"} {
		exe := path.Join(tree(t), name)
		pid := startCopy(t, exe)
		if got, err := Executable(pid); err != nil || got != exe {
			t.Errorf("before: %q, %v, want %q", got, err, exe)
		}
		if err := os.Remove(exe); err != nil {
			t.Fatal(err)
		}
		if got, err := Executable(pid); err != nil || got != exe {
			t.Errorf("after: %q, %v, want %q", got, err, exe)
		}
	}
}

// startCopy runs a copy of cat under another name until the test ends.
func startCopy(t *testing.T, exe string) int {
	t.Helper()
	cat, err := exec.LookPath("cat")
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(cat)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(exe, b, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Args[0] = "cat" // a multi-call binary looks at its name
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		_ = cmd.Wait()
	})
	return cmd.Process.Pid
}
