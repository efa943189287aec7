package check

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
)

// SenderEnv is set in the environment of a process whose `check` is [Send].
const SenderEnv = "SIDESTEP_CHECK_SENDER"

// self is the program that runs, whatever became of its file.
const self = "/proc/self/exe"

// A sender is a process that sends.
type sender struct {
	program Program
	cmd     *exec.Cmd
	in      io.WriteCloser
	out     io.Reader
	said    strings.Builder // on stderr
}

// startSender starts this program again: plainly, or as `sidestep run` starts programs. It dies with ctx.
func startSender(ctx context.Context, p Program, socket string) (*sender, error) {
	args := []string{"check"}
	if p == Excluded {
		args = append([]string{"--socket", socket, "run", "--", self}, args...)
	}
	s := &sender{program: p, cmd: exec.CommandContext(ctx, self, args...)}
	s.cmd.Args[0] = os.Args[0]
	s.cmd.Env = append(os.Environ(), SenderEnv+"=1")
	s.cmd.Stderr = &s.said
	var err, outErr error
	s.in, err = s.cmd.StdinPipe()
	s.out, outErr = s.cmd.StdoutPipe()
	if err = errors.Join(err, outErr); err == nil {
		err = s.cmd.Start()
	}
	if err != nil {
		return nil, fmt.Errorf("start the %s process: %w", p, err)
	}
	return s, nil
}

// send has the process send all probes, and returns what it says of each.
func (s *sender) send(probes []Probe, n network) ([]reply, error) {
	var errands []errand
	for _, p := range probes {
		errands = append(errands, errand{p.Kind, p.To, p.label, p.Kind == DNS && n.here(p.To.Addr())})
	}
	var replies []reply
	err := json.NewEncoder(s.in).Encode(errands)
	if err == nil || errors.Is(err, syscall.EPIPE) { // whose reason is what it said
		err = json.NewDecoder(s.out).Decode(&replies)
	}
	if err == nil && len(replies) != len(probes) {
		err = fmt.Errorf("%d replies to %d probes", len(replies), len(probes))
	}
	if err != nil {
		return nil, s.failed(err)
	}
	return replies, nil
}

// failed ends a process that has not done what it should, and says why it has not.
func (s *sender) failed(err error) error {
	if ended := s.end(); ended != nil {
		err = ended
	}
	if text, _, _ := strings.Cut(s.said.String(), "\n"); text != "" {
		err = errors.New(strings.TrimPrefix(text, "sidestep: "))
	}
	return fmt.Errorf("let an %s process send: %w", s.program, err)
}

// end ends the process, with its sockets. Ending it again does nothing.
func (s *sender) end() error {
	if s.cmd.ProcessState != nil {
		return nil
	}
	return errors.Join(s.in.Close(), s.cmd.Wait())
}
