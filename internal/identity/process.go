package identity

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// deleted is what the kernel appends to the name of a file that is no longer there.
const deleted = " (deleted)"

// Executable returns the path of the file that process pid runs, as seen from this process's root directory. The
// kernel's remark about a deleted file is taken off; what is named in its place may be a newer file.
func Executable(pid int) (string, error) {
	link := "/proc/" + strconv.Itoa(pid) + "/exe"
	name, err := os.Readlink(link)
	if err != nil {
		return "", fmt.Errorf("find executable of process %d: %w", pid, err)
	}
	if !strings.HasSuffix(name, deleted) || sameFile(link, name) {
		return name, nil
	}
	return strings.TrimSuffix(name, deleted), nil
}

// sameFile reports whether both paths lead to one file. It tells a file whose own name ends in the remark.
func sameFile(a, b string) bool {
	ai, err := os.Stat(a)
	if err != nil {
		return false
	}
	bi, err := os.Stat(b)
	return err == nil && os.SameFile(ai, bi)
}
