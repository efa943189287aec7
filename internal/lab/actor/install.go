//go:build linux

package actor

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
)

//go:generate sh src/build.sh

// Install writes the actor to path, as a package manager would: complete, and then renamed over what was there.
func Install(path string) error {
	return install(actorELF, path)
}

// InstallProbe writes the probe to path, like [Install].
func InstallProbe(path string) error {
	return install(probeELF, path)
}

// InstallProbe32 writes the probe as a 32-bit program to path, like [Install].
func InstallProbe32(path string) error {
	return install(probe32ELF, path)
}

// InstallScript writes a script to path whose interpreter is the actor (or anything else) at interpreter.
func InstallScript(path, interpreter string) error {
	return install([]byte("#!"+interpreter+"\n"), path)
}

func install(image []byte, path string) error {
	if len(image) == 0 {
		return errors.New("install actor: no test program for this machine")
	}
	if err := writeExecutable(image, path); err != nil {
		return fmt.Errorf("install actor: %w", err)
	}
	return nil
}

// writeExecutable holds ForkLock while it has the file open for writing: a child that another goroutine forks in
// that moment would hold it too, and executing the file would fail with ETXTBSY.
func writeExecutable(image []byte, path string) error {
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	f, err := os.CreateTemp(filepath.Dir(path), ".actor-*")
	if err != nil {
		return err
	}
	_, err = f.Write(image)
	err = errors.Join(err, f.Chmod(0o755), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		err = errors.Join(err, os.Remove(f.Name()))
	}
	return err
}

// A ProbeKind is what a probe does.
type ProbeKind string

// The kinds of probe.
const (
	ProbeUDP ProbeKind = "udp" // a datagram
	ProbeTCP ProbeKind = "tcp" // a connection, given up after three seconds
	ProbeSYN ProbeKind = "syn" // a connection begun and abandoned: one SYN
)

// ProbeArgs returns the arguments, without the program's name, of a probe that does kind to addr count times. Its exit
// status is the errno of what failed first.
func ProbeArgs(kind ProbeKind, addr netip.AddrPort, count int) []string {
	return []string{string(kind), SockaddrHex(addr), strconv.Itoa(count)}
}
