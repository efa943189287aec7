package leak_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"sidestep/api"
	"sidestep/internal/lab"
	"sidestep/internal/lab/actor"
	"sidestep/internal/lab/labtest"
	"sidestep/internal/route"
)

// What OpenVPN's server gives its first client.
const (
	openvpnTun  = "tun7"
	openvpnNet4 = "10.8.0.0"
	openvpnNet6 = "fd00:8::"
)

var openvpnAddrs = addrPair("10.8.0.2", "fd00:8::1000")

// An openvpn is OpenVPN's own client and server, as Debian has them.
type openvpn struct {
	*rig
	path string
	dir  string // for keys and logs
}

// needProgram returns the path of a program that one of Debian's packages has: the first of these that is there.
func needProgram(t *testing.T, from string, names ...string) string {
	t.Helper()
	for _, name := range names {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	labtest.Skip(t, fmt.Sprintf("needs %s: apt-get install --no-install-recommends %s", names[0], from))
	return ""
}

// TestExcludedProgramsStayOutsideOfOpenVPN runs the real one. With def1 it adds halves to the default route; without it,
// it replaces that, and only the route to its server tells where the uplink is.
func TestExcludedProgramsStayOutsideOfOpenVPN(t *testing.T) {
	t.Parallel()
	path := needProgram(t, "openvpn", "openvpn", "/usr/sbin/openvpn")
	for name, redirect := range map[string]string{
		"halves":           "redirect-gateway def1 ipv6",
		"replaced default": "redirect-gateway ipv6",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := newOpenVPN(newRig(t, lab.Options{NoTunnel: true}), path)
			o.serve(redirect)
			o.run()
			listed, other, probe := o.install("listed"), o.install("other"), o.probe("probe")
			a, n := o.start(listed), o.start(other)
			o.exclude(listed, probe)
			o.goes(n, outside, "an included program without a tunnel")
			stop := o.traffic(map[string]side{probe: outside}, false)
			for range 2 {
				end := o.connect()
				o.wait("the tunnel to be found", func() bool { return o.status().State == api.Engaged })
				if s := o.status(); len(s.Tunnels) != 1 || s.Tunnels[0] != openvpnTun ||
					s.Uplink != (api.Uplink{IPv4: lab.UplinkName, IPv6: lab.UplinkName}) {
					t.Errorf("tunnels %v and uplink %+v, want %s and %s", s.Tunnels, s.Uplink, openvpnTun, lab.UplinkName)
				}
				o.speaks(a, sources[outside], servicePort)
				o.awaits(n, openvpnAddrs) // the kernel takes its time with the address of a link that was there
				o.speaks(n, openvpnAddrs, servicePort)
				o.goes(a, outside, "an excluded program")
				o.staysInside(n)
				end()
				o.wait("the tunnel to be missed", func() bool { return o.status().State == api.Ready })
				o.goes(a, outside, "an excluded program once the tunnel is gone")
				o.goes(n, outside, "an included program once the tunnel is gone")
			}
			stop()
		})
	}
}

// staysInside is goes for an included program. What settles there would go into this tunnel, so the last packet outside is
// one that has sidestep's own mark.
func (o *openvpn) staysInside(n *actor.Actor) {
	o.t.Helper()
	port := o.port()
	o.ok(n.Send(o.ctx, internet4(port), each))
	o.ok(n.Send(o.ctx, internet6(port), each))
	o.marker(outside, lab.Mark(route.DefaultConfig().Mark(route.ExitOutside)))
	o.wantSide("an included program", port, inside, 2*each)
}

// awaits waits until new sockets of a program have these addresses.
func (r *rig) awaits(a *actor.Actor, want [2]netip.Addr) {
	r.t.Helper()
	for i, host := range internet {
		r.wait(fmt.Sprintf("a program to have the address %v", want[i]), func() bool {
			return r.address(a, netip.AddrPortFrom(host, servicePort)) == want[i]
		})
	}
}

// address is what a new socket of a program has, or nothing if it gets nowhere.
func (r *rig) address(a *actor.Actor, to netip.AddrPort) netip.Addr {
	r.t.Helper()
	s, err := a.Open(r.ctx, actor.UDPConnected, to)
	if err != nil {
		return netip.Addr{}
	}
	local, err := a.LocalAddr(r.ctx, s)
	r.ok(err)
	r.ok(a.CloseSocket(r.ctx, s))
	return local.Addr()
}

// speaks has a program talk to services that see the address it comes from.
func (r *rig) speaks(a *actor.Actor, from [2]netip.Addr, port uint16) {
	r.t.Helper()
	for i, host := range internet {
		for _, kind := range []actor.SocketKind{actor.TCP, actor.UDPConnected} {
			r.echo(a, kind, netip.AddrPortFrom(host, port), from[i])
		}
	}
}

// newOpenVPN prepares keys, the way back from the internet, and a tunnel link that is watched from its beginning.
func newOpenVPN(r *rig, path string) *openvpn {
	r.t.Helper()
	o := &openvpn{r, path, r.t.TempDir()}
	o.certify()
	for to, via := range map[string]string{openvpnNet4 + "/24": "198.18.0.1", openvpnNet6 + "/64": "2001:db8:98::1"} {
		r.ok(r.world.Internet.Do(func() error { return onLink("vpn0", func(l netlink.Link) error { return addRoute(l, to, via) }) }))
	}
	r.ok(r.world.Machine.Do(func() error {
		return netlink.LinkAdd(&netlink.Tuntap{
			LinkAttrs: netlink.LinkAttrs{Name: openvpnTun}, Mode: netlink.TUNTAP_MODE_TUN, Flags: netlink.TUNTAP_NO_PI,
		})
	}))
	r.ok(r.world.WatchTunnel(openvpnTun))
	return o
}

// serve starts the server.
func (o *openvpn) serve(redirect string) {
	o.t.Helper()
	o.launch(o.world.VPN, "server", "Initialization Sequence Completed",
		"--dev", "tun", "--topology", "subnet", "--server", openvpnNet4, "255.255.255.0", "--server-ipv6", openvpnNet6+"/64",
		"--dh", "none", "--push", redirect, "--explicit-exit-notify", "1")
}

// connect starts the client, and returns what ends it.
func (o *openvpn) connect() (end func()) {
	o.t.Helper()
	cmd := o.launch(o.world.Machine, "client", "Initialization Sequence Completed",
		"--client", "--dev", openvpnTun, "--dev-type", "tun", "--remote", lab.VPN4, "--remote-cert-tls", "server", "--nobind")
	return func() {
		o.t.Helper()
		o.ok(cmd.Process.Signal(unix.SIGTERM))
		o.ok(cmd.Wait())
	}
}

// launch starts OpenVPN, and waits until its log has this text.
func (o *openvpn) launch(n *lab.Namespace, name, until string, args ...string) *exec.Cmd {
	o.t.Helper()
	log := filepath.Join(o.dir, name+".log")
	in := func(file string) string { return filepath.Join(o.dir, file) }
	cmd := exec.Command(o.path, append([]string{
		"--proto", "udp4", "--port", "1194", "--disable-dco", "--verb", "3", "--log", log,
		"--ca", in("ca.crt"), "--cert", in(name + ".crt"), "--key", in(name + ".key"),
	}, args...)...)
	o.ok(n.Start(cmd))
	o.wait("OpenVPN's "+name, func() bool {
		text, err := os.ReadFile(log)
		return err == nil && strings.Contains(string(text), until)
	})
	return cmd
}

// certify makes an authority, and certificates of the server and the client.
func (o *openvpn) certify() {
	o.t.Helper()
	template := func(name string) *x509.Certificate {
		return &x509.Certificate{
			SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
			NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
			KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageKeyAgreement,
		}
	}
	authority := template("ca")
	authority.IsCA, authority.BasicConstraintsValid, authority.KeyUsage = true, true, x509.KeyUsageCertSign
	signer := o.sign("ca", authority, authority, nil)
	for name, use := range map[string]x509.ExtKeyUsage{"server": x509.ExtKeyUsageServerAuth, "client": x509.ExtKeyUsageClientAuth} {
		c := template(name)
		c.ExtKeyUsage = []x509.ExtKeyUsage{use}
		o.sign(name, c, authority, signer)
	}
}

// sign writes a certificate and its new key, which signs for itself if there is no other.
func (o *openvpn) sign(name string, c, by *x509.Certificate, signer *ecdsa.PrivateKey) *ecdsa.PrivateKey {
	o.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	o.ok(err)
	if signer == nil {
		signer = key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, by, &key.PublicKey, signer)
	o.ok(err)
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	o.ok(err)
	for file, block := range map[string]*pem.Block{
		name + ".crt": {Type: "CERTIFICATE", Bytes: der},
		name + ".key": {Type: "PRIVATE KEY", Bytes: secret},
	} {
		o.ok(os.WriteFile(filepath.Join(o.dir, file), pem.EncodeToMemory(block), 0o600))
	}
	return key
}
