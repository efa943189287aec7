package control

import (
	"os"
	"path/filepath"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// setCredentials changes the calling thread's credentials only: the raw calls, without what libraries do for
// all threads of a process.
func setCredentials(uid, gid, n int, groups *uint32) error {
	for _, call := range [][4]uintptr{
		{unix.SYS_SETGROUPS, uintptr(n), uintptr(unsafe.Pointer(groups)), 0},
		{unix.SYS_SETRESGID, uintptr(gid), uintptr(gid), uintptr(gid)},
		{unix.SYS_SETRESUID, uintptr(uid), uintptr(uid), uintptr(uid)},
	} {
		if _, _, errno := unix.RawSyscall(call[0], call[1], call[2], call[3]); errno != 0 {
			return errno
		}
	}
	return nil
}

// openParents lets everybody reach a file in a test's own directory.
func openParents(t *testing.T, path string) {
	t.Helper()
	for dir := filepath.Dir(path); dir != os.TempDir() && dir != "/"; dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
}
