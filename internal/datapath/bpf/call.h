/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What a process does with a socket: bind, connect, sendto. The caller may be another than the one that made the socket,
 * or the same one on another side than then.
 *
 * Invariant: after these hooks the socket is on the caller's side, or the call is about a local place, or it has failed.
 * An unused socket goes where the caller is: nothing has been said with it, and it has no port that anybody knows. The
 * hooks do not see what is sent on a socket that is connected: there the guard is alone, and goes by the maker.
 */
#ifndef SIDESTEP_CALL_H
#define SIDESTEP_CALL_H

#include "side.h"
#include "socket.h"

enum call { BIND, CONNECT, SEND };

/* fail makes the call fail with an error that says why. */
static __always_inline int fail(struct task_struct *t, __u32 app, __u32 stat, int error)
{
	bpf_set_retval(-error);
	return refuse(t, app, stat);
}

/* is_unused reports whether a socket has no port: it was never bound, connected or sent from. To send a datagram the
 * kernel gives it one first, so there it is the note that knows.
 */
static __always_inline int is_unused(struct bpf_sock *sk, const struct note *n)
{
	return !sk->src_port || (n && n->unused && !sk->dst_port);
}

/* move puts an unused socket on the caller's side. */
static __always_inline int move(struct bpf_sock_addr *ctx, const struct config *cfg, struct task_struct *t,
				const struct label *l, __u32 side)
{
	__u32 mark = mark_for(cfg, ctx->sk->mark, side);

	if (lacks_mark(ctx->sk->protocol))
		return -1;
	if (note_socket(ctx->sk, t, l, side, 0)) {
		count(STAT_NOTES_FAILED);
		return -1;
	}
	if (bpf_setsockopt(ctx, SOL_SOCKET, SO_MARK, &mark, sizeof(mark))) {
		count(STAT_HELPER_FAILED);
		return -1;
	}
	count(STAT_SOCKETS_MOVED);
	return 0;
}

/* agrees reports whether a socket is on the side that the caller is on, for all that is known of it. */
static __always_inline int agrees(const struct config *cfg, struct bpf_sock *sk, const struct note *n, __u32 side)
{
	if (!n)
		return side == EXIT_DEFAULT; /* a mark without a note is not ours, or its owner's own business */
	return is_steady(cfg, n, sk->mark, side) && (__u32)list_exit(&n->apps) == side;
}

/* decide says what becomes of a call by a process with this label; a is the address that it names. */
static __always_inline int decide(struct bpf_sock_addr *ctx, const struct label *l, const struct address *a,
				  enum call call)
{
	struct task_struct *t = bpf_get_current_task_btf();
	const struct config *cfg = get_config();
	__u64 verdict = list_exit(&l->apps);
	__u32 app = l->apps.apps[verdict >> 32 & (APPS_MAX - 1)];
	struct bpf_sock *sk = ctx->sk;
	__u32 side = verdict;
	struct note *n;
	__u32 link;

	if (!cfg || !sk)
		return ALLOW;
	if (side == EXIT_BLOCKED)
		return refuse(t, app, STAT_REFUSED_BLOCKED);
	n = bpf_sk_storage_get(&notes, sk, NULL, 0);
	if (!agrees(cfg, sk, n, side)) {
		if (is_unused(sk, n)) {
			if (move(ctx, cfg, t, l, side))
				return refuse(t, app, STAT_REFUSED_NO_NOTE);
			if (call == SEND) /* the next datagram: this one was routed before it got here */
				return refuse(t, app, STAT_REFUSED_HANDED);
		} else if (call != BIND && place_of(a) != PLACE_LOCAL) {
			return refuse(t, app, STAT_REFUSED_HANDED);
		}
	} else if (n) {
		n->unused = 0;
	}
	if (side != EXIT_OUTSIDE)
		return ALLOW;
	if (call == BIND && whose_address(a) == ADDRESS_INSIDE)
		return fail(t, app, STAT_REFUSED_BIND, EADDRNOTAVAIL);
	link = sk->bound_dev_if;
	if (call == CONNECT && link && !is_permitted(link))
		return fail(t, app, STAT_REFUSED_BIND, ENETUNREACH);
	return ALLOW;
}

/* know_caller finds out which apps the calling process belongs to. It does not judge, which takes long and is done at
 * socket(): whom nobody has judged yet (its exec was missed, and it has made no socket) is taken for the maker of the
 * socket. It returns 0 if there is nothing to decide, and -1 if the caller must not talk.
 */
static __noinline int know_caller(struct bpf_sock_addr *ctx, struct label *l)
{
	struct task_struct *t = bpf_get_current_task_btf();
	const struct config *cfg = get_config();
	struct note *n;
	int had;

	if (!cfg || !ctx->sk || bpf_get_netns_cookie(ctx) != cfg->netns_cookie || !t->mm)
		return 0;
	had = read_label(t->tgid, t->group_leader->start_boottime, l);
	if (had == FOUND_REFUSED)
		return -1;
	if (had)
		return 1;
	n = bpf_sk_storage_get(&notes, ctx->sk, NULL, 0);
	if (!n)
		return 0; /* nearly every call ends here */
	if (!known_stranger(cfg, t))
		l->apps = n->apps;
	return 1;
}

/* claim decides one call; a is the address that it names. */
static __always_inline int claim(struct bpf_sock_addr *ctx, const struct address *a, enum call call)
{
	struct label l = {};
	int known = know_caller(ctx, &l);

	if (known < 0)
		return refuse(bpf_get_current_task_btf(), 0, STAT_REFUSED_UNDECIDED);
	return known ? decide(ctx, &l, a, call) : ALLOW;
}

static __always_inline int claim4(struct bpf_sock_addr *ctx, enum call call)
{
	struct address a;

	set_ip4(&a, ctx->user_ip4);
	return claim(ctx, &a, call);
}

static __always_inline int claim6(struct bpf_sock_addr *ctx, enum call call)
{
	struct address a;

	a.word[0] = ctx->user_ip6[0];
	a.word[1] = ctx->user_ip6[1];
	a.word[2] = ctx->user_ip6[2];
	a.word[3] = ctx->user_ip6[3];
	return claim(ctx, &a, call);
}

SEC("cgroup/bind4")
int on_bind4(struct bpf_sock_addr *ctx)
{
	return claim4(ctx, BIND);
}

SEC("cgroup/bind6")
int on_bind6(struct bpf_sock_addr *ctx)
{
	return claim6(ctx, BIND);
}

SEC("cgroup/connect4")
int on_connect4(struct bpf_sock_addr *ctx)
{
	return claim4(ctx, CONNECT);
}

SEC("cgroup/connect6")
int on_connect6(struct bpf_sock_addr *ctx)
{
	return claim6(ctx, CONNECT);
}

SEC("cgroup/sendmsg4")
int on_sendmsg4(struct bpf_sock_addr *ctx)
{
	return claim4(ctx, SEND);
}

SEC("cgroup/sendmsg6")
int on_sendmsg6(struct bpf_sock_addr *ctx)
{
	return claim6(ctx, SEND);
}

#endif
