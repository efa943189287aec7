//go:build deaf

package datapath

import (
	"fmt"
	"os"
	"strconv"

	"github.com/cilium/ebpf"
)

// deafen sets how many events in a hundred the tracepoints lose, from the environment: all, unless it says otherwise.
func deafen(spec *ebpf.CollectionSpec) error {
	s, ok := os.LookupEnv("SIDESTEP_DEAF_PERCENT")
	if !ok {
		return nil
	}
	percent, err := strconv.ParseUint(s, 10, 32)
	if err != nil {
		return fmt.Errorf("SIDESTEP_DEAF_PERCENT: %w", err)
	}
	if err := spec.Variables["deaf_percent"].Set(uint32(percent)); err != nil {
		return fmt.Errorf("set deaf_percent: %w", err)
	}
	return nil
}
