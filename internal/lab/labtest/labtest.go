// Package labtest holds what tests that use internal/lab share.
package labtest

import (
	"os"
	"testing"
)

// NeedRoot is [Skip] without root: a skipped test proves nothing.
func NeedRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		Skip(t, "needs root: run `sudo go test ./...`")
	}
}

// Skip skips the test, and fails it where CI is set. It is for what a machine may lack, and the one that checks must have.
func Skip(t testing.TB, why string) {
	t.Helper()
	if os.Getenv("CI") != "" {
		t.Fatal(why)
	}
	t.Skip(why)
}
