package lab

import (
	"errors"
	"net"
	"strconv"
	"testing"
)

// sendDatagrams sends n datagrams from the machine to a port of the internet host.
func sendDatagrams(t *testing.T, w *World, host string, port, n int, opts ...SocketOption) {
	t.Helper()
	conn, err := w.Machine.Dial(testContext(t), "udp", net.JoinHostPort(host, strconv.Itoa(port)), opts...)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for range n {
		if _, err := conn.Write([]byte("datagram")); err != nil {
			t.Fatal(err)
		}
	}
}

// settle returns when everything that was sent before has passed the wires.
func settle(t *testing.T, w *World) {
	t.Helper()
	const markerPort = 443
	sendDatagrams(t, w, Internet4, markerPort, 1)
	sendDatagrams(t, w, Internet4, markerPort, 1, Mark(Fwmark))
	m := Match{Direction: Sent, Proto: UDP, DstPort: markerPort}
	for _, wire := range []*Wire{w.Wires().Uplink, w.Wires().Tunnel} {
		if err := wire.Wait(testContext(t), m, 1); err != nil {
			t.Fatal(err)
		}
	}
}

// wantCount fails the test if the wire counted anything but want.
func wantCount(t *testing.T, wire *Wire, m Match, want uint64) {
	t.Helper()
	got, err := wire.Count(m)
	if err != nil || got != want {
		t.Errorf("count of %+v: %d, %v; want %d", m, got, err, want)
	}
}

func TestWiresCountEveryDatagramOnItsWireAndNoneOnTheOther(t *testing.T) {
	w := newWorld(t, Options{})
	const inside, outside = 5000, 3000
	for _, host := range []string{Internet4, Internet6} {
		sendDatagrams(t, w, host, 7001, inside)
		sendDatagrams(t, w, host, 7002, outside, Mark(Fwmark))
	}
	settle(t, w)
	uplink, tunnel := w.Wires().Uplink, w.Wires().Tunnel
	for _, family := range []Family{IPv4, IPv6} {
		wantCount(t, tunnel, Match{Direction: Sent, Family: family, Proto: UDP, DstPort: 7001}, inside)
		wantCount(t, tunnel, Match{Family: family, DstPort: 7002}, 0)
		wantCount(t, uplink, Match{Direction: Sent, Family: family, Proto: UDP, DstPort: 7002}, outside)
		wantCount(t, uplink, Match{Family: family, DstPort: 7001}, 0)
	}
}

func TestPayloadLeavesOutTransportAndHousekeeping(t *testing.T) {
	w := newWorld(t, Options{})
	sendDatagrams(t, w, Internet4, 7001, 10)
	sendDatagrams(t, w, Internet6, 7001, 10)
	settle(t, w)
	// The tunnel's packets reach the uplink when they have been encrypted, which nothing above waits for.
	transport := Match{Direction: Sent, Proto: UDP, DstPort: TransportPort}
	if err := w.Wires().Uplink.Wait(testContext(t), transport, 20); err != nil {
		t.Fatal(err)
	}
	flows, err := w.Wires().Uplink.Flows()
	if err != nil {
		t.Fatal(err)
	}
	if n := flows.Count(Match{Family: Other}); n == 0 {
		t.Error("no ARP seen on the uplink")
	}
	for _, f := range flows {
		marker := f.SrcPort == 443 || f.DstPort == 443
		if m := (Match{Payload: true}); m.Has(f) && !marker {
			t.Errorf("payload on the uplink: %v", f)
		}
	}
}

func TestWireKeepsItsCountsWhenTheTunnelIsMadeAgain(t *testing.T) {
	w := newWorld(t, Options{})
	m := Match{Direction: Sent, Proto: UDP, DstPort: 7001}
	for round := uint64(1); round <= 3; round++ {
		sendDatagrams(t, w, Internet4, 7001, 100)
		wantCount(t, w.Wires().Tunnel, m, 100*round)
		if err := w.TunnelDown(); err != nil {
			t.Fatal(err)
		}
		if err := w.TunnelUp(testContext(t)); err != nil {
			t.Fatal(err)
		}
	}
	settle(t, w)
	wantCount(t, w.Wires().Uplink, m, 0)
}

func TestFullWireFailsRatherThanMiscount(t *testing.T) {
	w := newWorld(t, Options{MaxFlows: 16})
	for port := 7000; port < 7040; port++ {
		sendDatagrams(t, w, Internet4, port, 1)
	}
	if _, err := w.Wires().Tunnel.Count(Match{}); !errors.Is(err, ErrUncounted) {
		t.Errorf("count of a full wire: %v, want %v", err, ErrUncounted)
	}
	if err := w.Wires().Tunnel.Reset(); err != nil {
		t.Fatal(err)
	}
	sendDatagrams(t, w, Internet4, 7001, 3)
	wantCount(t, w.Wires().Tunnel, Match{Direction: Sent, DstPort: 7001}, 3)
}

func TestSinceCountsTheDifference(t *testing.T) {
	earlier := Flows{{DstPort: 1, Packets: 5, Bytes: 50}, {DstPort: 2, Packets: 1, Bytes: 10}}
	later := Flows{{DstPort: 1, Packets: 7, Bytes: 70}, {DstPort: 2, Packets: 1, Bytes: 10}, {DstPort: 3, Packets: 4, Bytes: 40}}
	since := later.Since(earlier)
	if len(since) != 2 || since.Count(Match{DstPort: 1}) != 2 || since.Count(Match{DstPort: 3}) != 4 {
		t.Errorf("since: %v", since)
	}
}
