package packaging_test

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"sidestep/internal/lab"
	"sidestep/internal/lab/actor"
	"sidestep/internal/lab/labtest"
	"sidestep/internal/route"
)

const (
	bpffs    = "/sys/fs/bpf"
	rpFilter = "/proc/sys/net/ipv4/conf/" + lab.UplinkName + "/rp_filter"
)

// as is a user with these capabilities and no others.
func as(user uint32, capabilities []string) *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: user, Gid: user}}
	for _, name := range capabilities {
		attr.AmbientCaps = append(attr.AmbientCaps, capabilityNumbers[name])
	}
	return attr
}

// TestOrdinaryUserWithTheUnitsCapabilities runs the daemon as an ordinary user who has no more than the unit gives it. The
// BPF file system is the user's; the unit's daemon has the same right to it by being root.
func TestOrdinaryUserWithTheUnitsCapabilities(t *testing.T) {
	r := newRig(t)
	r.ok(os.Chown(bpffs, daemon, daemon))
	r.lives(r.launch(as(daemon, readUnit(t).capabilities(t))))
}

// TestOrdinaryUserOnAnOrdinaryMachine is about a BPF file system that is root's: then it takes CAP_DAC_OVERRIDE, too.
func TestOrdinaryUserOnAnOrdinaryMachine(t *testing.T) {
	r := newRig(t)
	r.ok(os.Chown(bpffs, 0, 0))
	r.lives(r.launch(as(daemon, append(readUnit(t).capabilities(t), "CAP_DAC_OVERRIDE"))))
}

// needs says what fails without a capability. CAP_SYS_ADMIN stands for CAP_BPF and CAP_PERFMON, so it is missing with them.
var needs = map[string]struct{ without, fails string }{
	"CAP_BPF":             {"CAP_SYS_ADMIN", `load program: operation not permitted`},
	"CAP_PERFMON":         {"CAP_SYS_ADMIN", `load program: .*(cannot use helper bpf_get_current_task_btf|only to CAP_PERFMON)`},
	"CAP_NET_ADMIN":       {"", `add route .*: operation not permitted|load program: operation not permitted`},
	"CAP_SYS_ADMIN":       {"", `enter the network namespace: operation not permitted`},
	"CAP_SYS_PTRACE":      {"", `get descriptor: operation not permitted`},
	"CAP_DAC_READ_SEARCH": {"", `resolve .*/home/app: .*: permission denied`},
}

func TestEveryCapabilityIsNeeded(t *testing.T) {
	labtest.NeedRoot(t)
	if err := os.Chown(bpffs, daemon, daemon); err != nil {
		t.Fatal(err)
	}
	all := readUnit(t).capabilities(t)
	for _, name := range all {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			need := needs[name]
			rest := slices.DeleteFunc(slices.Clone(all), func(c string) bool { return c == name || c == need.without })
			s := r.launch(as(daemon, rest))
			err := r.story(s)
			if err == nil {
				t.Fatalf("all is well without %s: the unit must not have it", name)
			}
			if got := fmt.Sprint(err, "\n", s.said()); !regexp.MustCompile(need.fails).MatchString(got) {
				t.Errorf("without %s:\n%s\nwant %s", name, got, need.fails)
			}
		})
	}
}

// lives fails unless a daemon lives its whole life, and can name what runs.
func (r *rig) lives(s *service) {
	r.t.Helper()
	if err := r.story(s); err != nil {
		r.t.Errorf("%v\n%s", err, s.said())
	}
	if want := []string{r.app, r.app}; !slices.Equal(s.exes, want) {
		r.t.Errorf("ps names %q, want %q", s.exes, want)
	}
}

// story goes through the life of a daemon, up to its end, and says what went wrong first.
func (r *rig) story(s *service) error {
	r.t.Helper()
	r.ok(r.world.Machine.Do(func() error { return os.WriteFile(rpFilter, []byte("1"), 0) }))
	older, err := r.start()
	r.ok(err)
	var newer *actor.Actor
	var open actor.Socket
	apps := []string{r.app}
	for _, step := range []struct {
		what string
		do   func() error
	}{
		{"start", func() error { return s.engaged(r.ctx) }},
		{"loosen rp_filter", func() error { return r.wantFilter("2") }},
		{"exclude", func() error { _, err := s.client.Exclude(r.ctx, apps); return err }},
		{"a process that is running", func() error { return r.goesOutside(older) }},
		{"a new process", func() (err error) { newer, err = r.start(); return errors.Join(err, r.goesOutside(newer)) }},
		{"ps", func() error { return s.list(r.ctx) }},
		{"include", func() error { _, err := s.client.Include(r.ctx, apps); return err }},
		{"an included process", func() error { return r.goesInside(older) }},
		{"exclude again", func() error { _, err := s.client.Exclude(r.ctx, apps); return err }},
		{"a socket", func() (err error) { open, err = r.socket(newer); return err }},
		{"stop", s.stop},
		{"the socket afterwards", func() error { return r.wantShut(newer, open) }},
		{"what remains", r.wantNothing},
	} {
		if err := step.do(); err != nil {
			return fmt.Errorf("%s: %w", step.what, err)
		}
	}
	return nil
}

func (r *rig) wantFilter(want string) error {
	return r.world.Machine.Do(func() error {
		got, err := os.ReadFile(rpFilter)
		if err == nil && strings.TrimSpace(string(got)) != want {
			err = fmt.Errorf("rp_filter is %q, want %s", got, want)
		}
		return err
	})
}

// socket makes a datagram socket that has been used and has no peer.
func (r *rig) socket(a *actor.Actor) (actor.Socket, error) {
	at := netip.AddrPortFrom(netip.MustParseAddr(lab.Internet4), uint16(r.port.Add(1)))
	s, err := a.Open(r.ctx, actor.UDP, at)
	if err == nil {
		err = a.SendOn(r.ctx, s, at)
	}
	return s, err
}

func (r *rig) wantShut(a *actor.Actor, s actor.Socket) error {
	at := netip.AddrPortFrom(netip.MustParseAddr(lab.Internet4), uint16(r.port.Add(1)))
	if err := a.SendOn(r.ctx, s, at); !errors.Is(err, unix.EPIPE) {
		return fmt.Errorf("it sends with error %v, want EPIPE", err)
	}
	return nil
}

// wantNothing wants no rule, no route and no pin, and the sysctl as it was.
func (r *rig) wantNothing() error {
	_, err := os.Stat(r.pins())
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	} else {
		err = errors.Join(err, fmt.Errorf("pins in %s", r.pins()))
	}
	return errors.Join(err, r.wantFilter("1"), r.world.Machine.Do(func() error {
		rules, err := netlink.RuleList(netlink.FAMILY_ALL)
		for _, rule := range rules {
			if rule.Table == int(route.DefaultTable) {
				err = errors.Join(err, fmt.Errorf("rule %v", rule))
			}
		}
		return err
	}))
}
