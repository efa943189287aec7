package demo

import (
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"sidestep/internal/lab"
)

// sent is a flow of UDP datagrams that left the machine.
func sent(from, to uint16, packets uint64) lab.Flow {
	return lab.Flow{
		Direction: lab.Sent, Family: lab.IPv4, Proto: lab.UDP,
		Src: netip.MustParseAddr(lab.Machine4), Dst: netip.MustParseAddr(lab.Internet4),
		SrcPort: from, DstPort: to, Packets: packets,
	}
}

func received(from, to uint16, packets uint64) lab.Flow {
	f := sent(from, to, packets)
	f.Direction, f.Src, f.Dst = lab.Received, f.Dst, f.Src
	return f
}

func TestEveryPacketIsSomebodys(t *testing.T) {
	var l ledger
	bank := l.open("bank", uplink)
	browser := l.open("browser", tunnel)
	starts := l.openDeaf("starts", uplink)
	again := l.open("bank", uplink)
	icmp := sent(3, 3, 8)
	icmp.Proto = lab.ICMP
	c := census{
		uplink: {
			sent(40000, bank.port, 1), sent(bank.port, dnsPort, 2), received(bank.port, 40000, 100),
			sent(40000, starts.port, 4), sent(40000, again.port, 16), sent(40000, browser.port, 32),
			sent(1, markerPort, 64), icmp,
		},
		tunnel: {sent(40000, browser.port, 128), sent(40000, again.port, 256)},
	}
	want := []row{
		{"bank", uplink, counts{19, 256}},
		{"browser", tunnel, counts{32, 128}},
		{"starts", uplink, counts{4, 0}},
	}
	if got := l.rows(c); !reflect.DeepEqual(got, want) {
		t.Errorf("rows are %v, want %v", got, want)
	}
	if got := l.wrong(c); got != 32+256 {
		t.Errorf("%d packets are on the wrong side, want %d", got, 32+256)
	}
	if got := l.strays(c); len(got) != 1 || got[0] != icmp {
		t.Errorf("strays are %v, want %v", got, icmp)
	}
}

func TestScreen(t *testing.T) {
	var b strings.Builder
	s := screen{w: &b}
	s.header()
	s.command("sidestep", "exclude", "/a")
	s.proof("good", part{side: uplink}, counts{14, 0})
	s.proof("leak", part{side: uplink}, counts{13, 1})
	s.proof("mute", part{side: tunnel}, counts{0, 0})
	s.fact("That was %s.", "it")
	s.table([]row{{"bank", uplink, counts{27, 1}}}, 1)
	want := `
                                                                    uplink  tunnel

      # sidestep exclude /a
   1  good                                                              14       0  ok
   2  leak                                                              13       1  WRONG
   3  mute                                                               0       0  WRONG
   4  That was it.

  packets sent by             side      uplink  tunnel
  ----------------------------------------------------
  bank                        uplink        27       1

  packets on the wrong side: 1
`
	if got := b.String(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}
