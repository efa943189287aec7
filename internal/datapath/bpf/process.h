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
#define LISTEN()                                                    \
	do {                                                        \
		if (bpf_get_prandom_u32() % 100 < deaf_percent)     \
			return 0;                                   \
	} while (0)
#else
#define LISTEN()
#endif

SEC("tp_btf/sched_process_exec")
int BPF_PROG(on_exec, struct task_struct *t, int old_pid, struct linux_binprm *bprm)
{
	const struct config *cfg = get_config();
	__u32 tgid = t->tgid;
	struct list found = {};
	struct label l = {};
	struct label *had;
	struct file *exe;

	LISTEN();
	if (!cfg)
		return 0;
	/* The leader's start time stays with the process when another thread execs: de_thread copies it. */
	l.start = t->group_leader->start_boottime;
	l.given = script_app(cfg, t, bprm, &found);
	exe = t->mm->exe_file;
	if (exe)
		identify(cfg, exe, &found);
	l.own = list_len(&found);
	had = label_of_process(tgid, l.start);
	if (!l.own && !had)
		return 0; /* nearly every exec ends here */
	l.exec_id = t->self_exec_id;
	l.since = bpf_ktime_get_boot_ns();
	if (had) {
		if (had->apps.apps[0])
			l.since = had->since;
		list_add_living(&found, &had->apps);
	}
	l.apps = found;
	if (store(tgid, &l, BPF_ANY))
		return 0;
	if (l.own) {
		count(STAT_LABELLED_EXEC);
		emit_label(EVENT_EXEC, t, &l);
	}
	return 0;
}

/* born gives a new process what its creator is. current is the creator; the child has not run yet. */
static __always_inline int born(struct task_struct *child)
{
	struct task_struct *creator = bpf_get_current_task_btf();
	__u64 start = child->start_boottime;
	__u32 tgid = child->tgid;
	struct label *parent;
	struct label l;

	parent = label_of_process(creator->tgid, creator->group_leader->start_boottime);
	if (!parent) {
		if (is_refused(creator->tgid, creator->group_leader->start_boottime))
			refuse_process(tgid, start);
		return 0;
	}
	/* An entry of an earlier process with this tgid must not stop us, so no BPF_NOEXIST: compare instead. */
	if (!parent->apps.apps[0] || label_of_process(tgid, start))
		return 0;
	l = *parent;
	l.start = start;
	l.since = 0;
	if (store(tgid, &l, BPF_ANY))
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
	bpf_map_delete_elem(&labels, &tgid); /* another thread's exit may have been first */
	return 0;
}

#endif
