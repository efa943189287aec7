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

static __always_inline int known_unlisted(const struct config *cfg, struct task_struct *t)
{
	__u32 tgid = t->tgid;
	struct stranger *u = bpf_map_lookup_elem(&unlisted, &tgid);

	return u && u->start == t->group_leader->start_boottime && u->exec_id == t->self_exec_id &&
	       u->generation == cfg->generation;
}

/* heal judges a process on the spot. It returns its label, or NULL if it has none: unlisted, or refused. */
static __always_inline struct label *heal(const struct config *cfg, struct task_struct *t, int *undecided)
{
	__u32 tgid = t->tgid;
	struct stranger u = { .generation = cfg->generation };
	struct label *had, l = {};

	l.start = t->group_leader->start_boottime;
	if (is_refused(tgid, l.start)) {
		*undecided = 1;
		return NULL;
	}
	had = label_of_process(tgid, l.start);
	judge(cfg, t, had, JUDGE_HEAL, &l);
	if (!l.apps.apps[0] && !had) {
		u.start = l.start;
		u.exec_id = l.exec_id;
		if (bpf_map_update_elem(&unlisted, &tgid, &u, BPF_ANY))
			count(STAT_HELPER_FAILED);
		return NULL;
	}
	if (bpf_map_update_elem(&labels, &tgid, &l, BPF_ANY)) {
		refuse_process(tgid, l.start);
		*undecided = 1;
		return NULL;
	}
	count(STAT_HEALED);
	emit_label(EVENT_HEAL, t, &l);
	return bpf_map_lookup_elem(&labels, &tgid);
}

/* note_socket remembers whose socket it is. */
static __always_inline int note_socket(struct bpf_sock *sk, const struct label *l, __u32 born)
{
	struct note *n = bpf_sk_storage_get(&notes, sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);

	if (!n)
		return -1;
	n->apps = l->apps;
	n->born = born;
	return 0;
}

SEC("cgroup/sock_create")
int on_socket(struct bpf_sock *sk)
{
	const struct config *cfg = get_config();
	struct task_struct *t = bpf_get_current_task_btf();
	__u32 exit, app;
	__u64 verdict;
	int undecided = 0;
	struct label *l;

	if (!cfg || bpf_get_netns_cookie(sk) != cfg->netns_cookie || !t->mm)
		return ALLOW;
	if (known_unlisted(cfg, t))
		return ALLOW;
	l = label_of_process(t->tgid, t->group_leader->start_boottime);
	if (!l || l->exec_id != t->self_exec_id)
		l = heal(cfg, t, &undecided);
	if (undecided)
		return refuse(t, 0, STAT_REFUSED_UNDECIDED);
	if (!l || !l->apps.apps[0])
		return ALLOW;
	verdict = list_exit(&l->apps);
	exit = verdict;
	app = l->apps.apps[verdict >> 32 & (APPS_MAX - 1)];
	if (exit == EXIT_DEFAULT) {
		if (note_socket(sk, l, exit))
			count(STAT_NOTES_FAILED);
		return ALLOW;
	}
	if (exit == EXIT_BLOCKED)
		return refuse(t, app, STAT_REFUSED_BLOCKED);
	if (sk->mark & ~cfg->mark_mask)
		return refuse(t, app, STAT_REFUSED_FOREIGN_MARK);
	if (note_socket(sk, l, exit))
		return refuse(t, app, STAT_REFUSED_NO_NOTE);
	sk->mark = exit << (cfg->mark_shift & 31) & cfg->mark_mask;
	count(STAT_SOCKETS_OUTSIDE);
	return ALLOW;
}

#endif
