/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The side of a socket: where it was born, what its mark says, where its app is now.
 *
 * Invariant: a socket never changes sides while it has a flow. One whose app has changed sides since it was born speaks
 * to local places only. One whose mark does not say what its note says (a program with the right to set marks, a
 * connection that was being accepted while its listener moved) counts as changed.
 */
#ifndef SIDESTEP_SIDE_H
#define SIDESTEP_SIDE_H

#include "kernel.h"
#include "list.h"

/* side_of_mark is where routing takes a socket with this mark. */
static __always_inline __u32 side_of_mark(const struct config *cfg, __u32 mark)
{
	return (mark & cfg->mark_mask) >> (cfg->mark_shift & 31) == EXIT_OUTSIDE ? EXIT_OUTSIDE : EXIT_DEFAULT;
}

/* mark_for is a socket's mark with our bits set for a side, and everybody else's as they were. */
static __always_inline __u32 mark_for(const struct config *cfg, __u32 mark, __u32 side)
{
	return (mark & ~cfg->mark_mask) | (side << (cfg->mark_shift & 31) & cfg->mark_mask);
}

/* is_steady reports whether a socket is where its app is now, and always was. */
static __always_inline int is_steady(const struct config *cfg, const struct note *n, __u32 mark, __u32 now)
{
	return n->born == now && side_of_mark(cfg, mark) == now;
}

/* place_of says what is at an address: PLACE_LOCAL, PLACE_HOST, or 0 for the rest of the world. */
static __noinline __u32 place_of(const struct address *a)
{
	struct prefix p = { .bits = 128, .address = *a };
	__u32 *place = bpf_map_lookup_elem(&places, &p);

	return place ? *place : 0;
}

/* whose_address says on which side an address of this machine is: ADDRESS_OUTSIDE, ADDRESS_INSIDE, or 0. */
static __always_inline __u32 whose_address(const struct address *a)
{
	__u32 *side = bpf_map_lookup_elem(&addresses, a);

	return side ? *side : 0;
}

static __always_inline int is_permitted(__u32 link)
{
	return bpf_map_lookup_elem(&links, &link) != NULL;
}

/* remember_cut has what the peer of a connection still sends go unanswered. */
static __noinline int remember_cut(const struct flow *flow)
{
	__u32 when = bpf_ktime_get_boot_ns() / 1000000000;
	struct flow f = *flow;

	f.mapped = 0;
	if (bpf_map_update_elem(&cut, &f, &when, BPF_ANY))
		count(STAT_HELPER_FAILED);
	if (f.protocol != IPPROTO_UDP)
		return 0;
	f.local_port = 0;
	f.remote_port = 0;
	if (bpf_map_update_elem(&cut, &f, &when, BPF_ANY))
		count(STAT_HELPER_FAILED);
	return 0;
}

static __always_inline void set_ip4(struct address *a, __u32 ip)
{
	a->word[0] = 0;
	a->word[1] = 0;
	a->word[2] = bpf_htonl(0xffff);
	a->word[3] = ip;
}

#endif
