package doctor

import (
	"errors"
	"fmt"
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

func TestRefusalNamesWhatIsMissing(t *testing.T) {
	cap := func(name string, needed bool, err error) Capability {
		return Capability{Name: name, Needed: needed, probe: func() error { return err }}
	}
	no := ebpf.ErrNotSupported
	table := []Capability{cap("a", true, nil), cap("b", false, no), cap("c", true, unix.EPERM)}
	if err := refusal("5.10", table); err != nil {
		t.Errorf("refused, though nothing is known to be missing: %v", err)
	}
	table = append(table, cap("d", true, no), cap("e", true, no), cap("f", true, no))
	const want = "this kernel (Linux 5.10) lacks what sidestep needs: d, e, f%s; Linux 6.1 and later have it, unless built or locked down otherwise"
	for _, more := range []string{"", ", and 1 more", ", and 2 more"} {
		if err := refusal("5.10", table); err == nil || err.Error() != fmt.Sprintf(want, more) {
			t.Errorf("refusal %v, want %q more", err, more)
		}
		table = append(table, cap("g", true, no))
	}
}

func TestNothingNeededIsNewerThanTheMinimum(t *testing.T) {
	for _, c := range Capabilities() {
		if c.Needed && newer(t, c.Since, Minimum) {
			t.Errorf("%s is needed and came with Linux %s, after the minimum %s", c.Name, c.Since, Minimum)
		}
	}
}

// newer reports whether one version of Linux came after another.
func newer(t *testing.T, version, than string) bool {
	t.Helper()
	var a, b [2]int
	for text, v := range map[string]*[2]int{version: &a, than: &b} {
		if _, err := fmt.Sscanf(text, "%d.%d", &v[0], &v[1]); err != nil {
			t.Fatalf("version %q: %v", text, err)
		}
	}
	return slices.Compare(a[:], b[:]) > 0
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
