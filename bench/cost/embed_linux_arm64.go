package main

import _ "embed"

//go:embed bin/load_arm64
var loadELF []byte
