/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The door of a tunnel, on its tcx egress hook (Linux 6.6): what passes no cgroup hook.
 *
 * Invariant: nothing goes into the tunnel that has our mark (the last answers of a connection of an excluded program, in
 * TIME-WAIT), that an excluded program sends through a packet socket, or that the kernel answers with an uplink's address
 * (IPv6 resets).
 */
#ifndef SIDESTEP_TUNNEL_H
#define SIDESTEP_TUNNEL_H

#include "guard.h"

#define TCX_NEXT -1 /* include/uapi/linux/bpf.h: let the next program decide */
#define TCX_DROP 2

/* sender_is_outside reports whether the running process is excluded. A packet socket's packet gets here in its sender's
 * context.
 */
static __always_inline int sender_is_outside(void)
{
	struct task_struct *t = bpf_get_current_task_btf();
	struct label l;

	if (!t->mm || !read_label(t->tgid, t->group_leader->start_boottime, &l))
		return 0;
	return (__u32)list_exit(&l.apps) == EXIT_OUTSIDE;
}

SEC("tcx/egress")
int on_tunnel(struct __sk_buff *skb)
{
	const struct config *cfg = get_config();
	struct bpf_sock *sk = skb->sk;

	if (!cfg)
		return TCX_NEXT;
	if (side_of_mark(cfg, skb->mark) == EXIT_OUTSIDE)
		goto drop;
	if (sk)
		sk = bpf_sk_fullsock(sk);
	if (!sk) {
		if (is_from(skb, ADDRESS_OUTSIDE) || is_unwanted(skb, cfg))
			goto drop;
		return TCX_NEXT;
	}
	if (sk->family == AF_PACKET && sender_is_outside())
		goto drop;
	return TCX_NEXT;
drop:
	count(STAT_GUARD_TUNNEL);
	return TCX_DROP;
}

#endif
