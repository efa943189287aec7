package doctor

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/features"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"sidestep/internal/sockets"
)

// An attempt is a smallest program of some kind, to see whether the kernel takes it.
type attempt struct {
	kind   ebpf.ProgramType
	attach ebpf.AttachType
	to     string
	insns  asm.Instructions
	ret    int32
}

// The kinds of programs that sidestep has.
var (
	execTracepoint = tracepoint("sched_process_exec")
	taskIterator   = attempt{kind: ebpf.Tracing, attach: ebpf.AttachTraceIter, to: "task"}
	fileIterator   = attempt{kind: ebpf.Tracing, attach: ebpf.AttachTraceIter, to: "task_file"}
	sockCreate     = attempt{kind: ebpf.CGroupSock, attach: ebpf.AttachCGroupInetSockCreate, ret: 1}
	tcpIterator    = attempt{kind: ebpf.Tracing, attach: ebpf.AttachTraceIter, to: "tcp"}
	connect        = attempt{kind: ebpf.CGroupSockAddr, attach: ebpf.AttachCGroupInet4Connect, ret: 1}
	sendMessage    = attempt{kind: ebpf.CGroupSockAddr, attach: ebpf.AttachCGroupUDP4Sendmsg, ret: 1}
	setOption      = attempt{kind: ebpf.CGroupSockopt, attach: ebpf.AttachCGroupSetsockopt, ret: 1}
	guard          = attempt{kind: ebpf.CGroupSKB, attach: ebpf.AttachCGroupInetEgress, ret: 1}
	answers        = attempt{kind: ebpf.Netfilter, attach: ebpf.AttachNetfilter, ret: 1}
)

func tracepoint(name string) attempt {
	return attempt{kind: ebpf.Tracing, attach: ebpf.AttachTraceRawTp, to: name}
}

// body returns the attempt with instructions before its end.
func (a attempt) body(insns ...asm.Instruction) attempt {
	a.insns = insns
	return a
}

// open loads the program.
func (a attempt) open() (*ebpf.Program, error) {
	end := asm.Instructions{asm.Mov.Imm(asm.R0, a.ret), asm.Return()}
	prog, err := ebpf.NewProgramWithOptions(&ebpf.ProgramSpec{
		Type: a.kind, AttachType: a.attach, AttachTo: a.to, License: "GPL",
		Instructions: slices.Concat(a.insns, end),
	}, ebpf.ProgramOptions{LogLevel: 1})
	for _, no := range []error{btf.ErrNotFound, os.ErrNotExist, unix.EINVAL, unix.E2BIG, unix.EACCES} {
		if errors.Is(err, no) { // EACCES is the verifier's no; the lack of a privilege is EPERM
			return nil, fmt.Errorf("%w: %w", ebpf.ErrNotSupported, err)
		}
	}
	return prog, err
}

// load tries the program.
func (a attempt) load() error {
	prog, err := a.open()
	if err != nil {
		return err
	}
	return prog.Close()
}

// helper returns a probe for a helper function in programs of the kind. The arguments are left out: a kernel
// that complains of them knows the function.
func (a attempt) helper(fn asm.BuiltinFunc) func() error {
	return func() error {
		if err := a.load(); err != nil {
			return err
		}
		err := a.body(fn.Call()).load()
		var verifier *ebpf.VerifierError
		switch {
		case err == nil, !errors.As(err, &verifier):
			return err
		case slices.ContainsFunc(verifier.Log, unknownFunction):
			return fmt.Errorf("%v: %w", fn, ebpf.ErrNotSupported)
		}
		return nil
	}
}

// unknownFunction reports whether the verifier's line says that the program may not call the function. The
// wording is the kernel's: kernel/bpf/verifier.c, check_helper_call.
func unknownFunction(line string) bool {
	return strings.Contains(line, "unknown func") || strings.Contains(line, "invalid func") ||
		strings.Contains(line, "cannot use helper")
}

// storeMark writes the mark of the socket that is being made.
func storeMark() asm.Instructions {
	const offsetOfMark = 16 // in struct bpf_sock, include/uapi/linux/bpf.h
	return store(offsetOfMark)
}

// store writes a register to a field of the program's argument. Before Linux 6.4 a program may not store constants there.
func store(offset int16) asm.Instructions {
	return asm.Instructions{asm.Mov.Imm(asm.R2, 1), asm.StoreMem(asm.R1, offset, asm.R2, asm.Word)}
}

func haveBTF() error {
	if _, err := os.Stat("/sys/kernel/btf/vmlinux"); err != nil {
		return fmt.Errorf("%w: %w", ebpf.ErrNotSupported, err)
	}
	_, err := btf.LoadKernelSpec()
	return err
}

// haveTCX tries to attach a program to a link that cannot be. A kernel that has tcx misses the link.
func haveTCX() error {
	door := attempt{kind: ebpf.SchedCLS, attach: ebpf.AttachTCXEgress}
	prog, err := door.open()
	if err != nil {
		return err
	}
	defer prog.Close()
	const nowhere = 1<<31 - 1
	l, err := link.AttachTCX(link.TCXOptions{Interface: nowhere, Program: prog, Attach: ebpf.AttachTCXEgress})
	switch {
	case err == nil:
		return errors.Join(errors.New("a program was attached to no link"), l.Close())
	case errors.Is(err, unix.ENODEV):
		return nil
	}
	return err
}

// haveDestroy destroys a connection that cannot be: between two addresses for documentation (RFC 5737).
func haveDestroy() error {
	c, err := sockets.New()
	if err != nil {
		return err
	}
	defer c.Close()
	nobody := netip.MustParseAddrPort("192.0.2.1:1")
	err = c.Destroy(sockets.Flow{Protocol: unix.IPPROTO_TCP, Local: nobody, Remote: nobody})
	if errors.Is(err, sockets.ErrUnsupported) {
		return fmt.Errorf("%w: %w", ebpf.ErrNotSupported, err)
	}
	return err
}

func haveMap(kind ebpf.MapType) func() error {
	return func() error { return features.HaveMapType(kind) }
}

// haveCgroupLinks tries to attach a program to something that is no cgroup, by a link. A kernel that has such
// links says that; another does not know what is asked of it.
func haveCgroupLinks() error {
	prog, err := sockCreate.open()
	if err != nil {
		return err
	}
	defer prog.Close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		return err
	}
	defer null.Close()
	l, err := link.AttachRawLink(link.RawLinkOptions{
		Target: int(null.Fd()), Program: prog, Attach: ebpf.AttachCGroupInetSockCreate,
	})
	switch {
	case err == nil:
		return errors.Join(errors.New("a program was attached to /dev/null"), l.Close())
	case errors.Is(err, unix.EBADF):
		return nil
	case errors.Is(err, unix.EINVAL):
		return fmt.Errorf("%w: %w", ebpf.ErrNotSupported, err)
	}
	return err
}
