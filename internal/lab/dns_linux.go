package lab

import (
	"net"
	"net/netip"

	"github.com/miekg/dns"
)

// dnsPort is where every service answers questions about names.
const dnsPort = 53

// listenDNS starts a name server in the calling thread's namespace, and returns when it answers.
func (s *service) listenDNS() error {
	tcp, udp, err := listenBoth(dnsPort)
	if err != nil {
		return err
	}
	s.closers = append(s.closers, tcp, udp)
	for _, srv := range []*dns.Server{{Listener: tcp}, {PacketConn: udp}} {
		started := make(chan error, 2)
		srv.NotifyStartedFunc = func() { started <- nil }
		srv.Handler = dns.HandlerFunc(answer)
		s.wg.Go(func() { started <- srv.ActivateAndServe() })
		if err := <-started; err != nil {
			return err
		}
		s.names = append(s.names, srv)
	}
	return nil
}

// answer answers one question. The zone is test.:
//
//	internet.test.  A, AAAA  the service on the internet
//	lan.test.       A, AAAA  the router
//	vpn.test.       A, AAAA  the VPN server in the tunnel
//	whoami.test.    TXT      the client's address, and nothing of its port
//
// Everything else does not exist. Nothing may be cached.
func answer(w dns.ResponseWriter, question *dns.Msg) {
	reply := new(dns.Msg).SetReply(question)
	reply.Authoritative = true
	for _, q := range question.Question {
		known, rr := lookup(q, w.RemoteAddr())
		if !known {
			reply.Rcode = dns.RcodeNameError
		}
		if rr != nil {
			reply.Answer = append(reply.Answer, rr)
		}
	}
	// A client that is gone gets no answer, that is all.
	_ = w.WriteMsg(reply)
}

// lookup returns the record that answers q, or nil if the name has none of that type, and whether the name exists.
func lookup(q dns.Question, client net.Addr) (known bool, rr dns.RR) {
	header := dns.RR_Header{Name: q.Name, Rrtype: q.Qtype, Class: dns.ClassINET}
	name := dns.CanonicalName(q.Name)
	if name == "whoami.test." {
		if q.Qtype != dns.TypeTXT {
			return true, nil
		}
		from, err := netip.ParseAddrPort(plain(client))
		if err != nil {
			return true, nil
		}
		return true, &dns.TXT{Hdr: header, Txt: []string{from.Addr().String()}}
	}
	hosts := map[string][2]string{
		"internet.test.": {Internet4, Internet6},
		"lan.test.":      {LAN4, LAN6},
		"vpn.test.":      {TunnelHost4, TunnelHost6},
	}
	host, known := hosts[name]
	switch {
	case known && q.Qtype == dns.TypeA:
		return true, &dns.A{Hdr: header, A: net.ParseIP(host[0])}
	case known && q.Qtype == dns.TypeAAAA:
		return true, &dns.AAAA{Hdr: header, AAAA: net.ParseIP(host[1])}
	}
	return known, nil
}
