package doctor

import (
	"net/netip"
	"os"
	"path"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"sidestep/internal/mountinfo"
	"sidestep/internal/netmon"
	"sidestep/internal/route"
)

// fake makes a host of files; a text that starts with "-> " makes a link.
func fake(t *testing.T, files map[string]string) host {
	t.Helper()
	h := host{root: t.TempDir()}
	for name, text := range files {
		full := path.Join(h.root, name)
		if err := os.MkdirAll(path.Dir(full), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		if to, ok := strings.CutPrefix(text, "-> "); ok {
			err = os.Symlink(to, full)
		} else {
			err = os.WriteFile(full, []byte(text), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return h
}

func table(t *testing.T, text string) mountinfo.Table {
	t.Helper()
	m, err := mountinfo.Parse([]byte("1 0 0:1 / / rw - ext4 x rw\n" + text))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func status(caps string) map[string]string {
	return map[string]string{"/proc/thread-self/status": "Name:\tx\nCapPrm:\t0\nCapEff:\t" + caps + "\nCapBnd:\t0\n"}
}

func TestMachineLines(t *testing.T) {
	const ns = "/proc/self/ns/"
	lockdown := func(s string) host { return fake(t, map[string]string{"/sys/kernel/security/lockdown": s}) }
	for name, c := range map[string]struct {
		line   Line
		grade  Grade
		detail string
	}{
		"root":             {fake(t, status("000001ffffffffff")).privileges(), OK, "CAP_BPF"},
		"nobody":           {fake(t, status("0000000000000000")).privileges(), Missing, "lacks CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN"},
		"admin, no net":    {fake(t, status("0000000000280000")).privileges(), Missing, "lacks CAP_NET_ADMIN"},
		"the split ones":   {fake(t, status("000000c000081004")).privileges(), OK, ""},
		"no status":        {fake(t, nil).privileges(), Warn, "cannot tell"},
		"garbled status":   {fake(t, status("x")).privileges(), Warn, "cannot tell"},
		"first namespaces": {fake(t, map[string]string{ns + "pid": "-> pid:[4026531836]"}).namespaces(), OK, ""},
		"container":        {fake(t, map[string]string{ns + "pid": "-> pid:[4026532000]"}).namespaces(), Warn, "its own pid namespace"},
		"no lockdown":      {fake(t, nil).lockdown(), OK, "off"},
		"lockdown none":    {lockdown("[none] integrity confidentiality").lockdown(), OK, "off"},
		"integrity":        {lockdown("none [integrity] confidentiality\n").lockdown(), OK, "integrity"},
		"confidentiality":  {lockdown("none integrity [confidentiality]").lockdown(), Warn, "confidentiality"},
		"bpf for all":      {fake(t, map[string]string{"/proc/sys/kernel/unprivileged_bpf_disabled": "0\n"}).unprivileged(), Warn, "on"},
		"bpf for root":     {fake(t, map[string]string{"/proc/sys/kernel/unprivileged_bpf_disabled": "2\n"}).unprivileged(), OK, "off"},
		"cgroup2":          {cgroup2(table(t, "2 1 0:2 / /cg rw - cgroup2 x rw"), nil), OK, "/cg"},
		"no cgroup2":       {cgroup2(table(t, ""), nil), Missing, "no cgroup2"},
		"no mounts":        {cgroup2(mountinfo.Table{}, os.ErrPermission), Missing, "permission"},
		"bpffs":            {fake(t, nil).bpffs(table(t, "2 1 0:2 / /b rw - bpf x rw")), OK, "/b"},
		"bpffs can be":     {fake(t, map[string]string{"/proc/filesystems": "nodev\tbpf\n"}).bpffs(table(t, "")), Warn, "can be"},
		"bpffs cannot be":  {fake(t, map[string]string{"/proc/filesystems": "\text4\n"}).bpffs(table(t, "")), Missing, "none"},
		"net_cls":          {netCls(table(t, "2 1 0:2 / /nc rw - cgroup x rw,net_cls"), true), OK, "/nc"},
		"net_cls of old":   {netCls(table(t, "2 1 0:2 / /nc rw - cgroup x rw,net_cls"), false), Warn, "/nc"},
		"no net_cls":       {netCls(table(t, "2 1 0:2 / /nc rw - cgroup x rw,cpu"), false), OK, "not mounted"},
	} {
		if c.line.Grade != c.grade || !strings.Contains(c.line.Detail, c.detail) {
			t.Errorf("%s: %v %q, want %v %q", name, c.line.Grade, c.line.Detail, c.grade, c.detail)
		}
	}
}

func TestNetworkLines(t *testing.T) {
	snap := netmon.Snapshot{
		Links: []netmon.Link{{Index: 1, Name: "lo", Up: true, Running: true, Loopback: true},
			{Index: 2, Name: "eth0", Up: true, Running: true, RPFilter: 1},
			{Index: 3, Name: "wg0", Kind: "wireguard", Up: true, Running: true, PointToPoint: true}},
		Addrs: []netmon.Addr{{Link: 2, Prefix: netip.MustParsePrefix("192.0.2.2/24")}, {Link: 3, Prefix: netip.MustParsePrefix("10.0.0.2/32")}},
		Rules: []netmon.Rule{{Family: netmon.IPv4, Priority: 32766, Action: netmon.Lookup, Table: netmon.TableMain, SuppressPrefixLen: -1}},
		Routes: []netmon.Route{
			{Table: netmon.TableMain, Dst: netip.MustParsePrefix("0.0.0.0/0"), Type: netmon.Unicast,
				Nexthops: []netmon.Nexthop{{OIF: 2, Gateway: netip.MustParseAddr("192.0.2.1"), Weight: 1}}},
			{Table: netmon.TableMain, Dst: netip.MustParsePrefix("0.0.0.0/1"), Type: netmon.Unicast,
				Nexthops: []netmon.Nexthop{{OIF: 3, Weight: 1}}},
			{Table: netmon.TableMain, Dst: netip.MustParsePrefix("128.0.0.0/1"), Type: netmon.Unicast,
				Nexthops: []netmon.Nexthop{{OIF: 3, Weight: 1}}},
		},
	}
	got := network(snap, route.DefaultConfig())
	want := []Line{
		{Area: areaNetwork, Name: "tunnels", Detail: "wg0"},
		{Area: areaNetwork, Name: "uplink", Detail: "IPv4 eth0"},
		{Area: areaNetwork, Name: "rp_filter", Detail: "strict on eth0: sidestep relaxes it while it runs"},
	}
	if d := cmp.Diff(want, got[:3]); d != "" {
		t.Errorf("lines (-want +got):\n%s", d)
	}
	none := network(netmon.Snapshot{}, route.DefaultConfig())
	if none[0].Detail != "none now" || none[1].Grade != Warn {
		t.Errorf("lines of nothing: %+v", none)
	}
}

func TestPeersShow(t *testing.T) {
	e := evidence{
		procs:  map[string][]int{"mullvad-daemon": {12}, "systemd-network": {13}, "openvpn": {14}, "bash": {15}},
		tables: []string{"filter", "mullvad", "wg-quick-wg0"},
		snap: netmon.Snapshot{
			Links: []netmon.Link{{Name: "eth0"}, {Name: "wg0-mullvad"}, {Name: "tailscale0"}},
			Rules: []netmon.Rule{
				{Family: netmon.IPv4, Priority: 5270, Action: netmon.Lookup, Table: 52, SuppressPrefixLen: -1},
				{Family: netmon.IPv6, Priority: 5270, Action: netmon.Lookup, Table: 52, SuppressPrefixLen: -1},
			},
		},
	}
	got := map[string]Line{}
	for _, l := range e.lines() {
		got[l.Name] = l
	}
	if len(got) != 5 {
		t.Errorf("%d peers, want 5: %v", len(got), got)
	}
	mullvad := got["Mullvad"]
	if want := "process mullvad-daemon (12), interface wg0-mullvad, nftables table mullvad"; mullvad.Detail != want || mullvad.Grade != Warn {
		t.Errorf("Mullvad: %+v, want %q", mullvad, want)
	}
	if l := got["Tailscale"]; l.Grade != OK || !strings.Contains(l.Detail, "interface tailscale0, rule ") {
		t.Errorf("Tailscale: %+v", l)
	}
	if l := got["systemd-networkd"]; l.Grade != OK || l.Hint == "" {
		t.Errorf("systemd-networkd: %+v", l)
	}
	if l := (evidence{}).lines(); len(l) != 1 || l[0].Grade != OK {
		t.Errorf("nobody: %+v", l)
	}
}

func TestPeersTableIsWellFormed(t *testing.T) {
	for _, p := range peers() {
		for _, pattern := range append(p.links, p.tables...) {
			if _, err := path.Match(pattern, "x"); err != nil {
				t.Errorf("%s: %q: %v", p.name, pattern, err)
			}
		}
		for _, c := range p.comms {
			if len(c) > 15 {
				t.Errorf("%s: process name %q is longer than the kernel keeps", p.name, c)
			}
		}
	}
}

func TestProcesses(t *testing.T) {
	h := fake(t, map[string]string{"/proc/7/comm": "a\n", "/proc/8/comm": "a\n", "/proc/9/stat": "", "/proc/net/comm": "b"})
	got, err := h.processes()
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(map[string][]int{"a": {7, 8}}, got); d != "" {
		t.Errorf("processes (-want +got):\n%s", d)
	}
}
