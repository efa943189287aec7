package check

import (
	"encoding/json"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
)

// A conversation is one with a sending process, and with a resolver on this machine.
type conversation struct {
	*testing.T
	resolver net.PacketConn
	at       netip.AddrPort // of the resolver
	tell     *io.PipeWriter
	hear     *io.PipeReader
	done     chan error // what Send returned
}

func converse(t *testing.T) conversation {
	resolver, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resolver.Close() })
	in, tell := io.Pipe()
	hear, out := io.Pipe()
	c := conversation{t, resolver, netip.MustParseAddrPort(resolver.LocalAddr().String()), tell, hear, make(chan error, 1)}
	go func() { c.done <- Send(in, out) }()
	return c
}

// answer answers one datagram, and returns what was in it and whose it was.
func (c conversation) answer() (string, string) {
	c.Helper()
	b := make([]byte, 512)
	n, from, err := c.resolver.ReadFrom(b)
	if err == nil {
		_, err = c.resolver.WriteTo([]byte("answer"), from)
	}
	if err != nil {
		c.Fatal(err)
	}
	return string(b[:n]), from.String()
}

// TestSendRepliesAndKeepsItsSocketsUntilItIsTold stays on the loopback interface.
func TestSendRepliesAndKeepsItsSocketsUntilItIsTold(t *testing.T) {
	c := converse(t)
	errands := []errand{
		{Kind: DNS, To: c.at, Label: "1111222200000001", Await: true},
		{Kind: UDP, To: c.at, Label: "1111222200000002"},
		{Kind: TCP, To: netip.MustParseAddrPort("127.0.0.1:1")},
		{Kind: UDP, To: netip.MustParseAddrPort("[fe80::1%no-such-link]:1")},
		{Kind: UDP, To: netip.MustParseAddrPort("255.255.255.255:1")},
	}
	if err := json.NewEncoder(c.tell).Encode(errands); err != nil {
		t.Fatal(err)
	}
	asked, from := c.answer()
	var r []reply
	if err := json.NewDecoder(c.hear).Decode(&r); err != nil || len(r) != len(errands) {
		t.Fatalf("replies %+v, %v", r, err)
	}
	for what, so := range map[string]bool{
		"asks the question":                asked == string(payload(DNS, errands[0].Label)),
		"hears the answer":                 r[0].Answered && r[0].From.String() == from && r[0].Refused == "",
		"waits for no other":               !r[1].Answered && r[1].Refused == "" && r[1].From.Addr() == c.at.Addr(),
		"says what can't be sent":          strings.Contains(r[3].Refused, "no-such-link"),
		"says what the kernel won't":       r[4].Refused == "permission denied",
		"has not ended before it was told": len(c.done) == 0,
	} {
		if !so {
			t.Errorf("it is not so that it %s: asked %q from %s, replies %+v", what, asked, from, r)
		}
	}
	c.tell.Close()
	if err := <-c.done; err != nil {
		t.Error(err)
	}
}
