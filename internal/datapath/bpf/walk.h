/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The agent's walks over what lives already: seed labels processes, assign labels one, note marks whose an open socket
 * is, list answers `sidestep ps`. Order: the tracepoints are attached, then rules and fresh apps written, then seed,
 * then note, then the app is put in force by one write.
 */
#ifndef SIDESTEP_WALK_H
#define SIDESTEP_WALK_H

#include "label.h"

/* speaks picks one task for each process: the leader, or any thread once the leader has left its memory behind. */
static __always_inline int speaks(struct task_struct *t)
{
	return t->mm && (t->pid == t->tgid || !t->group_leader->mm);
}

static __always_inline int same_apps(const struct label *a, const struct label *b)
{
#pragma unroll
	for (int i = 0; i < APPS_MAX; i++)
		if (a->apps.apps[i] != b->apps.apps[i])
			return 0;
	return a->own == b->own && a->exec_id == b->exec_id;
}

/* reseed judges a process anew. What exec wrote meanwhile is newer: an older exec_id never replaces it for good, the
 * socket hook takes the stale label's apps as inherited and judges the new image itself.
 */
static __always_inline void reseed(const struct config *cfg, struct task_struct *t)
{
	__u64 start = t->group_leader->start_boottime;
	__u32 tgid = t->tgid;
	struct label l = {};
	struct label *had = label_of_process(tgid, start);

	judge(cfg, t, had, JUDGE_SEED, &l);
	if (had ? same_apps(had, &l) : !l.apps.apps[0])
		return;
	if (had && !had->apps.apps[0])
		l.since = 0;
	if (store(tgid, &l, BPF_ANY))
		return;
	count(STAT_LABELLED_SEED);
}

SEC("iter/task")
int walk_seed(struct bpf_iter__task *ctx)
{
	const struct config *cfg = get_config();
	struct task_struct *t = ctx->task;

	if (cfg && t && speaks(t))
		reseed(cfg, t);
	return 0;
}

/* assign gives one process an app by name: what a running script, or `sidestep run`, can't be seen to be. */
SEC("iter/task")
int walk_assign(struct bpf_iter__task *ctx)
{
	struct task_struct *t = ctx->task;
	struct request *r;
	struct label *had, l = {};
	struct list apps = {};
	__u32 zero = 0;
	__u32 tgid;

	if (!t || !speaks(t))
		return 0;
	tgid = t->tgid;
	r = bpf_map_lookup_elem(&requests, &zero);
	if (!r || r->tgid != tgid)
		return 0;
	l.start = t->group_leader->start_boottime;
	l.exec_id = t->self_exec_id;
	l.given = r->app;
	l.own = 1;
	list_add(&apps, r->app);
	had = label_of_process(tgid, l.start);
	if (had) {
		l.own = had->own + !list_has(&had->apps, r->app);
		l.since = had->since;
		list_add_living(&apps, &had->apps);
	}
	l.apps = apps;
	if (store(tgid, &l, BPF_ANY))
		return 0;
	bpf_map_delete_elem(&unlisted, &tgid); /* it may well not be there */
	count(STAT_LABELLED_SEED);
	emit_label(EVENT_SEED, t, &l);
	if (bpf_seq_write(ctx->meta->seq, &tgid, sizeof(tgid))) /* the answer: it was found and labelled */
		count(STAT_HELPER_FAILED);
	return 0;
}

/* note gives every open socket of a labelled process its note, so that a later change of sides knows it. */
SEC("iter/task_file")
int walk_note(struct bpf_iter__task_file *ctx)
{
	const struct config *cfg = get_config();
	struct task_struct *t = ctx->task;
	struct file *file = ctx->file;
	struct socket *socket;
	struct label *l;
	struct sock *sk;
	struct note *n;
	__u16 family;

	if (!cfg || !t || !file)
		return 0;
	l = label_of_process(t->tgid, t->group_leader->start_boottime);
	if (!l || !l->apps.apps[0])
		return 0;
	socket = bpf_sock_from_file(file);
	if (!socket)
		return 0;
	sk = socket->sk;
	if (!sk)
		return 0;
	family = sk->__sk_common.skc_family;
	if ((family != AF_INET && family != AF_INET6) || sk->__sk_common.skc_net.net->net_cookie != cfg->netns_cookie)
		return 0;
	n = bpf_sk_storage_get(&notes, sk, NULL, 0);
	if (!n) {
		n = bpf_sk_storage_get(&notes, sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);
		if (!n) {
			count(STAT_NOTES_FAILED);
			return 0;
		}
		n->born = (sk->sk_mark & cfg->mark_mask) >> (cfg->mark_shift & 31);
		count(STAT_SOCKETS_NOTED);
	}
	n->apps = l->apps;
	return 0;
}

/* write_process is a function of its own so that its argument's type is in the object, for bpf2go. */
static __noinline int write_process(struct seq_file *seq, const struct process *p)
{
	return bpf_seq_write(seq, p, sizeof(*p));
}

SEC("iter/task")
int walk_list(struct bpf_iter__task *ctx)
{
	const struct config *cfg = get_config();
	struct task_struct *t = ctx->task;
	struct process p = {};
	struct label now = {};
	const struct label *l;
	__u64 exit;

	if (!cfg || !t || !speaks(t))
		return 0;
	p.tgid = t->tgid;
	p.ppid = t->real_parent->tgid;
	if (bpf_probe_read_kernel(p.comm, sizeof(p.comm), t->comm))
		count(STAT_HELPER_FAILED);
	l = label_of_process(p.tgid, t->group_leader->start_boottime);
	if (!l || l->exec_id != t->self_exec_id) { /* what the socket hook would make of it */
		judge(cfg, t, l, JUDGE_HEAL, &now);
		l = &now;
	}
	exit = list_exit(&l->apps);
	if (is_refused(p.tgid, t->group_leader->start_boottime)) {
		p.verdict = VERDICT_UNDECIDED;
	} else if ((__u32)exit != EXIT_DEFAULT) {
		p.verdict = VERDICT_EXCLUDED;
		p.app = l->apps.apps[exit >> 32 & (APPS_MAX - 1)];
		p.cause = cause_of(l, p.app, exit >> 32);
	}
	if (write_process(ctx->meta->seq, &p))
		return 1; /* the kernel grows its buffer and comes back to this task */
	return 0;
}

#endif
