package datapath

import (
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"
)

// Permit says by which links the packets of excluded programs may pass, and which addresses this machine has on those
// and on no tunnel. Everything else the guard takes for a tunnel: also links that appear later.
func (d *Datapath) Permit(links []int, addresses []netip.Addr) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	indexes := map[uint32]uint32{}
	for _, l := range links {
		indexes[uint32(l)] = 1
	}
	if err := replace(d.objs.Links, indexes); err != nil {
		return fmt.Errorf("tell the guard of links: %w", err)
	}
	keys := map[[16]byte]uint32{}
	for _, a := range addresses {
		keys[a.As16()] = 1
	}
	if err := replace(d.objs.Addresses, keys); err != nil {
		return fmt.Errorf("tell the guard of addresses: %w", err)
	}
	return nil
}

// replace makes the map hold want. What is to go goes first: it is what must not be used.
func replace[K comparable](m *ebpf.Map, want map[K]uint32) error {
	have, err := contents[K](m)
	if err != nil {
		return err
	}
	if err := drop(m, have, want); err != nil {
		return err
	}
	return put(m, have, want)
}
