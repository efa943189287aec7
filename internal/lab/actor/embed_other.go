//go:build linux && !amd64 && !arm64

package actor

// No test programs for this machine: install says so.
var actorELF, floodELF, probeELF, probe32ELF, timedELF []byte
