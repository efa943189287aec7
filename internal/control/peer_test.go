package control

import (
	"context"
	"errors"
	"net"
	"os"
	"runtime"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"sidestep/api"
	"sidestep/internal/lab/labtest"
)

func TestAccess(t *testing.T) {
	const group = 900
	for _, tt := range []struct {
		name   string
		access access
		peer   peer
		want   bool
	}{
		{"root", access{uid: 0, gid: group}, peer{uid: 0}, true},
		{"the daemon's own user", access{uid: 5, gid: -1}, peer{uid: 5, gid: 5}, true},
		{"primary group", access{gid: group}, peer{uid: 1000, gid: group}, true},
		{"supplementary group", access{gid: group}, peer{uid: 1000, gid: 1000, groups: []uint32{4, group}}, true},
		{"stranger", access{gid: group}, peer{uid: 1000, gid: 1000, groups: []uint32{4}}, false},
		{"no such group", access{gid: -1}, peer{uid: 1000, gid: 1000, groups: []uint32{1<<32 - 1}}, false},
	} {
		if got := tt.access.allows(&tt.peer); got != tt.want {
			t.Errorf("%s: %v", tt.name, got)
		}
	}
}

// dialAs connects as another user, from a thread that ends with it.
func dialAs(socket string, uid, gid int, groups []uint32) func(context.Context) (net.Conn, error) {
	return func(context.Context) (net.Conn, error) {
		var conn net.Conn
		err := make(chan error)
		go func() {
			runtime.LockOSThread() // never unlocked: nobody else gets this thread's credentials
			var list *uint32
			if len(groups) > 0 {
				list = &groups[0]
			}
			err <- func() (err error) {
				if err := setCredentials(uid, gid, len(groups), list); err != nil {
					return err
				}
				conn, err = net.Dial("unix", socket)
				return err
			}()
		}()
		return conn, <-err
	}
}

func TestStrangersAreRefusedAndMembersAreNot(t *testing.T) {
	labtest.NeedRoot(t)
	const group, user = 54321, 12345
	e, c := serve(t, group)
	if err := os.Chmod(c.Socket, 0o666); err != nil { // the second door must hold alone
		t.Fatal(err)
	}
	openParents(t, c.Socket)
	ctx := t.Context()

	c.Dial = dialAs(c.Socket, user, user, []uint32{1, 2, 3})
	_, serr := c.Status(ctx)
	_, xerr := c.Exclude(ctx, []string{"/x"})
	_, rerr := c.Replace(ctx, nil)
	for call, err := range map[string]error{"status": serr, "exclude": xerr, "replace": rerr, "launch": c.Launch(ctx)} {
		var ae *api.Error
		if !errors.As(err, &ae) || ae.Code != api.CodeForbidden || !errors.Is(err, api.ErrNotPermitted) {
			t.Errorf("%s by a stranger: %v", call, err)
		}
	}
	for ev, err := range c.Events(ctx) {
		if !errors.Is(err, api.ErrNotPermitted) {
			t.Errorf("events to a stranger: %v, %v", ev, err)
		}
	}
	if len(e.Paths()) > 0 || len(e.Launched()) > 0 {
		t.Errorf("a stranger changed %v, launched %v", e.Paths(), e.Launched())
	}

	for name, dial := range map[string]func(context.Context) (net.Conn, error){
		"primary":       dialAs(c.Socket, user, group, nil),
		"supplementary": dialAs(c.Socket, user, user, append(make([]uint32, 100), group)),
	} {
		c.Dial = dial
		if _, err := c.Exclude(ctx, []string{"/x"}); err != nil {
			t.Errorf("a member (%s): %v", name, err)
		}
		if err := c.Launch(ctx); err != nil {
			t.Errorf("a member (%s) launches: %v", name, err)
		}
	}
}

func TestSocketModeKeepsStrangersOut(t *testing.T) {
	labtest.NeedRoot(t)
	_, c := serve(t, -1)
	openParents(t, c.Socket)
	c.Dial = dialAs(c.Socket, 12345, 12345, nil)
	if _, err := c.Status(t.Context()); !errors.Is(err, api.ErrNotPermitted) {
		t.Errorf("got %v", err)
	}
}

func TestLaunchNeedsTheProcessThatConnected(t *testing.T) {
	p := &peer{pid: os.Getpid(), pidfd: -1}
	if p.alive() == nil {
		t.Error("a process without a pidfd is alive")
	}
	attr := &syscall.SysProcAttr{PidFD: new(int)}
	child, err := os.StartProcess("/bin/true", []string{"true"}, &os.ProcAttr{Sys: attr})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := child.Wait(); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(*attr.PidFD)
	p = &peer{pid: os.Getpid(), pidfd: *attr.PidFD} // as if its pid had been used again
	if p.alive() == nil {
		t.Error("a process that ended is alive")
	}
}
