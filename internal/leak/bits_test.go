package leak_test

import (
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"sidestep/internal/lab/actor"
	"sidestep/internal/lab/labtest"
)

func TestPacketsOf32BitProgramsAreOnTheirSide(t *testing.T) {
	t.Parallel()
	if runtime.GOARCH != "amd64" {
		t.Skipf("this kernel has no 32-bit programs that are known here: it is for %s", runtime.GOARCH)
	}
	r := engaged(t)
	listed, other := r.at("listed/probe"), r.at("other/probe")
	r.ok(errors.Join(actor.InstallProbe32(listed), actor.InstallProbe32(other)))
	send := func(path string, kind actor.ProbeKind, want side, when string) {
		t.Helper()
		for _, to := range []func(uint16) netip.AddrPort{internet4, internet6} {
			port := r.port()
			err := r.world.Machine.Run(exec.Command(path, actor.ProbeArgs(kind, to(port), 3)...))
			if errors.Is(err, unix.ENOEXEC) {
				labtest.Skip(t, fmt.Sprintf("this kernel has no 32-bit programs: %v", err))
			}
			r.ok(err)
			r.wantSide(string(kind)+" of a 32-bit program, "+when, port, want, 3)
		}
	}
	for _, kind := range []actor.ProbeKind{actor.ProbeUDP, actor.ProbeSYN} {
		send(listed, kind, inside, "before it is excluded")
		r.exclude(listed)
		send(listed, kind, outside, "excluded")
		send(other, kind, inside, "included")
		r.include(listed)
	}
}
