package doctor

import (
	"errors"
	"fmt"
	"os"
	"path"
	"strconv"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// processes lists the pids of every name.
func (h host) processes() (map[string][]int, error) {
	entries, err := os.ReadDir(path.Join(h.root, "/proc"))
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	procs := map[string][]int{}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if comm, err := h.read(path.Join("/proc", e.Name(), "comm")); err == nil {
			procs[comm] = append(procs[comm], pid)
		}
	}
	return procs, nil
}

// nftGetTable asks nftables for its tables (nf_tables.h).
const (
	nftGetTable  = unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETTABLE
	nftTableName = 1 // NFTA_TABLE_NAME
)

// nftables lists the names of the nftables tables; none where the kernel has no nftables.
func nftables() ([]string, error) {
	req := nl.NewNetlinkRequest(nftGetTable, unix.NLM_F_DUMP)
	req.AddData(&nl.Nfgenmsg{NfgenFamily: unix.AF_UNSPEC})
	msgs, err := req.Execute(unix.NETLINK_NETFILTER, 0)
	switch {
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EPROTONOSUPPORT):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("list nftables: %w", err)
	}
	var names []string
	for _, m := range msgs {
		if len(m) < nl.SizeofNfgenmsg {
			continue
		}
		attrs, err := nl.ParseRouteAttr(m[nl.SizeofNfgenmsg:])
		if err != nil {
			return nil, fmt.Errorf("list nftables: %w", err)
		}
		for _, a := range attrs {
			if a.Attr.Type == nftTableName {
				names = append(names, unix.ByteSliceToString(a.Value))
			}
		}
	}
	return names, nil
}
