/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The door of a link that is closed to excluded programs, a tunnel as a rule, on its tcx egress hook (Linux 6.6): for what
 * passes no cgroup hook.
 *
 * Invariant: nothing of this machine goes in that has our mark (the last answers of a connection of an excluded program, in
 * TIME-WAIT), that an excluded program sends through a packet socket, or with which the kernel refuses what came by an
 * uplink (IPv6 resets). What is forwarded, and what opens a connection, passes: a listener speaks for its SYN-ACKs.
 */
#ifndef SIDESTEP_DOOR_H
#define SIDESTEP_DOOR_H

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
int on_door(struct __sk_buff *skb)
{
	const struct config *cfg = get_config();
	struct bpf_sock *sk = skb->sk;

	if (!cfg || skb->ingress_ifindex)
		return TCX_NEXT;
	if (side_of_mark(cfg, skb->mark) == EXIT_OUTSIDE)
		goto drop;
	if (sk && sk->state == TCP_NEW_SYN_RECV)
		return TCX_NEXT;
	if (sk)
		sk = bpf_sk_fullsock(sk);
	if (!sk) {
		if (is_misled(skb, cfg))
			goto drop;
		return TCX_NEXT;
	}
	if (sk->family == AF_PACKET && sender_is_outside())
		goto drop;
	return TCX_NEXT;
drop:
	count(STAT_GUARD_DOOR);
	return TCX_DROP;
}

#endif
