package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"sidestep/internal/lab"
	"sidestep/internal/lab/actor"
)

const port = 9000

var (
	lan    = netip.MustParseAddrPort(lab.LAN4 + ":" + strconv.Itoa(port))        // over veth
	tunnel = netip.MustParseAddrPort(lab.TunnelHost4 + ":" + strconv.Itoa(port)) // over WireGuard
	far    = netip.MustParseAddrPort(lab.Internet4 + ":" + strconv.Itoa(port))
)

// bench is a world, the programs that make load in it, and what was found.
type bench struct {
	settings
	world    *lab.World
	dir      string
	sidestep string // the daemon's file
	report   report

	// The same program four times: what it is depends on its path.
	other    string // no rule names it
	listed   string // a rule names it
	namesake string // it has the listed one's name, elsewhere
	crowd    string // no rule names it, until it is excluded
}

func newBench(ctx context.Context, s settings, out io.Writer) (b *bench, err error) {
	b = &bench{settings: s, report: report{out: out}}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.close())
		}
	}()
	if b.dir, err = os.MkdirTemp("", "sidestep-cost-"); err != nil {
		return b, err
	}
	for _, p := range []struct {
		path *string
		name string
	}{{&b.other, "bin/other"}, {&b.listed, "bin/listed"}, {&b.namesake, "elsewhere/listed"}, {&b.crowd, "bin/crowd"}} {
		*p.path = b.file(p.name)
		if err := b.install(*p.path); err != nil {
			return b, err
		}
	}
	b.sidestep = b.file("bin/sidestep")
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", b.sidestep, "./cmd/sidestep")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return b, fmt.Errorf("build sidestep (run this in the repository's root): %w\n%s", err, out)
	}
	if b.world, err = lab.New(ctx, lab.Options{Ports: []uint16{7000}}); err != nil {
		return b, err
	}
	return b, errors.Join(b.serve(b.world.Router, lan), b.serve(b.world.VPN, tunnel))
}

func (b *bench) close() error {
	var err error
	if b.world != nil {
		err = b.world.Close()
	}
	return errors.Join(err, os.RemoveAll(b.dir))
}

func (b *bench) file(name string) string { return filepath.Join(b.dir, name) }

// install puts the load generator at a path.
func (b *bench) install(path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, loadELF, 0o755)
}

// serve starts what the loads talk to.
func (b *bench) serve(n *lab.Namespace, at netip.AddrPort) error {
	cmd, err := start(n, b.other, "serve", 1, actor.SockaddrHex(at))
	if err == nil {
		_, err = cmd.number() // it is ready
	}
	return err
}

// A load is a running load generator.
type load struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out io.Reader
	err strings.Builder
}

// start starts the load generator at path in a namespace.
func start(n *lab.Namespace, path, what string, count int, args ...string) (*load, error) {
	return startWith(n, command(path, what, count, 1, args))
}

func command(path, what string, count, slices int, args []string) *exec.Cmd {
	return exec.Command(path, append([]string{what, strconv.Itoa(count), strconv.Itoa(slices)}, args...)...)
}

func startWith(n *lab.Namespace, cmd *exec.Cmd) (*load, error) {
	l := &load{cmd: cmd}
	var err error
	if l.in, err = cmd.StdinPipe(); err != nil {
		return nil, err
	}
	if l.out, err = cmd.StdoutPipe(); err != nil {
		return nil, err
	}
	cmd.Stderr = &l.err
	if err := n.Start(cmd); err != nil {
		return nil, err
	}
	return l, nil
}

// number waits for the next number that the load says.
func (l *load) number() (float64, error) {
	var n float64
	if _, err := fmt.Fscan(l.out, &n); err != nil {
		return 0, fmt.Errorf("%s: %w: %s", strings.Join(l.cmd.Args, " "), errors.Join(err, l.cmd.Wait()), l.err.String())
	}
	return n, nil
}

// end waits for the load to end. What it says last is not wanted.
func (l *load) end() error {
	l.in.Close()
	io.Copy(io.Discard, l.out)
	return l.cmd.Wait()
}

// measure runs a load to its end and returns the nanoseconds that each of count took, in the fastest of so many slices.
func measure(n *lab.Namespace, cmd *exec.Cmd, count int) (float64, error) {
	l, err := startWith(n, cmd)
	if err != nil {
		return 0, err
	}
	ns, err := l.number()
	return ns / float64(count), errors.Join(err, l.end())
}
