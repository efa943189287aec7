package actor

import _ "embed"

//go:embed bin/actor_arm64
var actorELF []byte

//go:embed bin/probe_arm64
var probeELF []byte

//go:embed bin/flood_arm64
var floodELF []byte

//go:embed bin/timed_arm64
var timedELF []byte

var probe32ELF []byte // few machines run such programs
