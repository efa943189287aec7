package datapath

import (
	"errors"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/cilium/ebpf"

	"sidestep/internal/datapath/bpf"
	"sidestep/internal/lab/labtest"
)

// TestVerifierIsFarFromItsLimit guards against programs that only just pass here: older kernels prune less, and refuse
// at a million instructions.
func TestVerifierIsFarFromItsLimit(t *testing.T) {
	t.Parallel()
	labtest.NeedRoot(t)
	spec, err := bpf.LoadDatapath()
	if err != nil {
		t.Fatal(err)
	}
	if has, err := haveNetfilter(); err != nil {
		t.Fatal(err)
	} else if !has {
		leaveOutAnswers(spec)
	}
	processed := regexp.MustCompile(`processed (\d+) insns`)
	for name := range spec.Programs {
		one := spec.Copy()
		for other := range one.Programs {
			if other != name {
				delete(one.Programs, other)
			}
		}
		coll, err := ebpf.NewCollectionWithOptions(one, ebpf.CollectionOptions{
			Programs: ebpf.ProgramOptions{LogLevel: ebpf.LogLevelStats},
		})
		var refused *ebpf.VerifierError
		if errors.As(err, &refused) {
			t.Errorf("%s: %-20v", name, refused)
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		log := coll.Programs[name].VerifierLog
		coll.Close()
		m := processed.FindStringSubmatch(log)
		if m == nil {
			t.Errorf("%s: the verifier did not say how many instructions it processed: %q", name, log)
			continue
		}
		n, err := strconv.Atoi(m[1])
		if err != nil || n > 40_000 {
			t.Errorf("%s: the verifier processed %s instructions, want at most 40,000: every start waits for it", name, m[1])
		}
		t.Logf("%s: %s instructions, %s", name, m[1], strings.SplitN(log, "\n", 3)[1])
	}
}
