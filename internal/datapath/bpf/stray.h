/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The walks over sockets, after a change of sides: which connections are where they must not be, for the agent to close.
 * The guard has stopped them already; closing lets programs notice. A listener has no flow: it moves at once.
 *
 * The kernel shows the sockets of the network namespace of whoever opens the walk: the one that we govern.
 */
#ifndef SIDESTEP_STRAY_H
#define SIDESTEP_STRAY_H

#include "side.h"
#include "kernel.h"

/* read_flow reads the two ends of a socket. */
static __always_inline void read_flow(const struct sock_common *skc, __u8 protocol, struct flow *f)
{
	f->protocol = protocol;
	f->local_port = skc->skc_num;
	f->remote_port = bpf_ntohs(skc->skc_dport);
	if (skc->skc_family == AF_INET) {
		set_ip4(&f->local, skc->skc_rcv_saddr);
		set_ip4(&f->remote, skc->skc_daddr);
		return;
	}
#pragma unroll
	for (int i = 0; i < 4; i++) {
		f->local.word[i] = skc->skc_v6_rcv_saddr.in6_u.u6_addr32[i];
		f->remote.word[i] = skc->skc_v6_daddr.in6_u.u6_addr32[i];
	}
	f->mapped = !f->remote.word[0] && !f->remote.word[1] && f->remote.word[2] == bpf_htonl(0xffff);
}

/* write_stray is a function of its own so that its argument's type is in the object, for bpf2go. */
static __noinline int write_stray(struct seq_file *seq, const struct stray *s)
{
	return bpf_seq_write(seq, s, sizeof(*s));
}

/* overstays reports whether a connection without a note came about over an uplink, which strict mode does not allow. */
static __always_inline int overstays(const struct config *cfg, const struct flow *f, __u32 mark)
{
	return cfg->strict && !mark && whose_address(&f->local) == ADDRESS_OUTSIDE && !place_of(&f->remote);
}

/* is_astray reports whether a connected socket is to be closed. */
static __always_inline int is_astray(const struct config *cfg, const struct note *n, __u32 mark, const struct flow *f)
{
	__u32 now = n ? (__u32)list_exit(&n->apps) : EXIT_DEFAULT;

	if (n && !is_steady(cfg, n, mark, now))
		return place_of(&f->remote) != PLACE_LOCAL;
	return now == EXIT_DEFAULT && overstays(cfg, f, mark);
}

static __always_inline void name_owner(struct stray *s, const struct note *n)
{
	if (!n)
		return;
	s->app = n->apps.apps[0];
	s->tgid = n->tgid;
}

/* move_listener takes a listener to the side of its app. */
static __always_inline int move_listener(const struct config *cfg, struct tcp_sock *tp, struct note *n, __u32 mark)
{
	__u32 now = list_exit(&n->apps);
	__u32 new_mark = mark_for(cfg, mark, now);

	if (is_steady(cfg, n, mark, now))
		return 0;
	if (bpf_setsockopt(tp, SOL_SOCKET, SO_MARK, &new_mark, sizeof(new_mark))) {
		count(STAT_HELPER_FAILED);
		return 0;
	}
	n->born = now;
	count(STAT_SOCKETS_MOVED);
	return 1;
}

/* is_owned reports whether a socket belongs to an app that the policy knows. */
static __always_inline int is_owned(const struct note *n)
{
	struct list living = {};

	if (n)
		list_add_living(&living, &n->apps);
	return living.apps[0] != 0;
}

/* tcp_kind says what is to be done about a TCP socket; 0 for nothing. */
static __always_inline __u32 tcp_kind(const struct config *cfg, struct tcp_sock *tp, struct note *n,
				      const struct flow *f)
{
	const struct sock *sk = &tp->inet_conn.icsk_inet.sk;
	__u8 state = sk->__sk_common.skc_state;
	__u32 mark = sk->sk_mark;

	if (state == TCP_LISTEN)
		return n && move_listener(cfg, tp, n, mark) ? STRAY_LISTENER : 0;
	if (is_astray(cfg, n, mark, f))
		return STRAY_FLOW;
	if (!sk->sk_socket && !is_owned(n) && (state == TCP_ESTABLISHED || state == TCP_CLOSE_WAIT) &&
	    !place_of(&f->remote))
		return STRAY_QUEUED;
	return 0;
}

SEC("iter/tcp")
int walk_tcp(struct bpf_iter__tcp *ctx)
{
	const struct config *cfg = get_config();
	struct sock_common *skc = ctx->sk_common;
	struct tcp_timewait_sock *tw;
	struct stray s = {};
	struct tcp_sock *tp;
	struct note *n;

	if (!cfg || !skc)
		return 0;
	read_flow(skc, IPPROTO_TCP, &s.flow);
	tw = bpf_skc_to_tcp_timewait_sock(skc);
	if (tw) {
		if (side_of_mark(cfg, tw->tw_sk.tw_mark) == EXIT_OUTSIDE && place_of(&s.flow.remote) != PLACE_LOCAL)
			s.kind = STRAY_ENDED;
	} else {
		tp = bpf_skc_to_tcp_sock(skc);
		if (!tp)
			return 0; /* a connection that is just coming in: its listener speaks for it */
		n = bpf_sk_storage_get(&notes, tp, NULL, 0);
		s.kind = tcp_kind(cfg, tp, n, &s.flow);
		s.link = skc->skc_bound_dev_if;
		s.cookie = bpf_get_socket_cookie(tp);
		name_owner(&s, n);
	}
	if (!s.kind)
		return 0;
	if (s.kind == STRAY_FLOW || s.kind == STRAY_ENDED)
		remember_cut(&s.flow);
	return write_stray(ctx->meta->seq, &s) != 0;
}

SEC("iter/udp")
int walk_udp(struct bpf_iter__udp *ctx)
{
	const struct config *cfg = get_config();
	struct udp_sock *udp = ctx->udp_sk;
	struct stray s = { .kind = STRAY_FLOW };
	struct sock *sk;
	struct note *n;

	if (!cfg || !udp)
		return 0;
	sk = &udp->inet.sk;
	if (sk->__sk_common.skc_state != TCP_ESTABLISHED)
		return 0; /* it has no peer, so nothing to close: the guard looks at each datagram */
	n = bpf_sk_storage_get(&notes, udp, NULL, 0);
	read_flow(&sk->__sk_common, IPPROTO_UDP, &s.flow);
	if (!is_astray(cfg, n, sk->sk_mark, &s.flow))
		return 0;
	if (n)
		n->unused = !(BPF_CORE_READ_BITFIELD(sk, sk_userlocks) & SOCK_BINDPORT_LOCK);
	s.link = sk->__sk_common.skc_bound_dev_if;
	s.cookie = bpf_get_socket_cookie(udp);
	name_owner(&s, n);
	remember_cut(&s.flow);
	return write_stray(ctx->meta->seq, &s) != 0;
}

#endif
