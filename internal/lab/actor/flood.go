//go:build linux

package actor

import (
	"encoding/binary"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// A FloodKind says what sockets one thread of a flood has.
type FloodKind string

// The kinds of flood.
const (
	FloodTCP    FloodKind = "tcp"    // connections, to somebody who echoes
	FloodUDP    FloodKind = "udp"    // connected datagram sockets
	FloodSendTo FloodKind = "sendto" // datagram sockets that are not connected
)

// A FloodLine is one thread of a flood. No two of its sockets send to the same address: they number the last three
// bytes of To.
type FloodLine struct {
	Kind FloodKind
	To   netip.AddrPort
}

// A Flood is a process that sends without a break, from sockets of every age, and tries again whatever goes wrong.
// Its sockets are described in src/flood.c.
type Flood struct {
	cmd     *exec.Cmd
	tallies *os.File
	lines   []FloodLine
}

// InstallFlood writes the flood to path, like [Install].
func InstallFlood(path string) error {
	return install(floodELF, path)
}

// StartFlood starts the flood that is installed at path. start starts the command instead of (*exec.Cmd).Start, for
// example in another network namespace.
func StartFlood(path string, lines []FloodLine, start func(*exec.Cmd) error) (*Flood, error) {
	fd, err := unix.MemfdCreate("tallies", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("start flood: %w", os.NewSyscallError("memfd_create", err))
	}
	f := &Flood{cmd: exec.Command(path), tallies: os.NewFile(uintptr(fd), "tallies"), lines: lines}
	for _, l := range lines {
		f.cmd.Args = append(f.cmd.Args, string(l.Kind), SockaddrHex(l.To))
	}
	f.cmd.ExtraFiles = []*os.File{f.tallies}
	err = f.tallies.Truncate(int64(len(lines) * tallySize))
	if err == nil {
		err = start(f.cmd)
	}
	if err != nil {
		_ = f.tallies.Close()
		return nil, fmt.Errorf("start flood: %w", err)
	}
	return f, nil
}

// Stop ends the flood, and returns when it has ended.
func (f *Flood) Stop() error {
	defer f.tallies.Close()
	if err := f.cmd.Process.Kill(); err != nil {
		return fmt.Errorf("stop flood: %w", err)
	}
	err := f.cmd.Wait()
	if f.cmd.ProcessState.Exited() {
		return fmt.Errorf("stop flood: it had ended: %w", err)
	}
	return nil
}

// A Tally is what one thread of a flood has done so far.
type Tally struct {
	FloodLine
	Rounds  uint64                // it has tried all of its sockets so often
	Sockets uint64                // so many have been in use
	Sent    uint64                // datagrams, or as much on connections
	Errors  map[unix.Errno]uint64 // of what it could not send, and what its sockets said when it looked for answers
}

// tallySize is the size of struct tally.
const tallySize = 2048

// Tallies returns what each thread has done so far.
func (f *Flood) Tallies() ([]Tally, error) {
	b := make([]byte, len(f.lines)*tallySize)
	if _, err := f.tallies.ReadAt(b, 0); err != nil {
		return nil, fmt.Errorf("read tallies of flood: %w", err)
	}
	tallies := make([]Tally, len(f.lines))
	for i, l := range f.lines {
		words := b[i*tallySize : (i+1)*tallySize]
		word := func(i int) uint64 { return binary.NativeEndian.Uint64(words[8*i:]) }
		t := Tally{l, word(0), word(1), word(2), map[unix.Errno]uint64{}}
		for j := 3; j < tallySize/8; j++ {
			if n := word(j); n != 0 {
				t.Errors[unix.Errno(j-2)] = n
			}
		}
		tallies[i] = t
	}
	return tallies, nil
}

// String returns the tally as one line.
func (t Tally) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s to %v: %d rounds, %d sockets, %d sent", t.Kind, t.To, t.Rounds, t.Sockets, t.Sent)
	for _, errno := range slices.Sorted(maps.Keys(t.Errors)) {
		fmt.Fprintf(&b, ", %d %s", t.Errors[errno], unix.ErrnoName(errno))
	}
	return b.String()
}
