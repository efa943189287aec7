package demo_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"

	"sidestep/internal/cli"
	"sidestep/internal/demo"
	"sidestep/internal/lab"
	"sidestep/internal/route"
)

const (
	// sidestepEnv makes the test binary the program sidestep. Its value is the file to leave traces in.
	sidestepEnv = "SIDESTEP_DEMO_TEST"
	// spoilEnv names what is to be spoiled.
	spoilEnv = "SIDESTEP_DEMO_TEST_SPOIL"
)

func TestMain(m *testing.M) {
	if trail := os.Getenv(sidestepEnv); trail != "" {
		os.Exit(sidestep(trail))
	}
	os.Exit(m.Run())
}

// sidestep is main of cmd/sidestep, but leaves word of what could be left behind: the BPF links of the daemons.
func sidestep(trail string) int {
	hooks := cli.EngineHooks()
	hooks.Demo = func(ctx context.Context, o cli.DemoOptions) error {
		return demo.Run(ctx, demo.Options{Out: o.Out, Before: spoil})
	}
	makeDaemon := hooks.Daemon
	hooks.Daemon = func(ctx context.Context, o cli.DaemonOptions) (cli.Daemon, error) {
		d, err := makeDaemon(ctx, o)
		return d, errors.Join(err, leaveLinks(trail))
	}
	env := cli.OS(hooks)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)
	return cli.Main(ctx, env)
}

func leave(trail, word string) error {
	f, err := os.OpenFile(trail, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(word + "\n")
	return errors.Join(err, f.Close())
}

func leaveLinks(trail string) error {
	return eachLink(func(_ string, l link.Link) error {
		info, err := l.Info()
		if err != nil {
			return err
		}
		return leave(trail, fmt.Sprint(info.ID))
	})
}

// eachLink calls fn with every BPF link that is pinned in this mount namespace.
func eachLink(fn func(name string, l link.Link) error) error {
	pins, err := filepath.Glob("/sys/fs/bpf/sidestep*/links/*")
	if err != nil {
		return err
	}
	for _, p := range pins {
		l, err := link.LoadPinnedLink(p, nil)
		if err != nil {
			return err
		}
		if err := errors.Join(fn(filepath.Base(p), l), l.Close()); err != nil {
			return err
		}
	}
	return nil
}

// spoil breaks the enforcement behind the daemon's back.
func spoil(step string, machine *lab.Namespace) error {
	switch os.Getenv(spoilEnv) + " before " + step {
	case "hook before exclude a running program":
		// The hooks of what is done with a socket would make it good.
		return detach("socket", "bind", "connect", "sendmsg")
	case "rules before go on without a daemon":
		// The guard would stop what the rules no longer lead outside.
		return errors.Join(detach("egress", "door-"), machine.Do(deleteRules))
	}
	return nil
}

// detach takes programs of the daemon's off their hooks, whose names begin so.
func detach(hooks ...string) error {
	return eachLink(func(name string, l link.Link) error {
		for _, hook := range hooks {
			if strings.HasPrefix(name, hook) {
				return l.Detach()
			}
		}
		return nil
	})
}

// deleteRules deletes the daemon's rules in the calling thread's namespace.
func deleteRules() error {
	deleted := 0
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		rules, err := netlink.RuleList(family)
		if err != nil {
			return err
		}
		for _, r := range rules {
			if r.Priority != int(route.DefaultPriority) && r.Priority != int(route.DefaultPriority)+1 {
				continue
			}
			r.Family = family
			if err := netlink.RuleDel(&r); err != nil {
				return fmt.Errorf("delete %v: %w", r, err)
			}
			deleted++
		}
	}
	if deleted != 4 {
		return fmt.Errorf("deleted %d rules, expected 4", deleted)
	}
	return nil
}
