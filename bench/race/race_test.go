package main

import (
	"encoding/binary"
	"errors"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"sidestep/internal/lab/labtest"
)

func TestOneWrongPacketOfSidestepFailsTheRun(t *testing.T) {
	for name, d := range map[string]*result{
		"race":    {Cells: []cell{{Starts: 1000, Right: 999, Wrong: 1}}},
		"running": {Running: []fate{{Right: 19, Foreign: 1}}},
		"killed":  {Killed: []tally{{Checked: 20, Wrong: 1}}},
		"lost":    {Lost: []tally{{Checked: 50, Wrong: 1}}},
	} {
		d.design = &product{}
		if err := (&results{Designs: []*result{d}}).verdict(); !errors.Is(err, errWrong) {
			t.Errorf("%s: got %v, want %v", name, err, errWrong)
		}
	}
	silent := &results{Designs: []*result{{design: &none{}}}}
	if err := silent.verdict(); err == nil {
		t.Error("a control without a wrong packet passes")
	}
}

func TestOnlyNoneIsZeroAndOnlyAllIsHundred(t *testing.T) {
	for _, c := range []struct {
		part, whole int
		want        string
	}{{0, 0, "-"}, {0, 9999, "0"}, {1, 9999, "0.1"}, {500, 1000, "50.0"}, {9998, 9999, "99.9"}, {9999, 9999, "100"}} {
		if got := percent(c.part, c.whole); got != c.want {
			t.Errorf("%d of %d: got %s, want %s", c.part, c.whole, got, c.want)
		}
	}
	if got := (cell{Starts: 10, Right: 4, Wrong: 5}).share(); got != "50.0 (1 lost)" {
		t.Errorf("got %q", got)
	}
}

func TestExecEventIsRecognised(t *testing.T) {
	m := make([]byte, procSmallest)
	binary.NativeEndian.PutUint32(m[unix.NLMSG_HDRLEN+cnSize:], procExec)
	binary.NativeEndian.PutUint32(m[procDataAt:], 17)   // thread
	binary.NativeEndian.PutUint32(m[procDataAt+4:], 42) // process
	if pid, ok := execOf(m); pid != 42 || !ok {
		t.Errorf("got %d, %v", pid, ok)
	}
	if _, ok := execOf(m[:procSmallest-1]); ok {
		t.Error("a short message is an exec")
	}
	binary.NativeEndian.PutUint32(m[unix.NLMSG_HDRLEN+cnSize:], 1) // fork
	if _, ok := execOf(m); ok {
		t.Error("a fork is an exec")
	}
}

// The buffers of two CPUs are read one after the other: what explains the part of the curves that never comes down.
func TestForkHeardAfterExecMisplacesTheThreadForGood(t *testing.T) {
	labtest.NeedRoot(t)
	table, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Hash, KeySize: 4, ValueSize: 1, MaxEntries: 10})
	if err != nil {
		t.Fatal(err)
	}
	defer table.Close()
	const shell, child, app = 10, 11, "/opt/app"
	for _, c := range []struct {
		events string
		marked bool
	}{{"fork exec", true}, {"exec fork", false}} {
		k := &keeper{list: []string{app}, matched: map[uint32]bool{shell: false}, table: table}
		for event := range strings.FieldsSeq(c.events) {
			if event == "fork" {
				k.handle(eventFork, child, shell, "")
			} else {
				k.handle(eventExec, child, 0, app)
			}
		}
		var v uint8
		if got := table.Lookup(uint32(child), &v) == nil; got != c.marked {
			t.Errorf("%s: marked: %v, want %v", c.events, got, c.marked)
		}
		k.handle(eventExit, child, 0, "")
	}
}
