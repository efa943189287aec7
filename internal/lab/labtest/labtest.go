// Package labtest holds what tests that use internal/lab share.
package labtest

import (
	"os"
	"testing"
)

// NeedRoot skips the test without root, and fails it where CI is set: a skipped test proves nothing there.
func NeedRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("CI") != "" {
		t.Fatal("needs root: run `sudo go test ./...`")
	}
	t.Skip("needs root: run `sudo go test ./...`")
}
