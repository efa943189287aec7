// Package api is what the daemon and its clients say to each other: the wire types and a client.
//
// The daemon serves HTTP with JSON bodies on a unix socket; docs/api.md describes every call. The package imports
// nothing but the standard library and package policy, so that a VPN client can embed it on any system.
package api

import (
	"fmt"
	"net/netip"
	"time"

	"sidestep/policy"
)

// Version is the version of every JSON document. It grows only when a document changes its meaning; new fields
// do not change it.
const Version = 1

// DefaultSocket is where the daemon listens unless it is told otherwise.
const DefaultSocket = "/run/sidestep/control.sock"

// A State is what the engine as a whole is doing.
type State string

const (
	// Starting: the engine is not yet in force.
	Starting State = "starting"
	// Ready: the policy is in force, and there is no tunnel to step aside from.
	Ready State = "ready"
	// Engaged: the policy is in force and a tunnel exists.
	Engaged State = "engaged"
	// Degraded: something of the policy can't be enforced; Warnings say what.
	Degraded State = "degraded"
)

// Status answers GET /v1/status.
type Status struct {
	Version int      `json:"version"`
	State   State    `json:"state"`
	Tunnels []string `json:"tunnels"`
	Uplink  Uplink   `json:"uplink"`
	// Counters grow from the moment the datapath was first loaded; docs/api.md names each.
	Counters map[string]uint64 `json:"counters"`
	Warnings []string          `json:"warnings"`
}

// Uplink names the interface that excluded programs leave by, per address family; empty where there is none.
type Uplink struct {
	IPv4 string `json:"ipv4"`
	IPv6 string `json:"ipv6"`
}

// AppState says whether an app's path leads to a program now.
type AppState string

const (
	// Active: the path exists, and programs at it are excluded.
	Active AppState = "active"
	// Missing: nothing is at the path yet; what appears there is excluded from its first start.
	Missing AppState = "missing"
)

// App is one entry of the policy.
type App struct {
	Path string `json:"path"`
	// Resolved is the path with its symbolic links followed, where that differs from Path.
	Resolved string   `json:"resolved,omitempty"`
	State    AppState `json:"state"`
	// Script: the path is a script; programs that run it by path are matched by that name.
	Script bool `json:"script,omitempty"`
	// Processes counts the live processes that this app excludes.
	Processes int `json:"processes"`
}

// Apps answers GET /v1/apps.
type Apps struct {
	Version int   `json:"version"`
	Apps    []App `json:"apps"`
}

// Process is one live process.
type Process struct {
	PID     int            `json:"pid"`
	PPID    int            `json:"ppid,omitempty"`
	Exe     string         `json:"exe"`
	Verdict policy.Verdict `json:"verdict"`
	Cause   policy.Cause   `json:"cause"`
	// App is the path of the app that decides: "sidestep run" when the cause is launched, empty when it is default.
	App string `json:"app"`
}

// Processes answers GET /v1/processes.
type Processes struct {
	Version   int       `json:"version"`
	Processes []Process `json:"processes"`
}

// Explanation answers GET /v1/explain.
type Explanation struct {
	Version int `json:"version"`
	// PID is set when a process was asked about.
	PID     int            `json:"pid,omitempty"`
	Exe     string         `json:"exe,omitempty"`
	Path    string         `json:"path,omitempty"`
	Verdict policy.Verdict `json:"verdict"`
	Cause   policy.Cause   `json:"cause"`
	App     string         `json:"app"`
	// Sentence says it in words.
	Sentence string `json:"sentence"`
}

// Paths is the body of POST /v1/exclude, POST /v1/include and PUT /v1/apps (the whole policy).
type Paths struct {
	Paths []string `json:"paths"`
}

// A Change says what a POST /v1/exclude, /v1/include or PUT /v1/apps did to one path.
type Change struct {
	Path string `json:"path"`
	// Result is "excluded", "included" or "unchanged".
	Result string   `json:"result"`
	State  AppState `json:"state,omitempty"`
	// Script as in [App].
	Script bool `json:"script,omitempty"`
}

// Launched answers POST /v1/launch.
type Launched struct {
	Version int `json:"version"`
	// PID is the process that is excluded from now on: the one that opened the connection.
	PID int `json:"pid"`
}

// Changes answers the calls that change the policy.
type Changes struct {
	Version int      `json:"version"`
	Changes []Change `json:"changes"`
}

// EventKind names what happened. Clients ignore kinds they do not know.
type EventKind string

const (
	// EventClassified: a process became excluded (at exec, at fork, or because the policy changed).
	EventClassified EventKind = "classified"
	// EventGone: an excluded process ended.
	EventGone EventKind = "gone"
	// EventExcluded and EventIncluded: an app was added to the policy, or taken out.
	EventExcluded EventKind = "excluded"
	EventIncluded EventKind = "included"
	// EventCut: a connection was closed because its app had changed sides; Flow says which.
	EventCut EventKind = "cut"
	// EventStopped: the guard stopped packets of a socket, at least the one in Flow; Text names the counter. There is at
	// most one such event for each socket in a second.
	EventStopped EventKind = "stopped"
	// EventRefused: the datapath refused a socket, or what a program wanted to do with one; Text says why.
	EventRefused EventKind = "refused"
	// EventNetwork: tunnels or uplinks changed; Text says how.
	EventNetwork EventKind = "network"
	// EventState: the engine changed its state.
	EventState EventKind = "state"
	// EventLost: Lost events before this one did not fit into a buffer.
	EventLost EventKind = "lost"
)

// An Event is one line of GET /v1/events. The first line of every stream is an [EventState] that says the state
// in Text: whoever has read it misses nothing that happens from then on.
type Event struct {
	Version int           `json:"version"`
	Time    time.Time     `json:"time"`
	Kind    EventKind     `json:"kind"`
	PID     int           `json:"pid,omitempty"`
	PPID    int           `json:"ppid,omitempty"`
	Exe     string        `json:"exe,omitempty"`
	Cause   *policy.Cause `json:"cause,omitempty"`
	App     string        `json:"app,omitempty"`
	Lost    uint64        `json:"lost,omitempty"`
	Text    string        `json:"text,omitempty"`
	Flow    *Flow         `json:"flow,omitempty"`
}

// A Flow is what was, or was to be, between a program and somebody else.
type Flow struct {
	// Protocol is "tcp", "udp" or the number of another one.
	Protocol string         `json:"protocol"`
	Local    netip.AddrPort `json:"local"`
	Remote   netip.AddrPort `json:"remote"`
}

func (f Flow) String() string { return fmt.Sprintf("%s %v > %v", f.Protocol, f.Local, f.Remote) }

// ErrorCode is the machine-readable reason of an [Error].
type ErrorCode string

const (
	CodeBadPath     ErrorCode = "bad-path"     // 400; exit 64
	CodeBadRequest  ErrorCode = "bad-request"  // 400, 405, 413 or 415; exit 64
	CodeForbidden   ErrorCode = "forbidden"    // 403; exit 77
	CodeNotFound    ErrorCode = "not-found"    // 404; exit 1
	CodeUnavailable ErrorCode = "unavailable"  // 503; exit 1: the engine is starting or stopping
	CodeInternal    ErrorCode = "could-not-do" // 500; exit 1
)

// An Error is the body of every answer that is not 2xx, and what the client returns for it.
type Error struct {
	Code    ErrorCode `json:"code"`
	Message string    `json:"message"`
	Hint    string    `json:"hint,omitempty"`
}

func (e *Error) Error() string { return e.Message }

// Is makes a daemon's refusal match [ErrNotPermitted].
func (e *Error) Is(target error) bool { return target == ErrNotPermitted && e.Code == CodeForbidden }
