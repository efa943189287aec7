package leak_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"sidestep/api"
	"sidestep/internal/lab/actor"
	"sidestep/internal/mountinfo"
)

// foreignMark is nobody's, and has none of our bits.
const foreignMark = 0x1234

// TestSocketsWithSomebodysMarkAreRefused is about another program that marks sockets as they are made. A mark has room for
// one meaning: an excluded program gets no socket rather than one that loses the other's, and status says why.
func TestSocketsWithSomebodysMarkAreRefused(t *testing.T) {
	t.Parallel()
	r := engaged(t)
	listed := r.install("listed")
	start := r.marked()
	a, n := r.startBy(listed, start), r.startBy(r.install("other"), start)
	r.wantMark(a, foreignMark, "an included program, the sensor")
	r.goes(a, inside, "an included program")
	r.exclude(listed)
	if s, err := a.Socket(r.ctx, internet4(r.port()), unix.SOCK_DGRAM); !errors.Is(err, unix.EPERM) {
		t.Errorf("an excluded program gets socket %d and error %v, want it to be refused", s, err)
	}
	s := r.status()
	if s.State != api.Degraded || s.Counters["refused_foreign_mark"] == 0 ||
		!strings.Contains(strings.Join(s.Warnings, "\n"), "another program had put a mark on them") {
		t.Errorf("the state is %s, with the warnings %q", s.State, s.Warnings)
	}
	r.wantMark(n, foreignMark, "an included program, after an excluded one")
	r.goes(n, inside, "an included program")
	r.include(listed)
	r.wantMark(a, foreignMark, "once it is included")
}

// startBy starts a program on the machine in a way of its own.
func (r *rig) startBy(path string, start func(*exec.Cmd) error) *actor.Actor {
	r.t.Helper()
	a, err := r.stage.Start(r.ctx, path, actor.Options{Start: start})
	r.ok(err)
	return a
}

// marked makes a cgroup where a program that is not sidestep's puts a mark on every socket, and returns what starts
// programs in it.
func (r *rig) marked() func(*exec.Cmd) error {
	r.t.Helper()
	root, err := mountinfo.Cgroup2Root()
	r.ok(err)
	dir := filepath.Join(root, fmt.Sprintf("%s-%d", r.t.Name(), os.Getpid()))
	r.ok(os.Mkdir(dir, 0o755))
	r.t.Cleanup(func() {
		r.ok(r.stage.Close()) // a cgroup that is in use can't be removed
		r.wait("the cgroup to be removed", func() bool { return os.Remove(dir) == nil })
	})
	marker, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.CGroupSock, AttachType: ebpf.AttachCGroupInetSockCreate, License: "GPL",
		Instructions: asm.Instructions{
			asm.StoreImm(asm.R1, 16, foreignMark, asm.Word), // struct bpf_sock: mark
			asm.Mov.Imm(asm.R0, 1),
			asm.Return(),
		},
	})
	r.ok(err)
	defer marker.Close()
	l, err := link.AttachCgroup(link.CgroupOptions{Path: dir, Attach: ebpf.AttachCGroupInetSockCreate, Program: marker})
	r.ok(err)
	group, err := os.Open(dir)
	r.ok(err)
	r.t.Cleanup(func() { r.ok(errors.Join(l.Close(), group.Close())) })
	return func(cmd *exec.Cmd) error {
		if cmd.SysProcAttr == nil {
			cmd.SysProcAttr = &syscall.SysProcAttr{}
		}
		cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(group.Fd())
		return r.world.Machine.Start(cmd)
	}
}
