package leak_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"sidestep/api"
	"sidestep/internal/check"
	"sidestep/internal/lab"
)

// daemonGroup is that of those who may control the daemon, on the machines of these tests.
const daemonGroup = 4711

// A checking is what `sidestep check` is run with.
type checking struct {
	*rig
	servers []string // of resolv.conf
	nobody  bool     // run it as nobody, in the daemon's group
}

// run runs `sidestep check`, and returns its exit code and what it said on stdout and stderr.
func (c checking) run(args ...string) (code int, stdout, stderr string) {
	c.t.Helper()
	conf := c.at("resolv.conf")
	var text strings.Builder
	for _, s := range c.servers {
		fmt.Fprintln(&text, "nameserver", s)
	}
	c.ok(os.WriteFile(conf, []byte(text.String()), 0o644))
	path, err := build()
	c.ok(err)
	self, err := os.Executable()
	c.ok(err)
	words := []string{"-c", `mount --bind "$0" /etc/resolv.conf && exec "$@"`, conf}
	if c.nobody {
		words = append(words, self)
	}
	words = append(words, path, "--socket", filepath.Join(filepath.Dir(c.state), "control"), "check")
	cmd := exec.Command("sh", append(words, args...)...)
	if c.nobody {
		cmd.Env = append(os.Environ(), nobodyEnv+"=1")
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS}
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	var exit *exec.ExitError
	if err := c.world.Machine.Run(cmd); err != nil && !errors.As(err, &exit) {
		c.t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), out.String(), said.String()
}

// report is run for whoever reads the answer as JSON.
func (c checking) report(code int, args ...string) check.Report {
	c.t.Helper()
	got, stdout, stderr := c.run(append(args, "--json")...)
	if got != code {
		c.t.Errorf("check ended with %d, want %d: %s%s", got, code, stdout, stderr)
	}
	var r check.Report
	if err := json.Unmarshal([]byte(stdout), &r); err != nil {
		c.t.Fatalf("%v: %s%s", err, stdout, stderr)
	}
	return r
}

// probeLines writes the probes down, without the ports and addresses that they came from.
func probeLines(r check.Report) []string {
	var all []string
	for _, p := range r.Probes {
		all = append(all, strings.TrimSpace(fmt.Sprintf("%s %s %s: %s (%s) %s %s",
			p.Program, p.Kind, p.To, strings.Join(p.LeftBy, ","), p.Side, p.Verdict, p.Detail)))
	}
	return all
}

func (c checking) want(r check.Report, want string) {
	c.t.Helper()
	if d := cmp.Diff(strings.Split(strings.TrimSpace(want), "\n"), probeLines(r)); d != "" {
		c.t.Errorf("probes (-want +got):\n%s", d)
	}
}

// nobodys runs the daemon where nobody may control it.
func (r *rig) nobodys() {
	r.t.Helper()
	r.ok(grouped())
	dir := filepath.Dir(r.state)
	r.ok(errors.Join(os.Chmod(dir, 0o755), os.Chmod(filepath.Dir(dir), 0o755)))
	r.daemon()
}

// grouped makes a group sidestep in the mount namespace of these tests.
var grouped = sync.OnceValue(func() error {
	text, err := os.ReadFile("/etc/group")
	path := filepath.Join(builtDir(), "group")
	if err == nil {
		_, err = build() // makes the directory
	}
	if err == nil {
		err = os.WriteFile(path, fmt.Appendf(text, "sidestep:x:%d:\n", daemonGroup), 0o644)
	}
	if err == nil {
		err = unix.Mount(path, "/etc/group", "", unix.MS_BIND, "")
	}
	return err
})

// nobodyEnv tells the test binary to become nobody and execute its arguments.
const nobodyEnv = "SIDESTEP_TEST_AS_NOBODY"

// becomeNobody returns only if it fails. The new program has no privileges, and may control the daemon.
func becomeNobody() error {
	const nobody = 65534
	err := errors.Join(os.Unsetenv(nobodyEnv), syscall.Setgroups([]int{daemonGroup}), syscall.Setgid(nobody))
	if err == nil {
		err = syscall.Setuid(nobody)
	}
	if err != nil {
		return err
	}
	return unix.Exec(os.Args[1], os.Args[1:], os.Environ())
}

func TestCheckFindsEveryProbeOnItsSide(t *testing.T) {
	t.Parallel()
	r := newRig(t, lab.Options{})
	r.nobodys()
	c := checking{rig: r, servers: []string{lab.Internet4, lab.Internet6}}
	want := `
included udp 198.51.100.99:443: wg0 (tunnel) ok
included tcp 198.51.100.99:443: wg0 (tunnel) ok
included dns 203.0.113.10:53: wg0 (tunnel) ok
included udp [2001:db8:ffff::99]:443: wg0 (tunnel) ok
included tcp [2001:db8:ffff::99]:443: wg0 (tunnel) ok
included dns [2001:db8:99::10]:53: wg0 (tunnel) ok
excluded udp 198.51.100.99:443: eth0 (uplink) ok
excluded tcp 198.51.100.99:443: eth0 (uplink) ok
excluded dns 203.0.113.10:53: eth0 (uplink) ok
excluded udp [2001:db8:ffff::99]:443: eth0 (uplink) ok
excluded tcp [2001:db8:ffff::99]:443: eth0 (uplink) ok
excluded dns [2001:db8:99::10]:53: eth0 (uplink) ok`
	got := c.report(0)
	c.want(got, want)
	if got.Evidence != check.Packets {
		t.Errorf("as root, the evidence is %s", got.Evidence)
	}
	for _, p := range got.Probes {
		s := map[check.Program]side{check.Included: inside, check.Excluded: outside}[p.Program]
		m := lab.Match{Direction: lab.Sent, Src: p.From.Addr(), SrcPort: p.From.Port(), Dst: p.To.Addr(), DstPort: p.To.Port()}
		r.ok(r.wire(s).Wait(r.short(), m, 1))
		if n, err := r.wire(!s).Count(m); n != 0 || err != nil {
			t.Errorf("%s %s to %v: %d packets %v (%v)", p.Program, p.Kind, p.To, n, !s, err)
		}
	}
	c.nobody = true
	got = c.report(0)
	c.want(got, want)
	if got.Evidence != check.SourceAddress {
		t.Errorf("as nobody, the evidence is %s", got.Evidence)
	}
}

func TestCheckFindsIPv6BesideTheTunnel(t *testing.T) {
	t.Parallel()
	r := newRig(t, lab.Options{NoTunnel6: true})
	r.nobodys()
	for _, nobody := range []bool{false, true} {
		c := checking{rig: r, nobody: nobody}
		c.want(c.report(1), `
included udp 198.51.100.99:443: wg0 (tunnel) ok
included tcp 198.51.100.99:443: wg0 (tunnel) ok
included udp [2001:db8:ffff::99]:443: eth0 (uplink) wrong should leave by wg0
included tcp [2001:db8:ffff::99]:443: eth0 (uplink) wrong should leave by wg0
excluded udp 198.51.100.99:443: eth0 (uplink) ok
excluded tcp 198.51.100.99:443: eth0 (uplink) ok
excluded udp [2001:db8:ffff::99]:443: eth0 (uplink) ok
excluded tcp [2001:db8:ffff::99]:443: eth0 (uplink) ok`)
	}
	_, stdout, stderr := checking{rig: r}.run()
	for _, line := range []string{
		"PROGRAM    FAMILY   KIND   LEFT BY   SIDE     VERDICT",
		"included   IPv6     TCP    eth0      uplink   wrong: should leave by wg0",
	} {
		if !slices.Contains(strings.Split(stdout, "\n"), line) {
			t.Errorf("the answer lacks %q:\n%s", line, stdout)
		}
	}
	if !strings.Contains(stderr, "\nsidestep: 2 of 8 probes took the wrong side\nhint: ") {
		t.Errorf("said on stderr: %s", stderr)
	}
}

// addRule adds a routing rule to the machine.
func (r *rig) addRule(rule *netlink.Rule) {
	r.t.Helper()
	r.ok(r.world.Machine.Do(func() error { return netlink.RuleAdd(rule) }))
}

func TestCheckFindsOneDestinationBesideTheTunnel(t *testing.T) {
	t.Parallel()
	r := newRig(t, lab.Options{})
	r.daemon()
	past := netlink.NewRule()
	past.Priority, past.Table = 80, unix.RT_TABLE_MAIN
	past.Dst = &net.IPNet{IP: net.ParseIP(lab.Internet4).To4(), Mask: net.CIDRMask(32, 32)}
	r.addRule(past)
	c := checking{rig: r}
	c.want(c.report(1, "--to", lab.Internet4), `
included udp 203.0.113.10:443: eth0 (uplink) wrong should leave by wg0
included tcp 203.0.113.10:443: eth0 (uplink) wrong should leave by wg0
included udp [2001:db8:ffff::99]:443: wg0 (tunnel) ok
included tcp [2001:db8:ffff::99]:443: wg0 (tunnel) ok
excluded udp 203.0.113.10:443: eth0 (uplink) ok
excluded tcp 203.0.113.10:443: eth0 (uplink) ok
excluded udp [2001:db8:ffff::99]:443: eth0 (uplink) ok
excluded tcp [2001:db8:ffff::99]:443: eth0 (uplink) ok`)
}

func TestCheckTellsARefusalFromAFault(t *testing.T) {
	t.Parallel()
	r := newRig(t, lab.Options{NoUplink6: true})
	r.daemon()
	c := checking{rig: r, servers: []string{lab.Internet6}}
	c.want(c.report(0), `
included udp 198.51.100.99:443: wg0 (tunnel) ok
included tcp 198.51.100.99:443: wg0 (tunnel) ok
included udp [2001:db8:ffff::99]:443: wg0 (tunnel) ok
included tcp [2001:db8:ffff::99]:443: wg0 (tunnel) ok
included dns [2001:db8:99::10]:53: wg0 (tunnel) ok
excluded udp 198.51.100.99:443: eth0 (uplink) ok
excluded tcp 198.51.100.99:443: eth0 (uplink) ok
excluded udp [2001:db8:ffff::99]:443:  (none) ok no uplink: network is unreachable
excluded tcp [2001:db8:ffff::99]:443:  (none) ok no uplink: network is unreachable
excluded dns [2001:db8:99::10]:53:  (none) ok no uplink: network is unreachable`)

	// Nothing can precede a rule with priority 1: what it takes into the tunnel, the guard stops.
	taken := netlink.NewRule()
	taken.Priority, taken.Mark, taken.Table = 1, 0x10000000, lab.Fwmark
	mask := uint32(0x70000000)
	taken.Mask = &mask
	r.addRule(taken)
	got := c.report(1)
	for _, p := range got.Probes {
		fault := p.Program == check.Excluded && p.Family == "ipv4"
		if fault != (p.Verdict == check.Stopped) || !fault && p.Verdict != check.OK {
			t.Errorf("%s %s %s is %s (%s)", p.Program, p.Family, p.Kind, p.Verdict, p.Detail)
		}
	}
	if !slices.ContainsFunc(got.Notes, func(n string) bool { return strings.Contains(n, "the guard stopped") }) {
		t.Errorf("no note tells of the guard: %q", got.Notes)
	}
}

func TestCheckWithoutATunnelSaysSo(t *testing.T) {
	t.Parallel()
	r := newRig(t, lab.Options{})
	r.daemon()
	r.ok(r.world.TunnelDown())
	r.wait("the daemon to miss the tunnel", func() bool { return r.status().State == api.Ready })
	got := checking{rig: r}.report(0)
	for _, p := range got.Probes {
		if !slices.Equal(p.LeftBy, []string{lab.UplinkName}) || p.Verdict != check.OK {
			t.Errorf("%s %s %s left by %q and is %s", p.Program, p.Family, p.Kind, p.LeftBy, p.Verdict)
		}
	}
	if !slices.Contains(got.Notes, "there is no tunnel: included programs use the system's routes") {
		t.Errorf("notes: %q", got.Notes)
	}
}

func TestCheckTellsNameServersApart(t *testing.T) {
	t.Parallel()
	r := newRig(t, lab.Options{})
	r.daemon()
	const stub = "127.0.0.53"
	r.forward(stub, lab.Internet4)
	c := checking{rig: r, servers: []string{stub, lab.LAN4, lab.TunnelHost4}}
	got := c.report(0)
	got.Probes = slices.DeleteFunc(got.Probes, func(p check.Result) bool { return p.Kind != check.DNS })
	c.want(got, `
included dns 127.0.0.53:53: lo (local) ok
included dns 192.0.2.1:53: eth0 (local) ok
included dns 10.64.0.1:53: wg0 (tunnel) ok
excluded dns 127.0.0.53:53: lo (local) ok
excluded dns 192.0.2.1:53: eth0 (local) ok
excluded dns 10.64.0.1:53: eth0 (local) ok`)
	for _, note := range []string{
		"the resolver at 127.0.0.53 is on this machine and asks in its own name, whoever asked it: by wg0 (tunnel)",
		"the name server 192.0.2.1 is on a private network: included programs ask it by eth0, beside the tunnel",
	} {
		if !slices.Contains(got.Notes, note) {
			t.Errorf("notes lack %q: %q", note, got.Notes)
		}
	}
}

// forward runs a resolver on the machine that passes all questions on.
func (r *rig) forward(at, to string) {
	r.t.Helper()
	var questions net.PacketConn
	r.ok(r.world.Machine.Do(func() (err error) {
		questions, err = net.ListenPacket("udp", net.JoinHostPort(at, "53"))
		return err
	}))
	upstream, err := r.world.Machine.Dial(r.ctx, "udp", netip.AddrPortFrom(netip.MustParseAddr(to), 53).String())
	r.ok(err)
	var wg sync.WaitGroup
	r.t.Cleanup(func() { questions.Close(); upstream.Close(); wg.Wait() })
	wg.Go(func() {
		for b := make([]byte, 512); ; {
			n, from, err := questions.ReadFrom(b)
			if err == nil {
				_, err = upstream.Write(b[:n])
			}
			if err == nil {
				n, err = upstream.Read(b)
			}
			if err == nil {
				_, err = questions.WriteTo(b[:n], from)
			}
			if err != nil {
				return
			}
		}
	})
}

func TestCheckDoesNotTakeAnExcludedProcessForAnIncludedOne(t *testing.T) {
	t.Parallel()
	r := newRig(t, lab.Options{})
	r.daemon()
	path, err := build()
	r.ok(err)
	socket := filepath.Join(filepath.Dir(r.state), "control")
	cmd := exec.Command(path, "--socket", socket, "run", "--", path, "--socket", socket, "check")
	var said strings.Builder
	cmd.Stderr = &said
	code := exitCode(r.world.Machine.Run(cmd))
	if code != 1 || !strings.Contains(said.String(), `this process is excluded itself (launched, "sidestep run")`) {
		t.Errorf("check ended with %d: %s", code, said.String())
	}
}
