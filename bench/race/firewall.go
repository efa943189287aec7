package main

import (
	"fmt"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"

	"sidestep/internal/lab"
)

// connMark tells the connections of excluded programs from all others.
const connMark = 0xf41

// A firewall sends the packets of a class out by the uplink:
//
//	chain output { type route hook output priority mangle; meta cgroup CLASS ct mark set CONN meta mark set MARK }
//	chain postrouting { type nat hook postrouting priority srcnat; ct mark CONN masquerade }
//
// The mark is that of the tunnel's own transport, which the routing rules of wg-quick let pass by the tunnel. It comes
// when the packet has its source address already, hence the masquerade.
type firewall struct {
	world *lab.World
	table *nftables.Table
}

func newFirewall(w *lab.World) (*firewall, error) {
	f := &firewall{w, &nftables.Table{Family: nftables.TableFamilyIPv4, Name: "race"}}
	err := f.commit(func(c *nftables.Conn) {
		c.AddTable(f.table)
		output := c.AddChain(&nftables.Chain{
			Table: f.table, Name: "output", Type: nftables.ChainTypeRoute,
			Hooknum: nftables.ChainHookOutput, Priority: nftables.ChainPriorityMangle,
		})
		c.AddRule(&nftables.Rule{Table: f.table, Chain: output, Exprs: []expr.Any{
			&expr.Meta{Key: expr.MetaKeyCGROUP, Register: 1},
			equals(classID),
			number(connMark),
			&expr.Ct{Key: expr.CtKeyMARK, Register: 1, SourceRegister: true},
			number(lab.Fwmark),
			&expr.Meta{Key: expr.MetaKeyMARK, Register: 1, SourceRegister: true},
		}})
		postrouting := c.AddChain(&nftables.Chain{
			Table: f.table, Name: "postrouting", Type: nftables.ChainTypeNAT,
			Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource,
		})
		c.AddRule(&nftables.Rule{Table: f.table, Chain: postrouting, Exprs: []expr.Any{
			&expr.Ct{Key: expr.CtKeyMARK, Register: 1},
			equals(connMark),
			&expr.Masq{},
		}})
	})
	if err != nil {
		return nil, fmt.Errorf("add nftables rules: %w", err)
	}
	return f, nil
}

func (f *firewall) remove() error {
	err := f.commit(func(c *nftables.Conn) { c.DelTable(f.table) })
	if err != nil {
		return fmt.Errorf("remove nftables rules: %w", err)
	}
	return nil
}

// commit makes changes on the machine, all or none.
func (f *firewall) commit(change func(*nftables.Conn)) error {
	return f.world.Machine.Do(func() error {
		c, err := nftables.New()
		if err != nil {
			return err
		}
		change(c)
		return c.Flush()
	})
}

// equals goes on if register 1 holds n.
func equals(n uint32) expr.Any {
	return &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.NativeEndian.PutUint32(n)}
}

// number puts n into register 1.
func number(n uint32) expr.Any {
	return &expr.Immediate{Register: 1, Data: binaryutil.NativeEndian.PutUint32(n)}
}
