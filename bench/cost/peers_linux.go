package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"syscall"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"sidestep/internal/lab"
	"sidestep/internal/mountinfo"
)

// The other ways to let a program step aside, each as its makers do it, and built for what a packet costs there.

// namespaceAndNAT is vopono's way: the program lives in a network namespace behind a veth pair; the machine forwards and
// masquerades what comes from there.
func (b *bench) namespaceAndNAT() subject {
	on := func(context.Context) (func(*op) (float64, error), func() error, error) {
		app, err := lab.NewNamespace()
		if err != nil {
			return nil, nil, err
		}
		err = errors.Join(b.joinMachine(app), b.masquerade(nil))
		do := func(o *op) (float64, error) { return b.do(app, o) }
		off := func() error { return errors.Join(b.flush(), app.Close()) }
		if err != nil {
			return nil, nil, errors.Join(err, off())
		}
		return do, off, nil
	}
	return subject{name: "namespace and NAT", on: on, fits: b.toLAN}
}

const inner, outer = "10.200.200.2/24", "10.200.200.1/24"

// joinMachine joins a namespace to the machine, which forwards for it.
func (b *bench) joinMachine(app *lab.Namespace) error {
	err := b.world.Machine.Do(func() error {
		veth := &netlink.Veth{LinkAttrs: netlink.NewLinkAttrs(), PeerName: "app1", PeerNamespace: netlink.NsFd(int(nsFD(app)))}
		veth.Name = "app0"
		return errors.Join(netlink.LinkAdd(veth), up("app0", outer),
			os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0))
	})
	if err != nil {
		return fmt.Errorf("join the program's namespace to the machine: %w", err)
	}
	return app.Do(func() error {
		if err := up("app1", inner); err != nil {
			return err
		}
		gateway, _, err := net.ParseCIDR(outer)
		if err != nil {
			return err
		}
		return netlink.RouteAdd(&netlink.Route{Gw: gateway})
	})
}

// up gives a link of this thread's namespace its address and sets it up.
func up(name, address string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	addr, err := netlink.ParseAddr(address)
	if err != nil {
		return err
	}
	return errors.Join(netlink.AddrAdd(link, addr), netlink.LinkSetUp(link))
}

// cgroupAndMarks is the way of mullvad-exclude: the program is started in a cgroup, whose packets nftables marks on their
// way out and masquerades, as their source address was chosen before.
func (b *bench) cgroupAndMarks() subject {
	on := func(context.Context) (func(*op) (float64, error), func() error, error) {
		root, err := mountinfo.Cgroup2Root()
		if err != nil {
			return nil, nil, err
		}
		path := filepath.Join(root, "sidestep-cost-"+strconv.Itoa(os.Getpid()))
		if err := os.Mkdir(path, 0o755); err != nil {
			return nil, nil, err
		}
		dir, err := os.Open(path)
		if err != nil {
			return nil, nil, errors.Join(err, os.Remove(path))
		}
		off := func() error { return errors.Join(b.flush(), dir.Close(), os.Remove(path)) }
		if err := b.masquerade(dir); err != nil {
			return nil, nil, errors.Join(err, off())
		}
		do := func(o *op) (float64, error) { return b.doIn(dir, o) }
		return do, off, nil
	}
	return subject{name: "cgroup and nftables", on: on, fits: b.toLAN}
}

// doIn measures one op of a program that is born in a cgroup.
func (b *bench) doIn(cgroup *os.File, o *op) (float64, error) {
	cmd := command(b.other, o.load, o.count, b.parts(), o.args)
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(cgroup.Fd())}
	return measure(b.world.Machine, cmd, o.count)
}

// masquerade has the machine translate what it forwards; with a cgroup also what programs in that send, once it is marked.
func (b *bench) masquerade(cgroup *os.File) error {
	c, err := nftables.New(nftables.WithNetNSFd(int(nsFD(b.world.Machine))))
	if err != nil {
		return err
	}
	t := c.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: "aside"})
	nat := c.AddChain(&nftables.Chain{Name: "nat", Table: t, Type: nftables.ChainTypeNAT,
		Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource})
	if cgroup == nil {
		name := make([]byte, unix.IFNAMSIZ)
		copy(name, lab.UplinkName)
		c.AddRule(&nftables.Rule{Table: t, Chain: nat, Exprs: []expr.Any{
			&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: 1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: name},
			&expr.Masq{},
		}})
		return c.Flush()
	}
	mark := binaryutil.NativeEndian.PutUint32(lab.Fwmark)
	var st unix.Stat_t
	if err := unix.Fstat(int(cgroup.Fd()), &st); err != nil {
		return err
	}
	id := make([]byte, 8)
	binary.NativeEndian.PutUint64(id, st.Ino)
	out := c.AddChain(&nftables.Chain{Name: "mark", Table: t, Type: nftables.ChainTypeRoute,
		Hooknum: nftables.ChainHookOutput, Priority: nftables.ChainPriorityMangle})
	c.AddRule(&nftables.Rule{Table: t, Chain: out, Exprs: []expr.Any{
		&expr.Socket{Key: expr.SocketKeyCgroupv2, Level: 1, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: id},
		&expr.Immediate{Register: 1, Data: mark},
		&expr.Ct{Key: expr.CtKeyMARK, Register: 1, SourceRegister: true},
		&expr.Meta{Key: expr.MetaKeyMARK, Register: 1, SourceRegister: true},
	}})
	c.AddRule(&nftables.Rule{Table: t, Chain: nat, Exprs: []expr.Any{
		&expr.Ct{Key: expr.CtKeyMARK, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: mark},
		&expr.Masq{},
	}})
	return c.Flush()
}

// flush removes every table of the machine, and connection tracking with them.
func (b *bench) flush() error {
	c, err := nftables.New(nftables.WithNetNSFd(int(nsFD(b.world.Machine))))
	if err != nil {
		return err
	}
	c.FlushRuleset()
	return c.Flush()
}

// nsFD is the descriptor of a namespace, which lives as long as that.
func nsFD(n *lab.Namespace) uintptr {
	var fd uintptr
	fmt.Sscanf(filepath.Base(n.Path()), "%d", &fd)
	return fd
}
