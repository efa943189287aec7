package demo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"sidestep/api"
	"sidestep/internal/lab"
)

const (
	readyLimit = "1m"
	stopLimit  = time.Minute
)

// self is this program, for another process of it.
const self = "/proc/self/exe"

// A daemon is a running `sidestep daemon`.
type daemon struct {
	cmd   *exec.Cmd
	log   bytes.Buffer  // belongs to cmd until ended is closed
	ended chan struct{} // closed when it has ended
	err   error         // how it ended
}

// startDaemon starts a daemon in the machine and waits until its policy is in force.
func (s *scene) startDaemon(ctx context.Context) error {
	config := s.file("sidestep.toml") // empty, for the machine outside may have one
	if err := os.WriteFile(config, nil, 0o644); err != nil {
		return err
	}
	cmd := exec.Command(self, "--socket", s.client.Socket, "daemon", "--state", s.file("state"), "--config", config)
	cmd.Args[0] = "sidestep"
	cmd.Env = environment()
	d := &daemon{cmd: cmd, ended: make(chan struct{})}
	cmd.Stderr = &d.log
	if err := s.world.Machine.Start(cmd); err != nil {
		return fmt.Errorf("start the daemon: %w", err)
	}
	go func() {
		d.err = cmd.Wait()
		close(d.ended)
	}()
	s.daemon = d
	return s.awaitEngaged(ctx)
}

// awaitEngaged waits for a daemon that uses the world's tunnel and uplink.
func (s *scene) awaitEngaged(ctx context.Context) error {
	waiting, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-s.daemon.ended:
			cancel()
		case <-waiting.Done():
		}
	}()
	if err := s.sidestep(waiting, "status", "--wait", readyLimit); err != nil {
		s.daemon.kill()
		return fmt.Errorf("the daemon is not ready: %w%s", err, firstLine("; its last words: ", lastLine(s.daemon.log.String())))
	}
	st, err := s.client.Status(ctx)
	if err != nil {
		return err
	}
	want := api.Uplink{IPv4: lab.UplinkName, IPv6: lab.UplinkName}
	if st.State != api.Engaged || !slices.Equal(st.Tunnels, []string{lab.TunnelName}) || st.Uplink != want {
		return fmt.Errorf("the daemon is %s, with tunnels %q, uplink %+v and warnings %q",
			st.State, st.Tunnels, st.Uplink, st.Warnings)
	}
	return nil
}

func lastLine(text string) string {
	text = strings.TrimSpace(text)
	return text[strings.LastIndexByte(text, '\n')+1:]
}

// environment is this process's, without what is about this process alone.
func environment() []string {
	return slices.DeleteFunc(os.Environ(), func(v string) bool {
		name, _, _ := strings.Cut(v, "=")
		return slices.Contains([]string{"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "SIDESTEP_SOCKET", outsideEnv}, name)
	})
}

// pid is for people who read what was typed.
func (d *daemon) pid() string { return fmt.Sprintf("%d    (the daemon)", d.cmd.Process.Pid) }

// kill ends the daemon as SIGKILL does.
func (d *daemon) kill() {
	d.cmd.Process.Kill() // if it has ended already, so much the better
	<-d.ended
}

// stop asks the daemon to remove everything, and waits until it has.
func (d *daemon) stop(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, stopLimit)
	defer cancel()
	if err := d.cmd.Process.Signal(unix.SIGTERM); err != nil {
		return fmt.Errorf("stop the daemon: %w", err)
	}
	select {
	case <-d.ended:
	case <-ctx.Done():
		return fmt.Errorf("stop the daemon: %w", ctx.Err())
	}
	if d.err != nil {
		return fmt.Errorf("stop the daemon: %w%s", d.err, firstLine("; its last words: ", lastLine(d.log.String())))
	}
	return nil
}

// sidestep runs a command of the command line, in the machine.
func (s *scene) sidestep(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, self, append([]string{"--socket", s.client.Socket}, args...)...)
	cmd.Args[0] = "sidestep"
	cmd.Env = environment()
	var complaint bytes.Buffer
	cmd.Stderr = &complaint
	if err := s.world.Machine.Run(cmd); err != nil {
		return fmt.Errorf("sidestep %s: %w", strings.Join(args, " "), errors.Join(err, complained(complaint.String())))
	}
	return nil
}

func complained(text string) error {
	if line := firstLine("", text); line != "" {
		return errors.New(line)
	}
	return nil
}

// typed shows a command and runs it.
func (s *scene) typed(ctx context.Context, args ...string) error {
	s.command(append([]string{"sidestep"}, args...)...)
	return s.sidestep(ctx, args...)
}
