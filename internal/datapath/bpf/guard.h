/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The guard: the last look at a packet. Routing chooses the way; the guard holds it to it.
 *
 * Invariants:
 *  - What an excluded program's socket sends or receives passes only by links that are in map links. A tunnel is never
 *    there, and neither is a link that the agent has not seen yet: while somebody else's rules come before ours, or a new
 *    tunnel is up before the agent knows, excluded packets are dropped, not misled.
 *  - A socket whose app has changed sides since it was made speaks to local places only, and by those links. What its
 *    peers still send when it is closed is not answered.
 *  - Loopback, and sockets without a note, pass. In strict mode these have to stay in the tunnel.
 *
 * The kernel's own answers (ICMP errors, resets) have no program's socket and no mark. They must not carry the address
 * of the uplink, with what an excluded program was doing, into a tunnel either.
 */
#ifndef SIDESTEP_GUARD_H
#define SIDESTEP_GUARD_H

#include "label.h"
#include "side.h"

#define PASS 1
#define DROP 0

/* 1 where the guard may ask for a packet's network namespace: since 6.15. Set when the programs are loaded. Before that
 * it is the note that says so, and for the kernel's own answers only the address.
 */
volatile const __u32 asks_netns;

enum way { SENT, RECEIVED };

enum end { SOURCE, DESTINATION };

/* read_address reads one of a packet's two addresses. It returns 0 if there is none. */
static __noinline int read_address(struct __sk_buff *skb, enum end end, struct address *a)
{
	__u32 offset = end == SOURCE ? 8 : 24;
	__u32 ip;

	if (skb->protocol == bpf_htons(ETH_P_IPV6)) {
		if (!bpf_skb_load_bytes_relative(skb, offset, a, sizeof(*a), BPF_HDR_START_NET))
			return 1;
	} else if (skb->protocol == bpf_htons(ETH_P_IP)) {
		offset = end == SOURCE ? 12 : 16;
		if (!bpf_skb_load_bytes_relative(skb, offset, &ip, sizeof(ip), BPF_HDR_START_NET)) {
			set_ip4(a, ip);
			return 1;
		}
	} else {
		return 0;
	}
	count(STAT_HELPER_FAILED);
	return 0;
}

/* transport_at returns where a packet's transport header begins. IPv6 extension headers are not worth the walk: what the
 * kernel answers has none.
 */
static __always_inline __u32 transport_at(struct __sk_buff *skb)
{
	__u8 first;

	if (skb->protocol == bpf_htons(ETH_P_IPV6))
		return 40;
	if (bpf_skb_load_bytes_relative(skb, 0, &first, sizeof(first), BPF_HDR_START_NET))
		return 20;
	return (first & 15) * 4;
}

/* read_packet reads what a TCP or UDP packet has at its two ends, seen from this machine. */
static __noinline int read_packet(struct __sk_buff *skb, __u32 protocol, enum way way, struct flow *f)
{
	__u16 ports[2] = {};

	read_address(skb, way == SENT ? SOURCE : DESTINATION, &f->local);
	read_address(skb, way == SENT ? DESTINATION : SOURCE, &f->remote);
	f->protocol = protocol;
	if (protocol != IPPROTO_TCP && protocol != IPPROTO_UDP)
		return 0;
	if (bpf_skb_load_bytes_relative(skb, transport_at(skb), ports, sizeof(ports), BPF_HDR_START_NET))
		return 0;
	f->local_port = bpf_ntohs(way == SENT ? ports[0] : ports[1]);
	f->remote_port = bpf_ntohs(way == SENT ? ports[1] : ports[0]);
	return 0;
}

/* protocol_of reads a packet's transport protocol. */
static __always_inline __u8 protocol_of(struct __sk_buff *skb)
{
	__u32 offset = skb->protocol == bpf_htons(ETH_P_IPV6) ? 6 : 9;
	__u8 protocol = 0;

	if (bpf_skb_load_bytes_relative(skb, offset, &protocol, sizeof(protocol), BPF_HDR_START_NET))
		count(STAT_HELPER_FAILED);
	return protocol;
}

/* flags_of reads the flags of a TCP packet. */
static __always_inline __u8 flags_of(struct __sk_buff *skb)
{
	__u8 flags = 0;

	if (bpf_skb_load_bytes_relative(skb, transport_at(skb) + 13, &flags, sizeof(flags), BPF_HDR_START_NET))
		return 0;
	return flags;
}

/* What a packet of the kernel's own may be. */
enum answer {
	ANSWER_NONE, /* nothing that refuses anybody: an echo, a SYN-ACK */
	ANSWER_ERROR, /* ICMP of another kind than the next */
	ANSWER_NOBODY, /* ICMP: nobody is at this port */
	ANSWER_TCP, /* a reset, a last acknowledgement */
};

/* answer_of says what a packet that has no socket of its own answers. include/uapi/linux/icmp{,v6}.h */
static __noinline __u32 answer_of(struct __sk_buff *skb, __u32 protocol)
{
	__u8 icmp[2];

	if (protocol == IPPROTO_TCP)
		return flags_of(skb) & TCP_SYN ? ANSWER_NONE : ANSWER_TCP;
	if (protocol != IPPROTO_ICMP && protocol != IPPROTO_ICMPV6)
		return ANSWER_NONE;
	if (bpf_skb_load_bytes_relative(skb, transport_at(skb), icmp, sizeof(icmp), BPF_HDR_START_NET))
		return ANSWER_NONE;
	if (protocol == IPPROTO_ICMP) {
		if (icmp[0] == ICMP_DEST_UNREACH)
			return icmp[1] == ICMP_PORT_UNREACH ? ANSWER_NOBODY : ANSWER_ERROR;
		return icmp[0] == ICMP_TIME_EXCEEDED || icmp[0] == ICMP_PARAMETERPROB ? ANSWER_ERROR : ANSWER_NONE;
	}
	if (icmp[0] == ICMPV6_DEST_UNREACH && icmp[1] == ICMPV6_PORT_UNREACH)
		return ANSWER_NOBODY;
	return icmp[0] < ICMPV6_INFOMSG_MASK ? ANSWER_ERROR : ANSWER_NONE;
}

/* was_cut reports whether a connection was closed on the wrong side not long ago. */
static __always_inline int was_cut(const struct flow *f)
{
	__u32 *when = bpf_map_lookup_elem(&cut, f);

	return when && (__u32)(bpf_ktime_get_boot_ns() / 1000000000) - *when < CUT_SECONDS;
}

/* misleads reports whether an answer of the kernel's, in nobody's name, takes an uplink's address into a closed link; or goes
 * on with a connection that was cut, or might: an app was excluded a moment ago, and what it had closed just before that left
 * no trace.
 */
static __noinline int misleads(const struct config *cfg, __u32 link, __u32 answer, const struct flow *f)
{
	if (!cfg || !f)
		return 0;
	if (!is_permitted(link)) {
		if (whose_address(&f->local) == ADDRESS_OUTSIDE)
			return 1;
		if (answer != ANSWER_ERROR && bpf_ktime_get_boot_ns() < cfg->quiet)
			return 1;
	}
	return answer != ANSWER_ERROR && was_cut(f);
}

/* is_misled is misleads for a packet that the kernel may answer with. */
static __noinline int is_misled(struct __sk_buff *skb, const struct config *cfg)
{
	__u32 protocol = protocol_of(skb);
	__u32 answer = answer_of(skb, protocol);
	struct flow f = {};

	if (!cfg || answer == ANSWER_NONE)
		return 0;
	read_packet(skb, answer == ANSWER_TCP ? protocol : IPPROTO_NONE, SENT, &f);
	if (answer == ANSWER_NOBODY)
		f.protocol = IPPROTO_UDP;
	return misleads(cfg, skb->ifindex, answer, &f);
}

/* tell reports a stopped packet, once in a second for each socket: a flood must not drown everything else. */
static __noinline int tell(struct __sk_buff *skb, struct bpf_sock *sk, struct note *n, enum way way, __u32 stat)
{
	__u64 now = bpf_ktime_get_boot_ns();
	__u32 second = now / 1000000000;
	struct event *e;

	if (!sk || !n || n->told == second)
		return 0;
	n->told = second;
	e = bpf_ringbuf_reserve(&events, sizeof(*e), 0);
	if (!e) {
		count(STAT_EVENTS_LOST);
		return 0;
	}
	__builtin_memset(e, 0, sizeof(*e));
	e->time = now;
	e->kind = EVENT_STOPPED;
	e->tgid = n->tgid;
	e->app = n->apps.apps[0];
	e->reason = stat;
	read_packet(skb, sk->protocol, way, &e->flow);
	bpf_ringbuf_submit(e, 0);
	return 0;
}

static __always_inline int drop(struct __sk_buff *skb, struct bpf_sock *sk, struct note *n, enum way way, __u32 stat)
{
	count(stat);
	tell(skb, sk, n, way, stat);
	return DROP;
}

static __always_inline int is_from(struct __sk_buff *skb, __u32 whose)
{
	struct address a;

	return read_address(skb, SOURCE, &a) && whose_address(&a) == whose;
}

static __always_inline __u32 place_of_peer(struct __sk_buff *skb, enum way way)
{
	struct address a;

	return read_address(skb, way == SENT ? DESTINATION : SOURCE, &a) ? place_of(&a) : 0;
}

/* guard_outside looks at a packet of a socket that was made outside, for an app that still is. Its address is its own
 * choice, or that of routing: which takes what the machine has, the tunnel's too, while the uplink has lost its address. A
 * connection keeps the one that it began with.
 */
static __always_inline int guard_outside(struct __sk_buff *skb, struct bpf_sock *sk, struct note *n, enum way way)
{
	if (!is_permitted(skb->ifindex))
		return drop(skb, sk, n, way, way == SENT ? STAT_GUARD_SENT : STAT_GUARD_RECEIVED);
	if (way == SENT && !(sk->protocol == IPPROTO_TCP && sk->state == TCP_ESTABLISHED) &&
	    is_from(skb, ADDRESS_INSIDE))
		return drop(skb, sk, n, way, STAT_GUARD_SOURCE);
	return PASS;
}

/* is_ours reports whether a packet of a socket is in the network namespace that we govern, as far as can be told. */
static __always_inline int is_ours(struct __sk_buff *skb, const struct config *cfg)
{
	return !asks_netns || bpf_get_netns_cookie(skb) == cfg->netns_cookie;
}

/* guard_strict holds everybody else to the tunnel: who leaves by an uplink must have a mark of somebody's, as the
 * transport of a VPN, or speak to a local place or to a host that was sent outside by name.
 */
static __always_inline int guard_strict(struct __sk_buff *skb, struct bpf_sock *sk, const struct config *cfg,
					enum way way)
{
	__u8 protocol;

	if (!asks_netns || !is_ours(skb, cfg) || sk->mark)
		return PASS;
	if (!is_permitted(skb->ifindex)) {
		if (way == RECEIVED || !is_from(skb, ADDRESS_OUTSIDE))
			return PASS;
		count(STAT_GUARD_SOURCE);
		return DROP;
	}
	if (place_of_peer(skb, way))
		return PASS;
	protocol = protocol_of(skb);
	if (sk->type != SOCK_RAW && protocol != sk->protocol)
		return PASS; /* wrapped by IPsec */
	count(STAT_GUARD_STRICT);
	return DROP;
}

/* guard_changed looks at a packet of a socket that is not where its app is: it may speak to local places. The reset with
 * which the agent closes it may go the way that the connection went.
 */
static __always_inline int guard_changed(struct __sk_buff *skb, struct bpf_sock *sk, struct note *n, enum way way)
{
	int permitted = is_permitted(skb->ifindex);
	struct flow f = {};

	if (permitted && place_of_peer(skb, way) == PLACE_LOCAL)
		return PASS;
	if (way == SENT && sk->protocol == IPPROTO_TCP && (n->born == EXIT_OUTSIDE) == permitted &&
	    flags_of(skb) & TCP_RST)
		return PASS;
	if (way == RECEIVED && sk->protocol == IPPROTO_TCP) { /* it will come again, perhaps when the socket is gone */
		read_packet(skb, IPPROTO_TCP, way, &f);
		remember_cut(&f);
	}
	return drop(skb, sk, n, way, STAT_GUARD_CHANGED);
}

static __always_inline int guard(struct __sk_buff *skb, enum way way)
{
	const struct config *cfg = get_config();
	struct bpf_sock *sk;
	struct note *n;
	__u32 now;

	if (skb->ifindex == LOOPBACK_IFINDEX || !cfg)
		return PASS;
	sk = skb->sk;
	if (!sk)
		return PASS;
	sk = bpf_sk_fullsock(sk);
	if (!sk)
		return PASS;
	n = bpf_sk_storage_get(&notes, sk, NULL, 0);
	if (n) {
		now = list_exit(&n->apps);
		if (!is_steady(cfg, n, sk->mark, now))
			return guard_changed(skb, sk, n, way);
		if (now == EXIT_OUTSIDE)
			return guard_outside(skb, sk, n, way);
	}
	if (way == SENT && sk->type == SOCK_RAW && is_ours(skb, cfg) && is_misled(skb, cfg)) {
		count(STAT_GUARD_ANSWERED);
		return DROP;
	}
	return cfg->strict ? guard_strict(skb, sk, cfg, way) : PASS;
}

SEC("cgroup_skb/egress")
int on_egress(struct __sk_buff *skb)
{
	return guard(skb, SENT);
}

SEC("cgroup_skb/ingress")
int on_ingress(struct __sk_buff *skb)
{
	return guard(skb, RECEIVED);
}

#endif
