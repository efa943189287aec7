/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The agent's walks over what lives already: seed labels processes, assign labels one, note marks whose an open socket
 * is, disown and subflow mend that, holders tells who holds what, list answers `sidestep ps`. Order: the tracepoints are attached, then rules and fresh apps written, then seed,
 * then note, then the app is put in force by one write.
 */
#ifndef SIDESTEP_WALK_H
#define SIDESTEP_WALK_H

#include "label.h"
#include "stray.h"

/* speaks picks one task for each process: the leader, or any thread once the leader has left its memory behind. */
static __always_inline int speaks(struct task_struct *t)
{
	return t->mm && (t->pid == t->tgid || !t->group_leader->mm);
}

/* is_news reports whether a label says something that the stored one does not, and is not older than that: an exec may
 * have been faster.
 */
static __noinline int is_news(__u32 tgid, const struct label *l)
{
	struct label *stored = label_of_process(tgid, l->start);

	if (!stored)
		return l->apps.apps[0] != 0;
	if (stored->exec_id != l->exec_id)
		return stored->exec_id < l->exec_id;
#pragma unroll
	for (int i = 0; i < APPS_MAX; i++)
		if (stored->apps.apps[i] != l->apps.apps[i])
			return 1;
	return stored->own != l->own;
}

/* reseed judges a process anew. Should an exec slip in between the question and the store, the older exec_id does no
 * harm: the socket hook takes the stale label's apps as inherited and judges the new image itself.
 */
static __always_inline void reseed(const struct config *cfg, struct task_struct *t)
{
	__u32 tgid = t->tgid;
	struct label l = {};

	whole_label(cfg, t, &l);
	if (!l.apps.apps[0])
		l.since = 0;
	judge(cfg, t, inherit_fresh, &l);
	if (is_news(tgid, &l) && !store(tgid, &l))
		count(STAT_LABELLED_SEED);
}

SEC("iter/task")
int walk_seed(struct bpf_iter__task *ctx)
{
	const struct config *cfg = get_config();
	struct task_struct *t = ctx->task;
	__u32 zero = 0;
	struct request *r = bpf_map_lookup_elem(&requests, &zero);

	if (cfg && t && r && speaks(t) && t->group_leader->start_boottime >= r->born)
		reseed(cfg, t);
	return 0;
}

/* assign gives one process an app by name: what a running script, or `sidestep run`, can't be seen to be. */
SEC("iter/task")
int walk_assign(struct bpf_iter__task *ctx)
{
	const struct config *cfg = get_config();
	struct task_struct *t = ctx->task;
	struct request *r;
	struct label l = {};
	struct list apps = {};
	__u32 zero = 0;
	__u32 tgid;

	if (!cfg || !t || !speaks(t))
		return 0;
	tgid = t->tgid;
	r = bpf_map_lookup_elem(&requests, &zero);
	if (!r || r->tgid != tgid)
		return 0;
	whole_label(cfg, t, &l);
	l.start = t->group_leader->start_boottime;
	l.exec_id = t->self_exec_id;
	l.given = r->app;
	list_keep_living(&l.apps);
	if (!l.apps.apps[0]) /* children born until now are on their own, unless a fresh app's seed finds them */
		l.since = bpf_ktime_get_boot_ns();
	l.own += !list_has(&l.apps, r->app);
	list_add(&apps, r->app);
	list_add_living(&apps, &l.apps);
	l.apps = apps;
	if (store(tgid, &l))
		return 0;
	count(STAT_LABELLED_SEED);
	emit_label(EVENT_SEED, t, &l);
	if (bpf_seq_write(ctx->meta->seq, &tgid, sizeof(tgid))) /* the answer: it was found and labelled */
		count(STAT_HELPER_FAILED);
	return 0;
}

/* socket_of is the IPv4 or IPv6 socket of our network namespace that a file is, if it is one. */
static __always_inline struct sock *socket_of(const struct config *cfg, struct file *file)
{
	struct socket *socket = bpf_sock_from_file(file);
	struct sock *sk;
	__u16 family;

	if (!socket)
		return NULL;
	sk = socket->sk;
	if (!sk)
		return NULL;
	family = sk->__sk_common.skc_family;
	if ((family != AF_INET && family != AF_INET6) || sk->__sk_common.skc_net.net->net_cookie != cfg->netns_cookie)
		return NULL;
	return sk;
}

/* stamp tells the notes of this walk from earlier ones, which have been acted upon. */
static __always_inline __u32 stamp(const struct config *cfg)
{
	return (__u32)cfg->generation | 1u << 31;
}

/* note_held notes that a process of an app holds a socket. It is the process's if that made it, or if it belongs to nobody:
 * that is a guess. It returns 1 if this walk has guessed.
 */
static __noinline int note_held(const struct config *cfg, struct sock *sk, __u32 tgid, const struct list *apps)
{
	struct note *n;

	if (!sk || !cfg)
		return 0;
	n = bpf_sk_storage_get(&notes, sk, NULL, 0);
	if (!n) {
		n = bpf_sk_storage_get(&notes, sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);
		if (!n) {
			count(STAT_NOTES_FAILED);
			return 0;
		}
		n->born = side_of_mark(cfg, sk->sk_mark);
		count(STAT_SOCKETS_NOTED);
	}
	if (!sk->__sk_common.skc_num)
		n->unused = 1;
	if (n->maker == tgid) {
		n->walked = 0;
	} else {
		if (is_owned(n))
			return n->walked == stamp(cfg);
		n->walked = stamp(cfg);
	}
	n->apps = *apps;
	n->tgid = tgid;
	return n->walked != 0;
}

/* remember_mptcp keeps whose an MPTCP socket is, for the walk over subflows. */
static __noinline int remember_mptcp(struct sock *sk, __u32 tgid, const struct list *apps)
{
	struct flow f = {};
	struct owner o = { .apps = *apps, .tgid = tgid };

	if (!sk)
		return 0;
	read_flow(&sk->__sk_common, 0, &f);
	if (bpf_map_update_elem(&mptcp, &f, &o, BPF_ANY))
		count(STAT_NOTES_FAILED);
	return 0;
}

static __noinline int forget_mptcp(struct sock *sk)
{
	struct flow f = {};

	if (!sk)
		return 0;
	read_flow(&sk->__sk_common, 0, &f);
	bpf_map_delete_elem(&mptcp, &f); /* another holder may have been first */
	return 0;
}

/* is_labelled reports whether a process belongs to an app that the policy knows, and reads its label. */
static __always_inline int is_labelled(struct task_struct *t, struct label *l)
{
	if (!read_label(t->tgid, t->group_leader->start_boottime, l))
		return 0;
	list_keep_living(&l->apps);
	return l->apps.apps[0] != 0;
}

/* note gives every open socket of a labelled process its note, so that a later change of sides knows it. It writes a byte,
 * whatever it is, for each that disown should look at.
 */
SEC("iter/task_file")
int walk_note(struct bpf_iter__task_file *ctx)
{
	const struct config *cfg = get_config();
	struct task_struct *t = ctx->task;
	struct file *file = ctx->file;
	struct label l;
	struct sock *sk;
	__u8 guessed;

	if (!cfg || !t || !file)
		return 0;
	sk = socket_of(cfg, file);
	if (!sk)
		return 0;
	if (!is_labelled(t, &l))
		return 0;
	guessed = note_held(cfg, sk, t->tgid, &l.apps);
	if (sk->sk_protocol == IPPROTO_MPTCP)
		remember_mptcp(sk, t->tgid, &l.apps);
	return guessed && bpf_seq_write(ctx->meta->seq, &guessed, 1);
}

/* disown takes back what note has just guessed of a socket that a process of no app holds too: nobody knows who made it,
 * and an included program must not lose its connection.
 */
SEC("iter/task_file")
int walk_disown(struct bpf_iter__task_file *ctx)
{
	const struct config *cfg = get_config();
	struct task_struct *t = ctx->task;
	struct file *file = ctx->file;
	struct note *n;
	struct label l;
	struct sock *sk;

	if (!cfg || !t || !file)
		return 0;
	sk = socket_of(cfg, file);
	if (!sk)
		return 0;
	n = bpf_sk_storage_get(&notes, sk, NULL, 0);
	if (!n || n->walked != stamp(cfg))
		return 0;
	if (is_labelled(t, &l))
		return 0;
	n->apps = (struct list){}; /* who made it, and where it was born, stays true */
	n->tgid = n->maker;
	if (sk->sk_protocol == IPPROTO_MPTCP)
		forget_mptcp(sk);
	return 0;
}

/* subflow notes what carries an MPTCP socket: the kernel's own TCP socket, which has the same two ends and no file. */
SEC("iter/tcp")
int walk_subflow(struct bpf_iter__tcp *ctx)
{
	const struct config *cfg = get_config();
	struct sock_common *skc = ctx->sk_common;
	struct tcp_sock *tp;
	struct flow f = {};
	struct owner *o;

	if (!cfg || !skc)
		return 0;
	tp = bpf_skc_to_tcp_sock(skc);
	if (!tp)
		return 0;
	read_flow(skc, 0, &f);
	o = bpf_map_lookup_elem(&mptcp, &f);
	if (o)
		note_held(cfg, &tp->inet_conn.icsk_inet.sk, o->tgid, &o->apps);
	return 0;
}

/* CARRIED is in place of the stamp of a walk of another datapath: a guess as any, and of no walk of ours. */
#define CARRIED 1

/* carry copies the notes of another datapath, of another layout, that we take over from: to sockets that have none of ours. */
SEC("iter/bpf_sk_storage_map")
int walk_carry(struct bpf_iter__bpf_sk_storage_map *ctx)
{
	const struct note *old = ctx->value;
	struct sock *sk = ctx->sk;
	struct note *n;

	if (!sk || !old || bpf_sk_storage_get(&notes, sk, NULL, 0))
		return 0;
	n = bpf_sk_storage_get(&notes, sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);
	if (!n) { /* no memory; or the socket has ended meanwhile, which under load is common */
		count(STAT_NOTES_FAILED);
		return 0;
	}
	n->born = old->born;
	n->tgid = old->tgid;
	n->maker = old->maker;
	n->walked = old->walked ? CARRIED : 0;
	n->told = old->told;
	n->unused = old->unused;
	n->apps = old->apps;
	return 0;
}

/* write_holder is a function of its own so that its argument's type is in the object, for bpf2go. */
static __noinline int write_holder(struct seq_file *seq, const struct holder *h)
{
	return bpf_seq_write(seq, h, sizeof(*h));
}

/* stays reports whether a socket may live on when everything is taken back: it listens, or its peer is local. */
static __always_inline int stays(const struct sock *sk)
{
	struct flow f = {};

	read_flow(&sk->__sk_common, sk->sk_protocol, &f);
	if (sk->sk_type == SOCK_STREAM)
		return 1; /* what is left of them after the stray walk */
	return sk->__sk_common.skc_state == TCP_ESTABLISHED && place_of(&f.remote) == PLACE_LOCAL;
}

/* holders lists who holds the sockets that were made outside. */
SEC("iter/task_file")
int walk_holders(struct bpf_iter__task_file *ctx)
{
	const struct config *cfg = get_config();
	struct task_struct *t = ctx->task;
	struct file *file = ctx->file;
	struct holder h = {};
	struct note *n;
	struct sock *sk;

	if (!cfg || !t || !file)
		return 0;
	sk = socket_of(cfg, file);
	if (!sk)
		return 0;
	n = bpf_sk_storage_get(&notes, sk, NULL, 0);
	if (!n || (n->born != EXIT_OUTSIDE && side_of_mark(cfg, sk->sk_mark) != EXIT_OUTSIDE))
		return 0;
	h.cookie = bpf_get_socket_cookie(sk);
	h.pid = t->pid;
	h.fd = ctx->fd;
	h.stays = stays(sk);
	return write_holder(ctx->meta->seq, &h) != 0;
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
	struct label l = {};
	__u64 exit;
	int had;

	if (!cfg || !t || !speaks(t))
		return 0;
	had = whole_label(cfg, t, &l); /* what the socket hook would make of it */
	p.tgid = t->tgid;
	p.ppid = t->real_parent->tgid;
	if (bpf_probe_read_kernel(p.comm, sizeof(p.comm), t->comm))
		count(STAT_HELPER_FAILED);
	exit = list_exit(&l.apps);
	if (t->nsproxy->net_ns->net_cookie != cfg->netns_cookie)
		exit = EXIT_DEFAULT; /* its sockets are none of ours */
	if ((__u32)exit != EXIT_DEFAULT && had == FOUND_REFUSED) {
		p.verdict = VERDICT_UNDECIDED;
	} else if ((__u32)exit != EXIT_DEFAULT) {
		p.verdict = VERDICT_EXCLUDED;
		p.app = l.apps.apps[exit >> 32 & (APPS_MAX - 1)];
		p.cause = cause_of(&l, p.app, exit >> 32);
	}
	if (write_process(ctx->meta->seq, &p))
		return 1; /* the kernel grows its buffer and comes back to this task */
	return 0;
}

#endif
