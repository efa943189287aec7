package demo_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"sidestep/internal/lab/labtest"
)

const (
	patience  = 60 * time.Second
	lastWords = "\n  packets on the wrong side: 0\n"
)

// A run is one `sidestep demo`.
type run struct {
	t      *testing.T
	cmd    *exec.Cmd
	out    *bufio.Reader
	stderr bytes.Buffer
	seen   strings.Builder // what has been read of out
	trail  string
	before []string // what the test sees of mounts and files
}

// start starts the demo, spoiled in the way that is named, if any.
func start(t *testing.T, spoiled string) *run {
	t.Helper()
	labtest.NeedRoot(t)
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	r := &run{t: t, trail: filepath.Join(t.TempDir(), "trail")}
	r.ok(os.WriteFile(r.trail, nil, 0o644))
	r.before = r.surroundings()
	r.cmd = exec.CommandContext(t.Context(), "/proc/self/exe", "demo")
	r.cmd.Env = append(os.Environ(), sidestepEnv+"="+r.trail, spoilEnv+"="+spoiled)
	r.cmd.Stderr = &r.stderr
	out, err := r.cmd.StdoutPipe()
	r.ok(err)
	r.out = bufio.NewReader(out)
	r.ok(r.cmd.Start())
	return r
}

func (r *run) ok(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

// until reads up to the first line that contains text.
func (r *run) until(text string) {
	r.t.Helper()
	for {
		line, err := r.out.ReadString('\n')
		r.seen.WriteString(line)
		if err != nil {
			r.t.Fatalf("no line has %q in\n%s%s", text, r.seen.String(), r.stderr.String())
		}
		if strings.Contains(line, text) {
			return
		}
	}
}

// end reads the rest, and returns everything and the exit status: -1 for a signal.
func (r *run) end() (string, int) {
	r.t.Helper()
	rest, err := io.ReadAll(r.out)
	r.ok(err)
	r.seen.Write(rest)
	_ = r.cmd.Wait() // the status tells
	return r.seen.String(), r.cmd.ProcessState.ExitCode()
}

// wantNothingLeft fails the test if a process, a BPF link, a mount or a file outlives the demo. The kernel may take a
// moment to let go of what nobody holds.
func (r *run) wantNothingLeft() {
	r.t.Helper()
	words, err := os.ReadFile(r.trail)
	r.ok(err)
	r.wait("a process", isChildless)
	for _, word := range strings.Fields(string(words)) {
		id, err := strconv.ParseUint(word, 10, 32)
		r.ok(err)
		r.wait("BPF link "+word, func() bool { return !linkExists(link.ID(id)) })
	}
	if after := r.surroundings(); !slices.Equal(after, r.before) {
		r.t.Errorf("mounts and files were\n%q\nand are\n%q", r.before, after)
	}
}

// surroundings returns the mounts, and what of the demo's is in the directories that it may choose to cover.
func (r *run) surroundings() []string {
	r.t.Helper()
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	r.ok(err)
	files, err := filepath.Glob("/[rtm][unm][npt]/sidestep-demo*")
	r.ok(err)
	return append(strings.Split(string(mounts), "\n"), files...)
}

func (r *run) wait(what string, gone func() bool) {
	r.t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	late := time.After(patience)
	for !gone() {
		select {
		case <-tick.C:
		case <-late:
			r.t.Fatalf("left behind: %s", what)
		}
	}
}

// isChildless reports whether nothing is alive that a demo started: this process inherits its orphans, and here they end.
func isChildless() bool {
	for {
		switch pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil); {
		case errors.Is(err, unix.ECHILD):
			return true
		case pid == 0:
			return false
		}
	}
}

func linkExists(id link.ID) bool {
	l, err := link.NewFromID(id)
	if err == nil {
		l.Close()
	}
	return err == nil
}

func TestDemoProvesThatNoPacketIsOnTheWrongSide(t *testing.T) {
	r := start(t, "")
	begin := time.Now()
	out, code := r.end()
	t.Logf("took %v", time.Since(begin).Round(time.Millisecond))
	if code != 0 || r.stderr.Len() > 0 || !strings.HasSuffix(out, lastWords) {
		t.Fatalf("exit status %d, stderr %q, output\n%s", code, r.stderr.String(), out)
	}
	for _, line := range strings.Split(out, "\n") {
		if len(line) > 100 || strings.Trim(line, " ") != strings.TrimLeft(line, " ") || strings.IndexFunc(line, notPlain) >= 0 {
			t.Errorf("not a plain line of at most 100 columns: %q", line)
		}
	}
	words, err := os.ReadFile(r.trail)
	r.ok(err)
	if n := len(strings.Fields(string(words))); n < 10 { // two daemons
		t.Errorf("%d BPF links have been looked for, want 10 at least", n)
	}
	r.wantNothingLeft()
}

func notPlain(r rune) bool { return r < ' ' || r > '~' }

func TestDemoFailsWhenEnforcementIsSpoiled(t *testing.T) {
	for spoiled, at := range map[string]string{
		"hook":  "bank, running all the while: its new sockets",
		"rules": "bank, with no daemon there",
	} {
		t.Run(spoiled, func(t *testing.T) {
			r := start(t, spoiled)
			out, code := r.end()
			said := r.stderr.String()
			if code != 1 || !strings.Contains(said, at+": in the tunnel") || !strings.Contains(said, "203.0.113.10") {
				t.Errorf("exit status %d, stderr %q", code, said)
			}
			wrong := regexp.MustCompile(`(?m)^ +\d+  ` + at + ` +\d+ +\d+  WRONG$`)
			count := regexp.MustCompile(`\n  packets on the wrong side: [1-9]\d*\n$`)
			if !wrong.MatchString(out) || !count.MatchString(out) {
				t.Errorf("the output does not name it:\n%s", out)
			}
			r.wantNothingLeft()
		})
	}
}

func TestInterruptedDemoLeavesNothing(t *testing.T) {
	lines := []string{"sidestep demo", "The world", "sidestep daemon", "exclude", "kill -9", "taken over", "TERM"}
	for _, line := range lines {
		for _, sig := range []unix.Signal{unix.SIGINT, unix.SIGTERM, unix.SIGKILL} {
			t.Run(line+"/"+unix.SignalName(sig), func(t *testing.T) {
				r := start(t, "")
				r.until(line)
				r.ok(r.cmd.Process.Signal(sig))
				out, code := r.end()
				r.wantInterrupted(sig, out, code)
			})
		}
	}
}

func TestDemoInterruptedAtAnyMomentLeavesNothing(t *testing.T) {
	for range 8 {
		sig := []unix.Signal{unix.SIGINT, unix.SIGTERM, unix.SIGKILL}[rand.IntN(3)]
		after := time.Duration(rand.Int64N(int64(1500 * time.Millisecond)))
		t.Run(unix.SignalName(sig)+" "+after.String(), func(t *testing.T) {
			r := start(t, "")
			timer := time.AfterFunc(after, func() { _ = r.cmd.Process.Signal(sig) })
			defer timer.Stop()
			out, code := r.end()
			r.wantInterrupted(sig, out, code)
		})
	}
}

func TestImpatientInterruptLeavesNothing(t *testing.T) {
	r := start(t, "")
	r.until("upgraded")
	for range 2 { // the second one kills
		_ = r.cmd.Process.Signal(unix.SIGINT)
	}
	if out, _ := r.end(); strings.HasSuffix(out, lastWords) {
		t.Error("it went on to the end")
	}
	r.wantNothingLeft()
}

// wantInterrupted judges the end of a demo that was sent a signal at some moment. It may have been too late, or so early
// that nothing had begun.
func (r *run) wantInterrupted(sig unix.Signal, out string, code int) {
	r.t.Helper()
	switch {
	case strings.HasSuffix(out, lastWords): // too late, or nearly so
	case code == -1 && (sig == unix.SIGKILL || out == ""):
	case code == 1 && r.stderr.String() == "sidestep: interrupted\n":
	default:
		r.t.Errorf("exit status %d, stderr %q, output\n%s", code, r.stderr.String(), out)
	}
	r.wantNothingLeft()
}

func TestDeathOfTheInsideIsReported(t *testing.T) {
	r := start(t, "")
	r.until("engaged")
	r.ok(unix.Kill(r.inside(), unix.SIGKILL))
	out, code := r.end()
	if code != 1 || !strings.Contains(r.stderr.String(), "did not come to its end: signal: killed") {
		t.Errorf("exit status %d, stderr %q, output\n%s", code, r.stderr.String(), out)
	}
	r.wantNothingLeft()
}

// inside finds the second process: any thread may have started it.
func (r *run) inside() int {
	r.t.Helper()
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", r.cmd.Process.Pid))
	r.ok(err)
	var children []byte
	for _, f := range files {
		b, err := os.ReadFile(f)
		r.ok(err)
		children = append(children, b...)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(children)))
	r.ok(err)
	return pid
}

func TestDemoWithoutRootSaysSoInOneLine(t *testing.T) {
	labtest.NeedRoot(t) // to become somebody else
	cmd := exec.Command("/proc/self/exe", "demo")
	cmd.Env = append(os.Environ(), sidestepEnv+"=unused")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, _ := cmd.CombinedOutput()
	code, lines := cmd.ProcessState.ExitCode(), strings.Count(string(out), "\n")
	if code != 77 || lines != 1 || !strings.Contains(string(out), "needs root") {
		t.Errorf("exit status %d, output %q", code, out)
	}
}
