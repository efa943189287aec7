package leak_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"sidestep/api"
)

// builtDir is where this run of the test binary keeps the daemon that it builds. TestMain removes it.
func builtDir() string {
	return filepath.Join(os.TempDir(), fmt.Sprintf("sidestep-leak-%d", os.Getpid()))
}

// build returns the daemon, and buildElder one that passes for the version before; each is built once. Machines without a
// compiler have them from elsewhere.
var (
	build      = sync.OnceValues(func() (string, error) { return buildAs("sidestep", "", "SIDESTEP_TEST_BINARY") })
	buildElder = sync.OnceValues(func() (string, error) { return buildAs("elder", "elder", "SIDESTEP_TEST_ELDER") })
)

func buildAs(name, tags, given string) (string, error) {
	if path := os.Getenv(given); path != "" {
		return path, os.MkdirAll(builtDir(), 0o755)
	}
	path := filepath.Join(builtDir(), name)
	out, err := exec.Command("go", "build", "-tags", tags, "-o", path, "sidestep/cmd/sidestep").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("build the daemon: %w: %s", err, out)
	}
	return path, nil
}

// A daemon is a process that governs the rig's machine.
type daemon struct {
	r   *rig
	cmd *exec.Cmd
}

// daemon starts a daemon, and waits until it is engaged.
func (r *rig) daemon() *daemon {
	r.t.Helper()
	return r.daemonOf(build)
}

// daemonOf is daemon for another version.
func (r *rig) daemonOf(version func() (string, error)) *daemon {
	r.t.Helper()
	path, err := version()
	r.ok(err)
	socket := filepath.Join(filepath.Dir(r.state), "control")
	d := &daemon{r, exec.Command(path, "--socket", socket, "daemon", "--state", r.state)}
	d.cmd.Stderr = r.t.Output()
	r.ok(r.world.Machine.Start(d.cmd))
	r.t.Cleanup(func() {
		if d.cmd.ProcessState == nil {
			_ = d.cmd.Process.Kill()
			_ = d.cmd.Wait()
		}
		r.clean()
	})
	client := &api.Client{Socket: socket}
	r.engine = client
	r.wait("the daemon to be engaged", func() bool {
		s, err := client.Status(r.ctx)
		return err == nil && s.State == api.Engaged
	})
	return d
}

// kill is kill -9.
func (d *daemon) kill() {
	d.r.t.Helper()
	d.r.ok(d.cmd.Process.Kill())
	if err := d.cmd.Wait(); err == nil {
		d.r.t.Error("a killed daemon ended well")
	}
}

// stop asks the daemon to end, and waits until it has.
func (d *daemon) stop() {
	d.r.t.Helper()
	d.r.ok(d.cmd.Process.Signal(unix.SIGTERM))
	d.r.ok(d.cmd.Wait())
}

// clean runs `sidestep clean` and returns what it removed, a line each.
func (r *rig) clean() []string {
	r.t.Helper()
	path, err := build()
	r.ok(err)
	cmd := exec.Command(path, "clean", "--state", r.state)
	var out, complaints strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &complaints
	if err := r.world.Machine.Run(cmd); err != nil {
		r.t.Fatalf("sidestep clean: %v: %s", err, complaints.String())
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) == 1 && lines[0] == "nothing to remove" {
		return nil
	}
	return lines
}
