package policy

import "fmt"

// A Verdict says what a process is. The zero value is Included.
type Verdict uint8

const (
	// Included: the process's new sockets follow the system's routes, into the tunnel.
	Included Verdict = iota
	// Excluded: its new sockets leave by the uplink, or not at all.
	Excluded
	// Undecided: the process belongs to an excluded app, but that could not be recorded. Its sockets are refused.
	Undecided
)

var verdicts = [...]string{"included", "excluded", "undecided"}

func (v Verdict) String() string { return name(verdicts[:], uint8(v), "verdict") }

// MarshalText writes the verdict as the contract spells it.
func (v Verdict) MarshalText() ([]byte, error) { return []byte(v.String()), nil }

// UnmarshalText reads what MarshalText wrote.
func (v *Verdict) UnmarshalText(b []byte) error { return parse(verdicts[:], b, (*uint8)(v), "verdict") }

// A Cause says why a process has its verdict. The zero value is Default.
type Cause uint8

const (
	// Default: nothing in the policy speaks of the process.
	Default Cause = iota
	// Listed: an app of the policy names the process's executable (or script).
	Listed
	// Inherited: the process descends from one of an excluded app, or was one before its last exec.
	Inherited
	// Launched: `sidestep run` started it or one of its ancestors.
	Launched
)

var causes = [...]string{"default", "listed", "inherited", "launched"}

func (c Cause) String() string { return name(causes[:], uint8(c), "cause") }

// MarshalText writes the cause as the contract spells it.
func (c Cause) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// UnmarshalText reads what MarshalText wrote.
func (c *Cause) UnmarshalText(b []byte) error { return parse(causes[:], b, (*uint8)(c), "cause") }

func name(names []string, v uint8, what string) string {
	if int(v) < len(names) {
		return names[v]
	}
	return fmt.Sprintf("%s(%d)", what, v)
}

func parse(names []string, b []byte, v *uint8, what string) error {
	for i, n := range names {
		if n == string(b) {
			*v = uint8(i)
			return nil
		}
	}
	return fmt.Errorf("unknown %s %q", what, b)
}
