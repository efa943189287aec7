package doctor

import (
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"sidestep/internal/lab/labtest"
	"sidestep/internal/mountinfo"
)

// TestProbesCanSayNo: a probe that always says yes proves nothing.
func TestProbesCanSayNo(t *testing.T) {
	labtest.NeedRoot(t)
	for name, probe := range map[string]func() error{
		"no such tracepoint":         tracepoint("sidestep_none").load,
		"no such iterator":           attempt{kind: ebpf.Tracing, attach: ebpf.AttachTraceIter, to: "sidestep_none"}.load,
		"no such attach type":        attempt{kind: ebpf.CGroupSock, attach: ebpf.AttachCGroupInetEgress}.load,
		"helper of another type":     execTracepoint.helper(asm.FnGetNetnsCookie),
		"helper of another hook":     sockCreate.helper(asm.FnSkbLoadBytes),
		"helper that does not exist": sockCreate.helper(asm.BuiltinFunc(9999)),
		"field that cannot be set":   sockCreate.body(store(4)...).load,
	} {
		if err := probe(); !errors.Is(err, ebpf.ErrNotSupported) {
			t.Errorf("%s: %v, want %v", name, err, ebpf.ErrNotSupported)
		}
	}
}

func TestCapabilityLine(t *testing.T) {
	cap := func(needed bool, err error) Capability {
		return Capability{Name: "x", Since: "9.9", For: "good", Without: "bad", Needed: needed, probe: func() error { return err }}
	}
	for _, c := range []struct {
		cap        Capability
		privileged bool
		grade      Grade
		detail     string
	}{
		{cap(true, nil), true, OK, "good"},
		{cap(true, ebpf.ErrNotSupported), true, Missing, "bad (Linux has it since 9.9)"},
		{cap(false, ebpf.ErrNotSupported), true, Warn, "bad (Linux has it since 9.9)"},
		{cap(true, unix.EPERM), true, Missing, "bad: operation not permitted"},
		{cap(true, unix.EPERM), false, Warn, "cannot tell without privileges"},
		{cap(false, unix.EIO), true, Warn, "bad: input/output error"},
	} {
		if l := c.cap.line(c.privileged); l.Grade != c.grade || l.Detail != c.detail {
			t.Errorf("%+v: line %+v", c, l)
		}
	}
}

func TestTableIsComplete(t *testing.T) {
	seen := map[string]bool{}
	for _, c := range Capabilities() {
		if c.Name == "" || c.Since == "" || c.For == "" || c.Without == "" || c.probe == nil || seen[c.Name] {
			t.Errorf("capability %q is incomplete or there twice", c.Name)
		}
		seen[c.Name] = true
	}
}

// TestExclusiveProgramIsFound attaches programs to a cgroup of its own, where nothing runs.
func TestExclusiveProgramIsFound(t *testing.T) {
	labtest.NeedRoot(t)
	root, err := mountinfo.Cgroup2Root()
	if err != nil {
		t.Fatal(err)
	}
	for flags, want := range map[uint32]uint32{0: 0, unix.BPF_F_ALLOW_MULTI: unix.BPF_F_ALLOW_MULTI} {
		name, err := os.MkdirTemp(root, "sidestep-doctor-")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = os.Remove(name) })
		dir, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { dir.Close() })
		prog, err := sockCreate.open()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { prog.Close() })
		err = link.RawAttachProgram(link.RawAttachProgramOptions{
			Target: int(dir.Fd()), Program: prog, Attach: ebpf.AttachCGroupInetSockCreate, Flags: flags,
		})
		if err != nil {
			t.Fatal(err)
		}
		ids, got, err := query(int(dir.Fd()), ebpf.AttachCGroupInetSockCreate)
		if err != nil || len(ids) != 1 || got&unix.BPF_F_ALLOW_MULTI != want {
			t.Errorf("flags %#x: programs %v, flags %#x, %v", flags, ids, got, err)
		}
	}
}

func TestJudgeForeign(t *testing.T) {
	for _, c := range []struct {
		shared, exclusive []string
		grade             Grade
		detail            string
	}{
		{nil, nil, OK, "none"},
		{[]string{"a", "b"}, nil, OK, "a, b"},
		{[]string{"a"}, []string{"b"}, Missing, "alone in its place: b"},
	} {
		var l Line
		judgeForeign(&l, c.shared, c.exclusive)
		if l.Grade != c.grade || l.Detail != c.detail {
			t.Errorf("%v, %v: %+v", c.shared, c.exclusive, l)
		}
	}
}

func TestNFTablesAnswers(t *testing.T) {
	labtest.NeedRoot(t)
	if names, err := nftables(); err != nil || slices.ContainsFunc(names, func(n string) bool { return strings.Contains(n, "\x00") }) {
		t.Errorf("tables %q, %v", names, err)
	}
}
