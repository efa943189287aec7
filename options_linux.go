package sidestep

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"

	"golang.org/x/sys/unix"

	"sidestep/internal/mountinfo"
	"sidestep/internal/route"
	"sidestep/policy"
)

// DefaultState is where an engine keeps its policy unless it is told otherwise.
const DefaultState = "/var/lib/sidestep"

// bpffs is where a BPF file system is mounted if the machine has none.
const bpffs = "/sys/fs/bpf"

// Options are what an [Engine] is told. The zero value is good: everything is found, and every number has a default.
type Options struct {
	// State is the directory for the policy and for what has to be put back. It also names the pins, so engines in
	// different network namespaces have one each. Default: DefaultState.
	State string
	// Exclude are apps that are excluded from the start, beside those in the state directory.
	Exclude policy.Policy
	// Tunnels names the VPN's interfaces; empty: they are found.
	Tunnels []string
	// Uplink names the interface that excluded programs leave by; empty: it is found.
	Uplink string
	// Strict keeps included programs off the uplink too, while there is a tunnel: they may speak to local networks there
	// and to nobody else. It needs Linux 6.15. What carries a mark is left alone, as the VPN's own transport.
	Strict bool
	// MarkMask is the band of packet mark bits that the engine may use: at least two, in one piece. Default: 0x70000000.
	MarkMask uint32
	// Table, Priority and Protocol are the numbers of the routing table, of the first of two routing rules, and of
	// the owner of both. Defaults: 28416, 90, 83.
	Table, Priority uint32
	Protocol        uint8
	// Log receives what the engine does, a sentence each. Default: nothing is logged.
	Log *slog.Logger
}

// withDefaults fills in what was left out, and says what is wrong.
func (o Options) withDefaults() (Options, error) {
	if o.State == "" {
		o.State = DefaultState
	}
	state, err := filepath.Abs(o.State)
	if err != nil {
		return o, fmt.Errorf("state directory: %w", err)
	}
	o.State = state
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if err := o.routing().Validate(); err != nil {
		return o, err
	}
	return o, nil
}

func (o Options) routing() route.Config {
	c := route.DefaultConfig()
	c.Tunnels, c.Uplink = o.Tunnels, o.Uplink
	if o.MarkMask != 0 {
		c.Mask = o.MarkMask
	}
	if o.Table != 0 {
		c.Table = o.Table
	}
	if o.Priority != 0 {
		c.Priority = o.Priority
	}
	if o.Protocol != 0 {
		c.Protocol = o.Protocol
	}
	return c
}

// pinsOf names the pin directory of a state directory.
func pinsOf(mount, state string) string {
	if state == DefaultState {
		return filepath.Join(mount, "sidestep")
	}
	sum := sha256.Sum256([]byte(state))
	return filepath.Join(mount, "sidestep-"+hex.EncodeToString(sum[:6]))
}

// errNoBPFFS: pins have no place.
var errNoBPFFS = errors.New("no BPF file system is mounted")

// mountBPF returns where the BPF file system is, and mounts one if there is none.
func mountBPF(log *slog.Logger) (string, error) {
	mount, err := mountinfo.BPFFS()
	if !errors.Is(err, mountinfo.ErrNoBPFFS) {
		return mount, err
	}
	if err := unix.Mount("bpf", bpffs, "bpf", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0700"); err != nil {
		return "", fmt.Errorf("%w, and none can be mounted on %s: %w", errNoBPFFS, bpffs, err)
	}
	log.Info("mounted a BPF file system", "on", bpffs)
	return bpffs, nil
}
