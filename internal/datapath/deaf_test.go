//go:build !deaf

package datapath_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"sidestep/internal/lab/labtest"
)

// TestDeaf runs the tests TestLossy... with tracepoints that lose events: all of them, and one in ten. The kernel part
// that does so is in builds with the tag deaf only, so this is a test binary of its own.
func TestDeaf(t *testing.T) {
	t.Parallel()
	labtest.NeedRoot(t)
	binary := deafTests(t)
	for _, percent := range []int{100, 10} {
		t.Run(fmt.Sprint(percent), func(t *testing.T) {
			t.Parallel()
			cmd := exec.CommandContext(t.Context(), binary,
				"-test.run=^TestLossy", fmt.Sprintf("-seed=%d", *seedFlag), fmt.Sprintf("-steps=%d", steps()/2))
			// Not inside our mounts, but with some of its own.
			cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "SIDESTEP_TEST_INSIDE=") })
			cmd.Env = append(cmd.Env, fmt.Sprintf("SIDESTEP_DEAF_PERCENT=%d", percent))
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}

// deafTests returns the test binary, built anew. Machines without a compiler have one that was built elsewhere.
func deafTests(t *testing.T) string {
	if path := os.Getenv("SIDESTEP_TEST_DEAF"); path != "" {
		return path
	}
	path := filepath.Join(t.TempDir(), "deaf.test")
	if out, err := exec.CommandContext(t.Context(), "go", "test", "-c", "-tags", "deaf", "-o", path, ".").CombinedOutput(); err != nil {
		t.Fatalf("build the deaf tests: %v\n%s", err, out)
	}
	return path
}
