/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The guard: the last look at a packet. Routing chooses the way; the guard holds it to it.
 *
 * Invariant: what an excluded program's socket sends or receives passes only by links that are in map links. A tunnel is
 * never there, and neither is a link that the agent has not seen yet: while somebody else's rules come before ours, or
 * a new tunnel is up before the agent knows, excluded packets are dropped, not misled.
 *
 * The kernel's own answers (ICMP errors, resets) have no program's socket and no mark. They must not carry the address
 * of the uplink, with what an excluded program was doing, into a tunnel either.
 */
#ifndef SIDESTEP_GUARD_H
#define SIDESTEP_GUARD_H

#include "label.h"

#define PASS 1
#define DROP 0
#define SOCK_RAW 3 /* include/linux/net.h; the sockets that the kernel answers with are raw ones */
#define ETH_P_IP 0x0800
#define ETH_P_IPV6 0x86DD

/* 1 where the guard may ask for a packet's network namespace: since 6.15. Set when the programs are loaded. Before that
 * it is the note that says so, and for the kernel's own answers only the address.
 */
volatile const __u32 asks_netns;

/* is_forbidden reports whether the packet is on a link of our network namespace that excluded programs must not use. */
static __always_inline int is_forbidden(struct __sk_buff *skb)
{
	__u32 ifindex = skb->ifindex;
	const struct config *cfg;

	if (bpf_map_lookup_elem(&links, &ifindex))
		return 0;
	if (!asks_netns)
		return 1;
	cfg = get_config();
	return cfg && bpf_get_netns_cookie(skb) == cfg->netns_cookie;
}

/* is_outside reports whether the socket was made outside for an app that is still outside. */
static __always_inline int is_outside(struct bpf_sock *sk)
{
	struct note *n = bpf_sk_storage_get(&notes, sk, NULL, 0);

	return n && n->born == EXIT_OUTSIDE && (__u32)list_exit(&n->apps) == EXIT_OUTSIDE;
}

/* from_uplink reports whether a packet's source is an address of this machine outside the tunnels. */
static __always_inline int from_uplink(struct __sk_buff *skb)
{
	struct address a = {};
	long err;

	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		a.word[2] = bpf_htonl(0xffff);
		err = bpf_skb_load_bytes(skb, 12, &a.word[3], 4);
	} else if (skb->protocol == bpf_htons(ETH_P_IPV6)) {
		err = bpf_skb_load_bytes(skb, 8, &a, sizeof(a));
	} else {
		return 0;
	}
	if (err) {
		count(STAT_HELPER_FAILED);
		return 0;
	}
	return bpf_map_lookup_elem(&addresses, &a) != NULL;
}

SEC("cgroup_skb/egress")
int on_egress(struct __sk_buff *skb)
{
	struct bpf_sock *sk;

	if (!is_forbidden(skb))
		return PASS;
	sk = skb->sk;
	if (!sk)
		return PASS;
	sk = bpf_sk_fullsock(sk);
	if (!sk)
		return PASS;
	if (is_outside(sk)) {
		count(STAT_GUARD_SENT);
		return DROP;
	}
	if (sk->type == SOCK_RAW && from_uplink(skb)) {
		count(STAT_GUARD_ANSWERED);
		return DROP;
	}
	return PASS;
}

SEC("cgroup_skb/ingress")
int on_ingress(struct __sk_buff *skb)
{
	struct bpf_sock *sk;

	if (!is_forbidden(skb))
		return PASS;
	sk = skb->sk;
	if (!sk)
		return PASS;
	sk = bpf_sk_fullsock(sk);
	if (!sk || !is_outside(sk))
		return PASS;
	count(STAT_GUARD_RECEIVED);
	return DROP;
}

#endif
