package leak_test

import (
	"errors"
	"os/exec"
	"path/filepath"
	"testing"

	"sidestep/api"
	"sidestep/internal/lab"
	"sidestep/internal/lab/actor"
	"sidestep/policy"
)

// TestRunStartsACommandOutside is about `sidestep run`: the command line becomes the command, excluded before that.
func TestRunStartsACommandOutside(t *testing.T) {
	t.Parallel()
	r := newRig(t, lab.Options{})
	r.daemon()
	path, err := build()
	r.ok(err)
	program := r.install("program")
	client := &api.Client{Socket: filepath.Join(filepath.Dir(r.state), "control")}
	launcher := []string{path, "--socket", client.Socket, "run", "--"}
	r.goes(r.start(program), inside, "started by hand")
	a, err := r.stage.Start(r.ctx, program, actor.Options{Launcher: launcher, Start: r.world.Machine.Start})
	r.ok(err)
	r.goes(a, outside, "started by sidestep run")
	child, err := a.Fork(r.ctx)
	r.ok(err)
	r.ok(child.Exec(r.ctx, r.install("other")))
	r.goes(child, outside, "its child, which executes another program")
	r.goes(r.start(program), inside, "started by hand meanwhile")
	x, err := client.ExplainPID(r.ctx, a.PID())
	r.ok(err)
	if x.Verdict != policy.Excluded || x.Cause != policy.Launched {
		t.Errorf("it is %v (%v), want excluded (launched)", x.Verdict, x.Cause)
	}
	if code := exitCode(r.world.Machine.Run(exec.Command(launcher[0], append(launcher[1:], "sh", "-c", "exit 42")...))); code != 42 {
		t.Errorf("the command ended with 42, sidestep run with %d", code)
	}
	if code := exitCode(r.world.Machine.Run(exec.Command(launcher[0], append(launcher[1:], "/no/such/program")...))); code != 127 {
		t.Errorf("there is no such command, and sidestep run ended with %d, want 127", code)
	}
}

func exitCode(err error) int {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode()
	}
	return 0
}
