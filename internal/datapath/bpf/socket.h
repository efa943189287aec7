/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The decision: socket() of a process that belongs to an excluded app gets its mark and its note, or fails.
 *
 * It stands on nothing but the running task: a label that is missing or belongs to another process or image is made
 * here, from the executable and the nearest living ancestor that knows. Sockets of other network namespaces, and of
 * programs that no rule names, are left as they are.
 */
#ifndef SIDESTEP_SOCKET_H
#define SIDESTEP_SOCKET_H

#include "label.h"

#define ALLOW 1
#define REFUSE 0 /* socket() fails with EPERM */

static __always_inline int refuse(struct task_struct *t, __u32 app, __u32 stat)
{
	count(stat);
	emit(EVENT_REFUSED, t, app, CAUSE_DEFAULT, stat);
	return REFUSE;
}

/* known_stranger reports whether the program run was found to belong to no app, by today's rules. */
static __always_inline int known_stranger(const struct config *cfg, struct task_struct *t)
{
	__u32 tgid = t->tgid;
	struct stranger *s = bpf_map_lookup_elem(&unlisted, &tgid);

	return s && s->start == t->group_leader->start_boottime && s->exec_id == t->self_exec_id &&
	       s->generation == cfg->generation;
}

static __noinline int remember_stranger(__u32 tgid, const struct label *l, __u64 generation)
{
	struct stranger s = { .start = l->start, .exec_id = l->exec_id, .generation = generation };

	if (bpf_map_update_elem(&unlisted, &tgid, &s, BPF_ANY))
		count(STAT_HELPER_FAILED); /* it is judged again at its next socket */
	return 0;
}

/* heal judges a process on the spot, from the label it had (or nothing) in l. It returns -1 if it belongs to an app that
 * is in force, and that can't be stored.
 */
static __always_inline int heal(const struct config *cfg, struct task_struct *t, int had, struct label *l)
{
	__u64 generation = cfg->generation; /* before the rules are read: what changes meanwhile voids the answer */
	__u32 tgid = t->tgid;

	judge(cfg, t, inherit, l);
	if (!l->apps.apps[0] && had != FOUND_LABEL)
		return remember_stranger(tgid, l, generation);
	if (store(tgid, l))
		return (__u32)list_exit(&l->apps) == EXIT_DEFAULT ? 0 : -1;
	count(STAT_HEALED);
	emit_label(EVENT_HEAL, t, l);
	return 0;
}

/* know finds out which apps the calling process belongs to. It returns -1 if that can't be kept, so that the process must
 * not talk.
 */
static __always_inline int know(const struct config *cfg, struct task_struct *t, struct label *l)
{
	int had = read_label(t->tgid, t->group_leader->start_boottime, l);

	if (had == FOUND_LABEL && l->exec_id == t->self_exec_id)
		return 0;
	return heal(cfg, t, had, l);
}

/* note_socket remembers whose socket it is, and whether it has been used. */
static __always_inline int note_socket(struct bpf_sock *sk, struct task_struct *t, const struct label *l, __u32 born,
				       __u32 unused)
{
	struct note *n = bpf_sk_storage_get(&notes, sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);

	if (!n)
		return -1;
	n->apps = l->apps;
	n->born = born;
	n->tgid = t->tgid;
	n->maker = t->tgid;
	n->walked = 0;
	n->unused = unused;
	return 0;
}

/* lacks_mark reports whether the kernel gives what comes of such a socket neither mark nor note: the subflows of MPTCP, the
 * connections that SCTP accepts. Programs that ask for MPTCP fall back to TCP.
 */
static __always_inline int lacks_mark(__u32 protocol)
{
	if (protocol == IPPROTO_MPTCP)
		count(STAT_REFUSED_MPTCP);
	else if (protocol == IPPROTO_SCTP)
		count(STAT_REFUSED_SCTP);
	else
		return 0;
	return 1;
}

SEC("cgroup/sock_create")
int on_socket(struct bpf_sock *sk)
{
	const struct config *cfg = get_config();
	struct task_struct *t = bpf_get_current_task_btf();
	struct label l = {};
	__u32 exit, app;
	__u64 verdict;

	if (!cfg || bpf_get_netns_cookie(sk) != cfg->netns_cookie || !t->mm)
		return ALLOW;
	if (known_stranger(cfg, t))
		return ALLOW;
	if (know(cfg, t, &l))
		return refuse(t, 0, STAT_REFUSED_UNDECIDED);
	list_keep_living(&l.apps);
	if (!l.apps.apps[0])
		return ALLOW;
	verdict = list_exit(&l.apps);
	exit = verdict;
	app = l.apps.apps[verdict >> 32 & (APPS_MAX - 1)];
	if (exit == EXIT_DEFAULT) {
		if (note_socket(sk, t, &l, exit, 1))
			count(STAT_NOTES_FAILED);
		return ALLOW;
	}
	if (exit == EXIT_BLOCKED)
		return refuse(t, app, STAT_REFUSED_BLOCKED);
	if (lacks_mark(sk->protocol)) {
		bpf_set_retval(-EPROTONOSUPPORT);
		return REFUSE;
	}
	if (sk->mark & ~cfg->mark_mask)
		return refuse(t, app, STAT_REFUSED_FOREIGN_MARK);
	if (note_socket(sk, t, &l, exit, 1))
		return refuse(t, app, STAT_REFUSED_NO_NOTE);
	sk->mark = exit << (cfg->mark_shift & 31) & cfg->mark_mask;
	count(STAT_SOCKETS_OUTSIDE);
	return ALLOW;
}

#endif
