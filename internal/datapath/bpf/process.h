/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The tracepoints that label processes ahead of their first socket: exec, birth, exit.
 *
 * Each runs in the task it speaks of, or in its creator, before the new image or the new process has executed one
 * instruction. All are idempotent. Since 7.0 the kernel may skip any of them under load; the socket hook does not rely
 * on them.
 */
#ifndef SIDESTEP_PROCESS_H
#define SIDESTEP_PROCESS_H

#include "label.h"
#include "script.h"

#ifdef DEAF
/* The deaf build, for tests only, loses events: this many in a hundred, at random. */
volatile const __u32 deaf_percent = 100;
#define LISTEN()                                                                                                       \
	do {                                                                                                           \
		if (bpf_get_prandom_u32() % 100 < deaf_percent)                                                        \
			return 0;                                                                                      \
	} while (0)
#else
#define LISTEN()
#endif

/* missed adds to a label what the process should have inherited. It returns 1 if there is any of that. */
static __noinline int missed(const struct config *cfg, struct task_struct *t, struct label *l)
{
	__u32 given = l->given, own = l->own;
	__u32 inherits;

	judge(cfg, t, inherit, l);
	inherits = (__u32)list_len(&l->apps) > l->own;
	l->given = given;
	l->own = own;
	return inherits;
}

SEC("tp_btf/sched_process_exec")
int BPF_PROG(on_exec, struct task_struct *t, int old_pid, struct linux_binprm *bprm)
{
	const struct config *cfg = get_config();
	__u64 start = t->group_leader->start_boottime; /* de_thread hands it on: it stays when another thread execs */
	__u32 tgid = t->tgid;
	struct list found = {};
	struct label l = {};
	struct file *exe;
	int had, inherits;

	LISTEN();
	if (!cfg)
		return 0;
	had = read_label(tgid, start, &l);
	l.given = script_app(cfg, t, bprm, &found);
	exe = t->mm->exe_file;
	if (exe)
		identify(cfg, exe, &found);
	l.own = list_len(&found);
	if (!l.own && !had)
		return 0; /* nearly every exec ends here */
	inherits = l.apps.apps[0] != 0;
	if (!had || l.exec_id + 1 != t->self_exec_id) /* its birth or an exec was missed, perhaps */
		inherits = missed(cfg, t, &l);
	l.start = start;
	l.exec_id = t->self_exec_id;
	if (!inherits)
		l.since = bpf_ktime_get_boot_ns();
	list_add_living(&found, &l.apps);
	l.apps = found;
	if (store(tgid, &l))
		return 0;
	if (l.own) {
		count(STAT_LABELLED_EXEC);
		emit_label(EVENT_EXEC, t, &l);
	}
	return 0;
}

/* born_of_nobody settles that a process made by CLONE_PARENT owes its parent nothing: it is what its creator is. Without
 * this label, which may fail for want of room, the socket hook would ask the parent.
 */
static __always_inline int born_of_nobody(struct task_struct *creator, struct task_struct *child)
{
	__u32 tgid = child->tgid;
	struct label l = { .start = child->start_boottime, .exec_id = child->self_exec_id };

	if (child->real_parent->tgid == creator->tgid)
		return 0; /* nearly every birth ends here */
	if (label_of_process(tgid, l.start))
		return 0; /* done by the other tracepoint */
	if (!label_of_process(child->real_parent->tgid, child->real_parent->group_leader->start_boottime))
		return 0;
	mark_labelled(tgid);
	if (bpf_map_update_elem(&labels, &tgid, &l, BPF_ANY))
		count(STAT_HELPER_FAILED);
	return 0;
}

/* born gives a new process what its creator is. current is the creator; the child has not run yet. */
static __always_inline int born(struct task_struct *child)
{
	struct task_struct *creator = bpf_get_current_task_btf();
	__u64 start = child->start_boottime;
	__u32 tgid = child->tgid;
	struct label l;

	if (!read_label(creator->tgid, creator->group_leader->start_boottime, &l) || !l.apps.apps[0])
		return born_of_nobody(creator, child);
	if (label_of_process(tgid, start))
		return 0; /* done by the other tracepoint */
	l.start = start;
	l.since = 0;
	if (store(tgid, &l))
		return 0;
	count(STAT_LABELLED_FORK);
	emit_label(EVENT_FORK, child, &l);
	return 0;
}

SEC("tp_btf/task_newtask")
int BPF_PROG(on_newtask, struct task_struct *child, __u64 clone_flags)
{
	LISTEN();
	return clone_flags & CLONE_THREAD ? 0 : born(child);
}

/* The second net under the first: where one of the two is missed, the other has seen the child. */
SEC("tp_btf/sched_process_fork")
int BPF_PROG(on_fork, struct task_struct *parent, struct task_struct *child)
{
	LISTEN();
	return child->tgid == parent->tgid ? 0 : born(child);
}

/* live is 0 once the last thread is in do_exit, also when the leader went first (or de_thread replaced it). */
SEC("tp_btf/sched_process_exit")
int BPF_PROG(on_exit, struct task_struct *t)
{
	__u32 tgid = t->tgid;
	struct label *l;

	LISTEN();
	if (t->signal->live.counter)
		return 0;
	l = label_of_process(tgid, t->group_leader->start_boottime);
	if (!l)
		return 0;
	emit_label(EVENT_EXIT, t, l);
	forget_label(tgid);
	return 0;
}

#endif
