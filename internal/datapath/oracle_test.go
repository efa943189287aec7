//go:build !deaf

package datapath_test

import (
	"fmt"
	"os"
	"testing"

	"sidestep/policy"
)

// exact is the oracle of a kernel that misses nothing.
type exact struct{ *policy.Model }

func newExact() exact { return exact{policy.NewModel(os.Getpid(), "(the test)")} }

func (o exact) Allows(pid int, got policy.Decision) error {
	if want := o.Decide(pid); got != want {
		return fmt.Errorf("is %+v, want %+v", got, want)
	}
	return nil
}

func (o exact) Heard(pid int, excluded bool) error {
	if want := o.Decide(pid); excluded != (want.Verdict == policy.Excluded) {
		return fmt.Errorf("excluded: %t, want %+v", excluded, want)
	}
	return nil
}

// TestKernelAgrees plays random histories with real processes; after each step the kernel must say of every process
// what the oracle says.
func TestKernelAgrees(t *testing.T) {
	t.Parallel()
	seed := seedOf(t)
	newCrowd(newRig(t), seed, newExact()).run(steps())
}
