package actor

import _ "embed"

//go:embed bin/actor_amd64
var actorELF []byte

//go:embed bin/probe_amd64
var probeELF []byte

// The probe as a 32-bit program.
//
//go:embed bin/probe_386
var probe32ELF []byte

//go:embed bin/flood_amd64
var floodELF []byte

//go:embed bin/timed_amd64
var timedELF []byte
