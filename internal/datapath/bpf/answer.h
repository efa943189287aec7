/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * TCP's answers in nobody's name, where netfilter shows them (NF_INET_LOCAL_OUT, Linux 6.4). They pass no cgroup hook if they
 * are IPv6, or since Linux 6.13 if they are of a connection in TIME-WAIT; and a link that was made a moment ago has no door yet.
 *
 * Invariant: no reset and no last acknowledgement of an excluded program's connection, or with an uplink's address, goes into
 * a closed link, whether the agent has seen that link or not.
 */
#ifndef SIDESTEP_ANSWER_H
#define SIDESTEP_ANSWER_H

#include "guard.h"

#define NF_DROP 0 /* include/uapi/linux/netfilter.h */
#define NF_ACCEPT 1
#define NFPROTO_IPV4 2

#define SKB_DST_PTRMASK (~1UL) /* include/linux/skbuff.h: the lowest bit says whether it is counted */

/* is_own reports whether a packet is the kernel's own: sent by a socket of its own, in the name of another one or of none, or
 * in that of a connection in TIME-WAIT.
 */
static __always_inline int is_own(const struct nf_hook_state *state, struct sk_buff *skb)
{
	struct sock *sk = skb->sk;

	return !sk || sk != state->sk || sk->__sk_common.skc_state == TCP_TIME_WAIT;
}

/* link_of returns the link that a packet leaves by. The hook was told of one, but filters before us may have chosen anew. */
static __always_inline __u32 link_of(struct sk_buff *skb)
{
	struct dst_entry *dst = (void *)(skb->_skb_refdst & SKB_DST_PTRMASK);

	return dst ? BPF_CORE_READ(dst, dev, ifindex) : 0;
}

/* read_ip reads a packet's addresses and protocol, and returns how long the header is, or 0. The kernel's IPv6 answers have no
 * extension headers.
 */
static __always_inline __u32 read_ip(const void *header, int is_ip4, struct flow *f)
{
	__u8 b[40];

	if (bpf_probe_read_kernel(b, is_ip4 ? 20 : 40, header)) {
		count(STAT_HELPER_FAILED);
		return 0;
	}
	f->protocol = b[is_ip4 ? 9 : 6];
	if (!is_ip4) {
		__builtin_memcpy(&f->local, b + 8, 16);
		__builtin_memcpy(&f->remote, b + 24, 16);
		return 40;
	}
	set_ip4(&f->local, *(__u32 *)(b + 12));
	set_ip4(&f->remote, *(__u32 *)(b + 16));
	return (b[0] & 15) * 4;
}

/* read_answer reads the two ends of a reset or an acknowledgement, and returns 0 if the packet is neither. */
static __always_inline int read_answer(const struct nf_hook_state *state, struct sk_buff *skb, struct flow *f)
{
	const unsigned char *header = skb->head + skb->network_header;
	__u32 length = read_ip(header, state->pf == NFPROTO_IPV4, f);
	struct {
		__u16 ports[2];
		__u8 numbers[9];
		__u8 flags;
	} tcp;

	if (!length || f->protocol != IPPROTO_TCP)
		return 0;
	if (bpf_probe_read_kernel(&tcp, sizeof(tcp), header + length)) {
		count(STAT_HELPER_FAILED);
		return 0;
	}
	f->local_port = bpf_ntohs(tcp.ports[0]);
	f->remote_port = bpf_ntohs(tcp.ports[1]);
	return !(tcp.flags & TCP_SYN);
}

SEC("netfilter")
int on_answer(struct bpf_nf_ctx *ctx)
{
	const struct nf_hook_state *state = ctx->state;
	struct sk_buff *skb = ctx->skb;
	const struct config *cfg;
	struct flow f = {};
	__u32 link;

	if (!is_own(state, skb))
		return NF_ACCEPT; /* nearly every packet */
	cfg = get_config();
	if (!cfg || !read_answer(state, skb, &f))
		return NF_ACCEPT;
	link = link_of(skb);
	if (link == LOOPBACK_IFINDEX)
		return NF_ACCEPT;
	if (!misleads(cfg, link, ANSWER_TCP, &f) &&
	    (side_of_mark(cfg, skb->mark) != EXIT_OUTSIDE || is_permitted(link)))
		return NF_ACCEPT;
	count(STAT_GUARD_ANSWERED);
	return NF_DROP;
}

#endif
