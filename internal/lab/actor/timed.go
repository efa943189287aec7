//go:build linux

package actor

import (
	"net/netip"
	"time"
)

// Moments are when a timed program sends, counted from the first instruction of the program, and then again from the
// first instruction of its second thread.
func Moments() []time.Duration {
	const us = time.Microsecond
	return []time.Duration{0, 500 * us, 1000 * us, 2000 * us, 5000 * us, 10000 * us, 20000 * us, 50000 * us}
}

// A TimedOrder says what a timed program sends first.
type TimedOrder string

// The orders of a datagram and a SYN.
const (
	DatagramFirst TimedOrder = "ut"
	SYNFirst      TimedOrder = "tu"
)

// InstallTimed writes a program to path, like [Install], that sends a datagram and a SYN at each of [Moments], and ends.
func InstallTimed(path string) error {
	return install(timedELF, path)
}

// TimedArgs returns the arguments, without the program's name, of a timed program. What it sends at [Moments][i] goes to
// the port of base + i, and from its second thread to that + len(Moments()) + i. Its exit status is the errno of what
// failed first.
func TimedArgs(order TimedOrder, base netip.AddrPort) []string {
	return []string{string(order), SockaddrHex(base)}
}
