package actor

import _ "embed"

//go:embed bin/actor_amd64
var actorELF []byte

//go:embed bin/probe_amd64
var probeELF []byte

//go:embed bin/flood_amd64
var floodELF []byte
