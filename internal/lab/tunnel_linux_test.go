package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"sidestep/internal/lab/labtest"
)

// wantSource fails the test unless the service at host sees the machine come from want.
func wantSource(t *testing.T, w *World, host, want string, opts ...SocketOption) {
	t.Helper()
	got, err := w.Machine.Source(testContext(t), "tcp", net.JoinHostPort(host, "7000"), opts...)
	if err != nil || got.Addr().String() != want {
		t.Errorf("source at %s: %v, %v; want %s", host, got, err, want)
	}
}

// machineRules returns the machine's rules as `ip rule` shows them, of both families.
func machineRules(t *testing.T, w *World) []string {
	t.Helper()
	var lines []string
	err := w.Machine.withNetlink(func(h *netlink.Handle) error {
		for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
			rules, err := h.RuleList(family)
			if err != nil {
				return err
			}
			for _, r := range rules {
				lines = append(lines, fmt.Sprintf("%d: not %t mark %#x table %d suppress %d",
					r.Priority, r.Invert, r.Mark, r.Table, r.SuppressPrefixlen))
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return lines
}

func TestTunnelGoesAndComesBack(t *testing.T) {
	w := newWorld(t, Options{NoTunnel: true})
	bare := machineRules(t, w)
	for range 3 {
		wantSource(t, w, Internet4, Machine4)
		wantSource(t, w, Internet6, Machine6)
		if err := errors.Join(w.TunnelUp(testContext(t)), w.TunnelUp(testContext(t))); err != nil {
			t.Fatal(err)
		}
		wantSource(t, w, Internet4, Tunnel4)
		wantSource(t, w, Internet6, Tunnel6)
		if err := errors.Join(w.TunnelDown(), w.TunnelDown()); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(bare, machineRules(t, w)); diff != "" {
			t.Errorf("rules after the tunnel (-want +got):\n%s", diff)
		}
	}
}

func TestTunnelRulesAreThoseOfWgQuick(t *testing.T) {
	w := newWorld(t, Options{})
	want := []string{
		"0: not false mark 0x0 table 255 suppress -1",
		"32764: not false mark 0x0 table 254 suppress 0",
		"32765: not true mark 0xca6c table 51820 suppress -1",
		"32766: not false mark 0x0 table 254 suppress -1",
		"32767: not false mark 0x0 table 253 suppress -1",
		"0: not false mark 0x0 table 255 suppress -1",
		"32764: not false mark 0x0 table 254 suppress 0",
		"32765: not true mark 0xca6c table 51820 suppress -1",
		"32766: not false mark 0x0 table 254 suppress -1",
	}
	if diff := cmp.Diff(want, machineRules(t, w)); diff != "" {
		t.Errorf("rules (-want +got):\n%s", diff)
	}
}

func TestUplinkGoesAndComesBack(t *testing.T) {
	w := newWorld(t, Options{})
	for range 2 {
		if err := w.UplinkDown(); err != nil {
			t.Fatal(err)
		}
		_, err := w.Machine.Dial(testContext(t), "udp", Internet4+":7000", Mark(Fwmark))
		if !errors.Is(err, unix.ENETUNREACH) {
			t.Errorf("dial without uplink: %v, want %v", err, unix.ENETUNREACH)
		}
		if err := errors.Join(w.UplinkUp(testContext(t)), w.UplinkUp(testContext(t))); err != nil {
			t.Fatal(err)
		}
		wantSource(t, w, Internet4, Machine4, Mark(Fwmark))
		wantSource(t, w, Internet6, Machine6, Mark(Fwmark))
		wantSource(t, w, Internet4, Tunnel4)
		wantSource(t, w, Internet6, Tunnel6)
	}
}

func TestTunnelUpWithoutUplinkLeavesNoTunnel(t *testing.T) {
	w := newWorld(t, Options{NoTunnel: true})
	bare := machineRules(t, w)
	if err := w.UplinkDown(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := w.TunnelUp(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("tunnel up without uplink: %v, want %v", err, context.DeadlineExceeded)
	}
	if diff := cmp.Diff(bare, machineRules(t, w)); diff != "" {
		t.Errorf("rules after the failure (-want +got):\n%s", diff)
	}
	err := w.Machine.Do(func() error {
		_, err := net.InterfaceByName(TunnelName)
		return err
	})
	if err == nil {
		t.Error("the tunnel's interface is still there")
	}
}

func TestOptionsTakeIPv6Away(t *testing.T) {
	t.Run("NoTunnel6", func(t *testing.T) {
		w := newWorld(t, Options{NoTunnel6: true})
		wantSource(t, w, Internet4, Tunnel4)
		wantSource(t, w, Internet6, Machine6)
	})
	t.Run("NoUplink6", func(t *testing.T) {
		w := newWorld(t, Options{NoUplink6: true})
		wantSource(t, w, Internet6, Tunnel6)
		_, err := w.Machine.Dial(testContext(t), "udp", "["+Internet6+"]:7000", Mark(Fwmark))
		if !errors.Is(err, unix.ENETUNREACH) {
			t.Errorf("dial IPv6 by the uplink: %v, want %v", err, unix.ENETUNREACH)
		}
	})
}

func TestWorldsDoNotSeeEachOther(t *testing.T) {
	labtest.NeedRoot(t)
	var wg sync.WaitGroup
	worlds := make([]*World, 3)
	for i := range worlds {
		wg.Go(func() {
			w, err := New(t.Context(), Options{})
			if err != nil {
				t.Error(err)
				return
			}
			t.Cleanup(func() {
				if err := w.Close(); err != nil {
					t.Error(err)
				}
			})
			worlds[i] = w
		})
	}
	wg.Wait()
	for i, w := range worlds {
		if w == nil {
			t.FailNow()
		}
		sendDatagrams(t, w, Internet4, 7000, 100*(i+1))
	}
	for i, w := range worlds {
		settle(t, w)
		wantCount(t, w.Wires().Tunnel, Match{Direction: Sent, DstPort: 7000}, uint64(100*(i+1)))
	}
}

func TestServiceEchoes(t *testing.T) {
	w := newWorld(t, Options{Ports: []uint16{4711}})
	for _, network := range []string{"tcp", "udp"} {
		for _, host := range []string{Internet4, Internet6, LAN4, TunnelHost6} {
			conn, err := w.Machine.Dial(testContext(t), network, net.JoinHostPort(host, "4711"))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
				t.Fatal(err)
			}
			if _, err := conn.Write([]byte("hello")); err != nil {
				t.Fatal(err)
			}
			want := conn.LocalAddr().String() + "\nhello"
			var got bytes.Buffer
			for buf := make([]byte, 100); got.Len() < len(want); {
				n, err := conn.Read(buf)
				if err != nil {
					t.Fatalf("%s from %s: %v after %q", network, host, err, got.String())
				}
				got.Write(buf[:n])
			}
			if got.String() != want {
				t.Errorf("%s from %s: %q, want %q", network, host, got.String(), want)
			}
		}
	}
}

func TestNamesAreServed(t *testing.T) {
	w := newWorld(t, Options{})
	tests := []struct {
		network, server string
		mark            uint32
		name            string
		kind            uint16
		want            string
	}{
		{"udp", Internet4, 0, "internet.test.", dns.TypeA, Internet4},
		{"tcp", Internet6, 0, "internet.test.", dns.TypeAAAA, Internet6},
		{"udp", Internet4, 0, "whoami.test.", dns.TypeTXT, Tunnel4},
		{"udp", Internet6, 0, "WhoAmI.test.", dns.TypeTXT, Tunnel6},
		{"tcp", Internet4, Fwmark, "whoami.test.", dns.TypeTXT, Machine4},
		{"udp", Internet6, Fwmark, "whoami.test.", dns.TypeTXT, Machine6},
		{"udp", TunnelHost4, 0, "whoami.test.", dns.TypeTXT, Tunnel4},
		{"udp", LAN4, 0, "whoami.test.", dns.TypeTXT, Machine4},
		{"udp", Internet4, 0, "nowhere.test.", dns.TypeA, ""},
		{"udp", Internet4, 0, "internet.test.", dns.TypeMX, ""},
	}
	for _, tt := range tests {
		got, err := ask(t, w, tt.network, tt.server, tt.mark, tt.name, tt.kind)
		if err != nil || got != tt.want {
			t.Errorf("%s %s at %s over %s with mark %d: %q, %v; want %q", dns.TypeToString[tt.kind], tt.name, tt.server,
				tt.network, tt.mark, got, err, tt.want)
		}
	}
}

// ask returns the data of the answer's only record.
func ask(t *testing.T, w *World, network, server string, mark uint32, name string, kind uint16) (string, error) {
	conn, err := w.Machine.Dial(testContext(t), network, net.JoinHostPort(server, "53"), Mark(mark))
	if err != nil {
		return "", err
	}
	defer conn.Close()
	client := dns.Client{Net: network, Timeout: patience}
	reply, _, err := client.ExchangeWithConn(new(dns.Msg).SetQuestion(name, kind), &dns.Conn{Conn: conn})
	if err != nil || len(reply.Answer) == 0 {
		return "", err
	}
	rr := reply.Answer[0]
	return strings.Trim(strings.TrimPrefix(rr.String(), rr.Header().String()), `"`), nil
}

func TestRunHappensInTheNamespace(t *testing.T) {
	w := newWorld(t, Options{NoTunnel: true})
	want := fmt.Sprintf("net:[%d]\n", w.Machine.Inode())
	for range 20 {
		var out bytes.Buffer
		cmd := exec.Command("readlink", "/proc/self/ns/net")
		cmd.Stdout = &out
		if err := w.Machine.Run(cmd); err != nil || out.String() != want {
			t.Fatalf("namespace of a process: %q, %v; want %q", out.String(), err, want)
		}
	}
}

// tunnelKind returns the kernel's name for what drives the machine's end of the tunnel.
func tunnelKind(t *testing.T, w *World) string {
	t.Helper()
	kind := ""
	err := w.Machine.withNetlink(func(h *netlink.Handle) error {
		return withLink(h, TunnelName, func(l netlink.Link) error {
			kind = l.Type()
			return nil
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	return kind
}

func TestTunnelIsTheKernelsOwnWhereThereIsOne(t *testing.T) {
	labtest.NeedRoot(t)
	n, err := NewNamespace()
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	want := "wireguard"
	if _, err := newKernelWireguard(n, TunnelName); errors.Is(err, unix.EOPNOTSUPP) {
		want = "tuntap"
	} else if err != nil {
		t.Fatal(err)
	}
	if got := tunnelKind(t, newWorld(t, Options{})); got != want {
		t.Errorf("the tunnel is driven by %s, want %s", got, want)
	}
	if got := tunnelKind(t, newWorld(t, Options{Userspace: true})); got != "tuntap" {
		t.Errorf("the tunnel in user space is driven by %s", got)
	}
}
