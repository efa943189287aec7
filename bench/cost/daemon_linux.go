package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"sidestep/api"
	"sidestep/internal/lab"
)

const patience = 2 * time.Minute

// A daemon is a running `sidestep daemon`, and the service manager that it reports to.
type daemon struct {
	cmd    *exec.Cmd
	log    bytes.Buffer  // belongs to cmd until ended is closed
	ended  chan struct{} // closed when it has ended
	notify *net.UnixConn
	client api.Client
}

// startDaemon starts the daemon of this configuration, and returns when its policy is in force.
func (b *bench) startDaemon(exclude []string) (*daemon, error) {
	d := &daemon{ended: make(chan struct{}), client: api.Client{Socket: b.file("control.sock")}}
	if err := b.configure(exclude); err != nil {
		return nil, err
	}
	manager := b.file("notify.sock")
	os.Remove(manager)
	var err error
	d.notify, err = net.ListenUnixgram("unixgram", &net.UnixAddr{Name: manager, Net: "unixgram"})
	if err != nil {
		return nil, fmt.Errorf("listen to the daemon: %w", err)
	}
	d.cmd = exec.Command(b.sidestep, "--socket", d.client.Socket, "daemon", "--state", b.file("state"), "--config", b.file("sidestep.toml"))
	d.cmd.Env = []string{"NOTIFY_SOCKET=" + manager, "PATH=/usr/sbin:/usr/bin"}
	d.cmd.Stderr = &d.log
	if err := b.world.Machine.Start(d.cmd); err != nil {
		return nil, errors.Join(err, d.notify.Close())
	}
	go func() {
		d.cmd.Wait()
		close(d.ended)
	}()
	if err := d.awaitReady(); err != nil {
		d.kill()
		return nil, fmt.Errorf("start the daemon: %w\n%s", err, d.log.String())
	}
	return d, nil
}

// configure writes a configuration whose policy is exclude.
func (b *bench) configure(exclude []string) error {
	var t strings.Builder
	t.WriteString("exclude = [\n")
	for _, p := range exclude {
		fmt.Fprintf(&t, "\t%q,\n", p)
	}
	t.WriteString("]\n")
	return os.WriteFile(b.file("sidestep.toml"), []byte(t.String()), 0o644)
}

// reload has the daemon take over a configuration, and returns when that is in force.
func (b *bench) reload(d *daemon, exclude []string) error {
	if err := b.configure(exclude); err != nil {
		return err
	}
	if err := d.cmd.Process.Signal(unix.SIGHUP); err != nil {
		return err
	}
	return d.awaitReady()
}

// awaitReady waits for the word that the policy is in force.
func (d *daemon) awaitReady() error {
	if err := d.notify.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	for buf := make([]byte, 4096); ; {
		n, err := d.notify.Read(buf)
		if err != nil {
			return fmt.Errorf("wait for the daemon: %w", err)
		}
		word, status, _ := strings.Cut(string(buf[:n]), "\nSTATUS=")
		if word != "READY=1" {
			continue
		}
		if status != "the policy is in force" {
			return errors.New(status)
		}
		return nil
	}
}

// kill ends the daemon and leaves what it put in force.
func (d *daemon) kill() {
	d.cmd.Process.Kill() // if it has ended already, so much the better
	<-d.ended
	d.notify.Close()
}

// stop has the daemon take everything back.
func (d *daemon) stop() error {
	if err := d.cmd.Process.Signal(unix.SIGTERM); err != nil {
		return fmt.Errorf("stop the daemon: %w", err)
	}
	select {
	case <-d.ended:
	case <-time.After(patience):
		return errors.New("stop the daemon: it does not end")
	}
	d.notify.Close()
	if !d.cmd.ProcessState.Success() {
		return fmt.Errorf("stop the daemon: %v\n%s", d.cmd.ProcessState, d.log.String())
	}
	return nil
}

// resident is the memory of the daemon in bytes: all of it, and what no file is behind.
func (d *daemon) resident() (all, anonymous float64, err error) {
	text, err := os.ReadFile(d.proc("status"))
	if err != nil {
		return 0, 0, err
	}
	field := func(name string) float64 {
		_, rest, _ := strings.Cut(string(text), name+":")
		words := strings.Fields(rest)
		if len(words) == 0 {
			return 0
		}
		kib, _ := strconv.ParseFloat(words[0], 64)
		return kib * 1024
	}
	return field("VmRSS"), field("RssAnon"), nil
}

// cpu is how long the daemon has run so far.
func (d *daemon) cpu() (time.Duration, error) {
	var total time.Duration
	tasks, err := filepath.Glob(d.proc("task/*/schedstat"))
	if err != nil {
		return 0, err
	}
	for _, task := range tasks {
		text, err := os.ReadFile(task)
		if err != nil {
			continue // the thread has ended
		}
		ns, _ := strconv.ParseInt(strings.Fields(string(text))[0], 10, 64)
		total += time.Duration(ns)
	}
	return total, nil
}

func (d *daemon) proc(name string) string {
	return filepath.Join("/proc", strconv.Itoa(d.cmd.Process.Pid), name)
}

// engaged checks that the daemon sees the world as we do: else it would be something else that is measured.
func (d *daemon) engaged(ctx context.Context) error {
	st, err := d.client.Status(ctx)
	if err != nil {
		return err
	}
	if st.State != api.Engaged || st.Uplink.IPv4 != lab.UplinkName {
		return fmt.Errorf("the daemon is %s with uplink %q and warnings %q", st.State, st.Uplink.IPv4, st.Warnings)
	}
	return d.rest()
}

// rest waits until the daemon has nothing to do: it looks up the paths of rules once more when it has come to watch them.
func (d *daemon) rest() error {
	const moment = 200 * time.Millisecond
	before := time.Duration(-1)
	for until := time.Now().Add(patience); time.Now().Before(until); time.Sleep(moment) {
		now, err := d.cpu()
		if err != nil || before >= 0 && now-before < moment/50 {
			return err
		}
		before = now
	}
	return errors.New("the daemon does not come to rest")
}
