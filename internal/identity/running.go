package identity

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// scriptArgs is how far into the arguments the script's path can be: after the interpreter, its option, and what env
// is told.
const scriptArgs = 4

// RunningScript lists the processes that run the script t by its interpreter. The executable does not show it, so the
// arguments must: they are what exec made them, unless the process wrote others there.
func RunningScript(t Target) []int {
	interpreters := t.interpreters()
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var pids []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		exe, err := Executable(pid)
		if err == nil && slices.Contains(interpreters, exe) && t.among(pid) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// interpreters lists the executables that may run the script: its interpreter and, behind env, what env starts.
func (t Target) interpreters() []string {
	var paths []string
	add := func(p string) {
		if real, err := filepath.EvalSymlinks(p); err == nil {
			paths = append(paths, real)
		}
	}
	add(t.Interpreter)
	if filepath.Base(t.Interpreter) != "env" {
		return paths
	}
	for _, word := range strings.Fields(firstLine(t.Canonical)) {
		if p, err := exec.LookPath(word); err == nil {
			add(p)
		}
	}
	return paths
}

// firstLine returns the first line of a file, as far as the kernel looks at it.
func firstLine(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	head := make([]byte, headMax)
	n, _ := f.Read(head)
	line, _, _ := bytes.Cut(head[:n], []byte("\n"))
	return strings.TrimPrefix(string(line), "#!")
}

// among reports whether the script is among the first arguments of a process.
func (t Target) among(pid int) bool {
	proc := "/proc/" + strconv.Itoa(pid)
	line, err := os.ReadFile(proc + "/cmdline")
	if err != nil {
		return false
	}
	cwd, err := os.Readlink(proc + "/cwd")
	if err != nil {
		return false
	}
	args := strings.Split(string(line), "\x00")
	for _, arg := range args[min(1, len(args)):min(1+scriptArgs, len(args))] {
		if !filepath.IsAbs(arg) {
			arg = filepath.Join(cwd, arg)
		}
		if real, err := filepath.EvalSymlinks(arg); err == nil && real == t.Canonical {
			return true
		}
	}
	return false
}
