package main

import _ "embed"

//go:embed bin/load_amd64
var loadELF []byte
