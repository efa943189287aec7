//go:build !elder

package datapath

import "github.com/cilium/ebpf"

// abiVersion is ABI_VERSION of bpf/abi.h: the layout of the pinned maps.
const abiVersion = 3

// age does nothing: only a build with the tag elder passes for the version before this one.
func age(*ebpf.CollectionSpec) {}
