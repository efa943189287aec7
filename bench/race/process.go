package main

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// A process is what a tracker learns of one by looking at /proc.
type process struct {
	parent int
	exe    string // "" for kernel threads
}

// readProcesses looks at all processes. Those that end meanwhile are left out.
func readProcesses() (map[int]process, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	all := map[int]process{}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if parent, ok := parentOf(pid); ok {
			all[pid] = process{parent, exeOf(pid)}
		}
	}
	return all, nil
}

func exeOf(pid int) string {
	exe, _ := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid)) // a kernel thread has none, nor a process that has ended
	return exe
}

// parentOf reads the second field behind the name, which may hold anything.
func parentOf(pid int) (int, bool) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, false
	}
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(fields) < 2 {
		return 0, false
	}
	parent, err := strconv.Atoi(fields[1])
	return parent, err == nil
}
