package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"sidestep/api"
	"sidestep/internal/cli"
	"sidestep/internal/lab"
	"sidestep/internal/lab/actor"
)

// product is sidestep itself: `sidestep daemon`, and its API.
type product struct {
	at     place
	cmd    *exec.Cmd
	log    strings.Builder // belongs to cmd until it has ended
	client *api.Client
	ended  chan error
	killed bool
}

func (*product) facts() facts { return facts{Name: "sidestep", Mode: exclude, Agent: true} }

func (p *product) start(ctx context.Context, at place) error {
	*p = product{at: at, client: &api.Client{Socket: filepath.Join(at.dir, "control")}, ended: make(chan error, 1)}
	config := filepath.Join(at.dir, "sidestep.toml") // empty, for the machine may have one
	if err := os.WriteFile(config, nil, 0o644); err != nil {
		return err
	}
	p.cmd = p.command("daemon", "--state", p.state(), "--config", config)
	p.cmd.Stderr = &p.log
	if err := at.world.Machine.Start(p.cmd); err != nil {
		return err
	}
	go func() { p.ended <- p.cmd.Wait() }()
	err := lab.Poll(ctx, func() (bool, error) {
		select {
		case err := <-p.ended:
			p.ended <- err
			return false, cmp.Or(err, errors.New("it ended"))
		default:
		}
		s, err := p.client.Status(ctx)
		return err == nil && s.State == api.Engaged, nil
	})
	if err != nil {
		return errors.Join(fmt.Errorf("start sidestep: %w", err), p.stop())
	}
	return nil
}

// command is this program in the role of sidestep.
func (p *product) command(args ...string) *exec.Cmd {
	return exec.Command(self, append([]string{"sidestep", "--socket", p.client.Socket}, args...)...)
}

func (p *product) state() string { return filepath.Join(p.at.dir, "state") }

func (p *product) list(ctx context.Context, path string, _ []*actor.Actor) error {
	_, err := p.client.Exclude(ctx, []string{path})
	return err
}

func (*product) image(path string, args ...string) actor.Image { return plainImage(path, args) }

func (p *product) signal(s unix.Signal) error {
	err := p.cmd.Process.Signal(s)
	if err == nil && s == unix.SIGKILL {
		p.killed = true
		<-p.ended
	}
	return err
}

// stop ends the daemon, or cleans up after one that was killed, and forgets the policy.
func (p *product) stop() error {
	var err error
	if p.killed {
		err = p.at.world.Machine.Run(p.command("clean", "--state", p.state()))
	} else if err = p.cmd.Process.Signal(unix.SIGTERM); err == nil || errors.Is(err, os.ErrProcessDone) {
		err = <-p.ended // done already: ^C has reached it too
	}
	if err != nil {
		return fmt.Errorf("stop sidestep: %w: %s", err, p.log.String())
	}
	return os.RemoveAll(p.state())
}

// runSidestep is the command line of sidestep: sidestep [ARG]...
func runSidestep(ctx context.Context, args []string) int {
	env := cli.OS(cli.EngineHooks())
	env.Args = args
	return cli.Main(ctx, env)
}
