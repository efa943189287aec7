//go:build elder

package datapath

import "github.com/cilium/ebpf"

// abiVersion is that of a version before this one.
const abiVersion = 1

// age gives maps other sizes than they have now, as a version before this one might have had.
func age(spec *ebpf.CollectionSpec) {
	for _, name := range []string{"apps", "names", "rules", "labels", "links"} {
		spec.Maps[name].MaxEntries /= 2
	}
}
