/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Joining a multicast group: the kernel tells the link's routers of it, in nobody's name. Where a program names no link, it
 * asks routing, without the socket's mark.
 *
 * Invariant: a socket that is outside joins on a permitted link, by default on the uplink; or the call fails.
 */
#ifndef SIDESTEP_JOIN_H
#define SIDESTEP_JOIN_H

#include "call.h"

#define SOL_IP 0 /* include/linux/socket.h */
#define SOL_IPV6 41

#define IP_ADD_MEMBERSHIP 35 /* include/uapi/linux/in.h: struct ip_mreq or ip_mreqn */
#define IP_DROP_MEMBERSHIP 36
#define IP_ADD_SOURCE_MEMBERSHIP 39 /* struct ip_mreq_source */
#define MCAST_JOIN_GROUP 42 /* struct group_req */
#define MCAST_LEAVE_GROUP 45
#define MCAST_JOIN_SOURCE_GROUP 46 /* struct group_source_req */
#define MCAST_LEAVE_SOURCE_GROUP 47
#define IPV6_ADD_MEMBERSHIP 20 /* include/uapi/linux/in6.h: struct ipv6_mreq */

#define ENODEV 19 /* include/uapi/asm-generic/errno-base.h */

#define IPV6_FLOWLABEL_MGR 32 /* it writes to the buffer */

#define OPTION_MAX 4096 /* of longer options the kernel shows a part, and wants to hear that it was not touched */

/* What becomes of a call. */
enum { JOIN_REFUSED, JOIN_AS_IT_IS, JOIN_CHANGED };

/* join_link puts the uplink where no link is named. */
static __always_inline int join_link(__u32 *link, __u32 uplink)
{
	if (*link)
		return is_permitted(*link) ? JOIN_AS_IT_IS : JOIN_REFUSED;
	if (!uplink)
		return JOIN_REFUSED;
	*link = uplink;
	return JOIN_CHANGED;
}

/* join_address does the same for the older form, which has the group, the address of an interface and, if it is long
 * enough, an index. A short one without an address gets long.
 */
static __always_inline int join_address(struct bpf_sockopt *ctx, __u32 uplink)
{
	__u32 *v = ctx->optval;
	struct address a;

	if ((void *)(v + 3) > ctx->optval_end || ctx->optlen < 8)
		return JOIN_AS_IT_IS; /* an error */
	if (ctx->optlen >= 12 && v[2])
		return join_link(&v[2], uplink);
	if (!v[1]) {
		v[2] = 0;
		ctx->optlen = 12;
		return join_link(&v[2], uplink);
	}
	set_ip4(&a, v[1]);
	return whose_address(&a) == ADDRESS_INSIDE ? JOIN_REFUSED : JOIN_AS_IT_IS;
}

/* join decides about a call that names a group. What is left was joined before, by the same rule. */
static __always_inline int join(struct bpf_sockopt *ctx, const struct config *cfg)
{
	__u32 uplink = ctx->level == SOL_IP ? cfg->uplink4 : cfg->uplink6;
	__u32 *v = ctx->optval;
	struct address a;

	if (ctx->level == SOL_IP && (ctx->optname == IP_ADD_MEMBERSHIP || ctx->optname == IP_DROP_MEMBERSHIP))
		return join_address(ctx, uplink);
	if (ctx->level == SOL_IP && ctx->optname == IP_ADD_SOURCE_MEMBERSHIP) {
		if ((void *)(v + 3) > ctx->optval_end)
			return JOIN_AS_IT_IS;
		set_ip4(&a, v[1]); /* without an address there is no way to say which link */
		return v[1] && whose_address(&a) != ADDRESS_INSIDE ? JOIN_AS_IT_IS : JOIN_REFUSED;
	}
	if (ctx->optname == MCAST_JOIN_GROUP || ctx->optname == MCAST_JOIN_SOURCE_GROUP ||
	    ctx->optname == MCAST_LEAVE_GROUP || ctx->optname == MCAST_LEAVE_SOURCE_GROUP)
		return (void *)(v + 1) <= ctx->optval_end ? join_link(v, uplink) : JOIN_AS_IT_IS;
	if (ctx->level == SOL_IPV6 && ctx->optname == IPV6_ADD_MEMBERSHIP)
		return (void *)(v + 5) <= ctx->optval_end ? join_link(v + 4, uplink) : JOIN_AS_IT_IS;
	return JOIN_AS_IT_IS;
}

SEC("cgroup/setsockopt")
int on_setsockopt(struct bpf_sockopt *ctx)
{
	const struct config *cfg = get_config();
	struct bpf_sock *sk = ctx->sk;
	int verdict = JOIN_AS_IT_IS;
	struct note *n = NULL;

	if (cfg && sk && (ctx->level == SOL_IP || ctx->level == SOL_IPV6))
		n = bpf_sk_storage_get(&notes, sk, NULL, 0);
	if (n && (__u32)list_exit(&n->apps) == EXIT_OUTSIDE)
		verdict = join(ctx, cfg);
	/* The kernel is to take the program's own buffer. Elsewhere others on the hook may have changed ours. */
	if (ctx->optlen > OPTION_MAX || (ctx->level == SOL_IPV6 && ctx->optname == IPV6_FLOWLABEL_MGR))
		ctx->optlen = 0;
	if (verdict != JOIN_REFUSED || !n)
		return ALLOW;
	bpf_set_retval(-ENODEV);
	return refuse(bpf_get_current_task_btf(), n->apps.apps[0], STAT_REFUSED_JOIN);
}

#endif
