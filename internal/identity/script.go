package identity

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
)

// headMax is how much of a file the kernel looks at for "#!" (BINPRM_BUF_SIZE).
const headMax = 256

// readScript reports whether the kernel would run an interpreter for the file at path, and which.
func readScript(path string) (script bool, interpreter string, err error) {
	// Not blocking, should the file have become a pipe.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOCTTY|syscall.O_NOFOLLOW, 0)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ELOOP) {
		return false, "", nil // gone or replaced since: the watcher will tell
	}
	if err != nil {
		return false, "", fmt.Errorf("look for #!: %w", err)
	}
	defer f.Close()
	head := make([]byte, headMax)
	n, err := io.ReadFull(f, head)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return false, "", fmt.Errorf("look for #!: %w", err)
	}
	script, interpreter = parseScript(head[:n])
	return script, interpreter, nil
}

// parseScript reads the first line of a script as the kernel does: "#!", blanks, the interpreter, and perhaps
// blanks and an argument.
func parseScript(head []byte) (script bool, interpreter string) {
	rest, ok := bytes.CutPrefix(head, []byte("#!"))
	if !ok {
		return false, ""
	}
	line, _, _ := bytes.Cut(rest, []byte("\n"))
	line, _, _ = bytes.Cut(line, []byte{0})
	name := strings.TrimLeft(string(line), " \t")
	if i := strings.IndexAny(name, " \t"); i >= 0 {
		name = name[:i]
	}
	return true, name
}
