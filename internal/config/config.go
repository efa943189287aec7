// Package config reads sidestep.toml: what the daemon is told before anybody talks to it.
//
// The file is read strictly. Every mistake is an [Error] that says where it is and, where it can, what was meant.
package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"sidestep/policy"
)

const (
	// DefaultFile is read unless the daemon is told otherwise. It may be missing.
	DefaultFile = "/etc/sidestep/sidestep.toml"
	// DefaultState is where the daemon keeps the policy unless it is told otherwise.
	DefaultState = "/var/lib/sidestep"
)

// maxFile bounds what is read of a file that is no configuration at all.
const maxFile = 16 << 20

// A Config is what the file says. What it does not say is the zero value, and means the engine's default.
type Config struct {
	// Exclude are apps to merge into the policy at start and at reload.
	Exclude policy.Policy
	// Tunnels names the VPN's interfaces; empty: find them.
	Tunnels []string
	// Uplink names the interface that excluded programs leave by; empty: follow the default route.
	Uplink string
	// Strict keeps included programs off the uplink too.
	Strict bool
	// Socket and State say where the daemon listens and where it keeps the policy.
	Socket, State string
	// MarkMask is the band of bits in packet marks that the engine may use.
	MarkMask uint32
	// Table, Priority and Protocol are the numbers of the routing table, the rules and the owner of both.
	Table    uint32
	Priority int
	Protocol int
}

// An Error is a mistake in the file. Line and Column count from 1 and are 0 where the whole file is meant.
type Error struct {
	File         string
	Line, Column int
	Message      string
	Hint         string
	Err          error // what lies below, if anything
}

func (e *Error) Error() string {
	if e.Line == 0 {
		return fmt.Sprintf("%s: %s", e.File, e.Message)
	}
	return fmt.Sprintf("%s:%d:%d: %s", e.File, e.Line, e.Column, e.Message)
}

// Unwrap returns what lies below.
func (e *Error) Unwrap() error { return e.Err }

// Load reads a file that must be there.
func Load(file string) (Config, error) {
	st, err := os.Stat(file)
	if err != nil {
		return Config{}, unreadable(file, err)
	}
	if st.Size() > maxFile {
		return Config{}, &Error{File: file, Message: fmt.Sprintf("file is larger than %d bytes", maxFile)}
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return Config{}, unreadable(file, err)
	}
	return Parse(file, data)
}

// LoadDefault reads a file that may be missing: then all is default.
func LoadDefault(file string) (Config, error) {
	c, err := Load(file)
	if errors.Is(err, fs.ErrNotExist) {
		return Config{}, nil
	}
	return c, err
}

func unreadable(file string, err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		err = pe.Err
	}
	return &Error{File: file, Message: "read configuration: " + err.Error(), Err: err}
}
