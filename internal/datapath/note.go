package datapath

import (
	"errors"
	"fmt"

	"sidestep/internal/datapath/bpf"
)

// errNoNote: a connection of an app would stay where it is, and nobody would know whose it is.
var errNoNote = errors.New("the kernel has no memory to note whose they are")

// noteSockets finds out whose the open sockets are, then whose they are not, and what the kernel has made for them. A note
// that found no memory may have been another's, of a socket that is just being made: only if that goes on is it an error.
func (d *Datapath) noteSockets() error {
	const tries = 5
	for range tries {
		before, err := d.unnoted()
		if err != nil {
			return err
		}
		if err := d.noteOnce(); err != nil {
			return fmt.Errorf("note open sockets: %w", err)
		}
		if now, err := d.unnoted(); err != nil || now == before {
			return err
		}
	}
	return fmt.Errorf("note open sockets: %w", errNoNote)
}

func (d *Datapath) noteOnce() error {
	if err := empty(d.objs.Mptcp); err != nil {
		return err
	}
	guessed, err := d.walk(d.objs.WalkNote)
	if err == nil && len(guessed) > 0 {
		_, err = d.walk(d.objs.WalkDisown)
	}
	if err != nil {
		return err
	}
	if key, err := d.objs.Mptcp.NextKeyBytes(nil); err != nil || key == nil {
		return err
	}
	return d.inside(func() error {
		_, err := d.walk(d.objs.WalkSubflow)
		return err
	})
}

// unnoted counts the notes that found no memory.
func (d *Datapath) unnoted() (uint64, error) { return d.stat(bpf.DatapathStatSTAT_NOTES_FAILED) }
