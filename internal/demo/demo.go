// Package demo is `sidestep demo`: the real daemon in a world of its own, and every packet of the programs in that world
// counted on both ways out of it.
//
//	outside: the command that the user started            inside: the same command again, with mounts of its own
//	  passes the inside's words on, and ^C to it  ──▶       World ── Machine: daemon, bank, browser, viewer
//	  dies ──▶ the kernel kills the inside                    │
//	                                                        story: one step after another, each proven on the wires
//
// Whatever is made is held by the inside: its mount namespace has the only BPF file system that the pins are in and the
// only directory that files are in, its descriptors are all there is of the network. Its death, however it comes, is
// the end of everything: the processes have asked the kernel to die with it, and pins and files go with the mounts.
package demo

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"

	"sidestep/internal/lab"
)

// Options say where the demo goes.
type Options struct {
	// Out gets the story, a line as soon as it is proven.
	Out io.Writer
	// Before, if any, is called before every step, with its name. That is how a test spoils what the demo is to prove.
	Before func(step string, machine *lab.Namespace) error
}

// Run plays the demo. It returns an error if a packet was on the wrong side, and one that wraps fs.ErrPermission
// without root. When ctx ends first, it returns the reason.
//
// The demo runs in a second process, started from /proc/self/exe with the arguments of this one. That one must come to
// Run too, with the same options, and the arguments "--socket S daemon" must make it the daemon.
func Run(ctx context.Context, o Options) error {
	if os.Geteuid() != 0 {
		return fmt.Errorf("demo needs root, for namespaces of its own and the kernel part; nothing outside is changed: %w",
			fs.ErrPermission)
	}
	inside, err := isInside()
	switch {
	case err != nil:
		return err
	case inside:
		return reportOutside(play(ctx, o))
	}
	return runInside(ctx, o.Out)
}
