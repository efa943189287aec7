/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Labels: making them, checking that they belong to this very process and image, and making them good.
 *
 * Invariant: a label is believed only if its start time is the group leader's and its exec_id is the image's. One with
 * the right start and an older exec_id is what the same process was before an exec that was missed: its apps are
 * inherited, its own ones too.
 */
#ifndef SIDESTEP_LABEL_H
#define SIDESTEP_LABEL_H

#include "identify.h"

#define ANCESTORS_MAX 1024

static __always_inline __u64 *labelled_word(__u32 tgid)
{
	__u32 i = tgid / 64;

	return bpf_map_lookup_elem(&labelled, &i);
}

/* is_labelled_number reports whether there may be a label under a process number. */
static __always_inline int is_labelled_number(__u32 tgid)
{
	__u64 *word = labelled_word(tgid);

	return word && *word >> (tgid & 63) & 1;
}

/* mark_labelled comes before a label: who sees the bit missing is as early as who does not find the label yet. */
static __noinline int mark_labelled(__u32 tgid)
{
	__u64 *word = labelled_word(tgid);

	if (word)
		__sync_fetch_and_or(word, 1ULL << (tgid & 63));
	return 0;
}

/* forget_label is for a process that has ended. Its number is not free yet. */
static __noinline int forget_label(__u32 tgid)
{
	__u64 *word = labelled_word(tgid);

	bpf_map_delete_elem(&labels, &tgid); /* another thread's exit may have been first */
	if (word)
		__sync_fetch_and_and(word, ~(1ULL << (tgid & 63)));
	return 0;
}

static __always_inline struct label *label_of_process(__u32 tgid, __u64 start)
{
	struct label *l;

	if (!is_labelled_number(tgid))
		return NULL;
	l = bpf_map_lookup_elem(&labels, &tgid);
	return l && l->start == start ? l : NULL;
}

/* What read_label found. */
enum found {
	FOUND_NONE,
	FOUND_LABEL,
	FOUND_REFUSED, /* a label that found no room */
};

/* read_label copies the label of a process. The map reuses the memory of a replaced entry at once, for any process, so
 * a copy counts only if the entry is still the same one afterwards.
 */
static __noinline int read_label(__u32 tgid, __u64 start, struct label *copy)
{
	struct label none = {};
	__u32 zero = 0;
	__u32 *full;

	if (!is_labelled_number(tgid)) {
		*copy = none;
		return FOUND_NONE;
	}
	for (int i = 0; i < 4; i++) {
		struct label *l = bpf_map_lookup_elem(&labels, &tgid);

		if (!l || l->start != start)
			break;
		*copy = *l;
		barrier();
		if (l == bpf_map_lookup_elem(&labels, &tgid) && copy->start == start)
			return FOUND_LABEL;
	}
	*copy = none; /* judged anew; no worse than an event that was lost */
	full = bpf_map_lookup_elem(&overflow, &zero);
	if (full && *full) {
		struct label *l = bpf_map_lookup_elem(&refused, &tgid);

		if (l && l->start == start) {
			*copy = *l;
			return FOUND_REFUSED;
		}
	}
	return FOUND_NONE;
}

/* list_add_stable adds the apps of a label that is still in the map, and none if it was replaced meanwhile: as with
 * read_label, the memory may be another process's by then. It returns 1 if it added them.
 */
static __noinline int list_add_stable(struct list *found, const struct label *l, __u32 tgid)
{
	struct list before = *found;

	list_add_living(found, &l->apps);
	barrier();
	if (l == bpf_map_lookup_elem(&labels, &tgid))
		return 1;
	*found = before;
	return 0;
}

static __always_inline __u32 cause_of(const struct label *l, __u32 app, __u32 index)
{
	if (app == APP_LAUNCHED)
		return CAUSE_LAUNCHED;
	return index < l->own ? CAUSE_LISTED : CAUSE_INHERITED;
}

static __always_inline void emit(__u32 kind, struct task_struct *t, __u32 app, __u32 cause, __u32 reason)
{
	struct event *e = bpf_ringbuf_reserve(&events, sizeof(*e), 0);

	if (!e) {
		count(STAT_EVENTS_LOST);
		return;
	}
	e->time = bpf_ktime_get_boot_ns();
	e->kind = kind;
	e->tgid = t->tgid;
	e->ppid = t->real_parent->tgid;
	e->app = app;
	e->cause = cause;
	e->reason = reason;
	if (bpf_probe_read_kernel(e->comm, sizeof(e->comm), t->comm))
		e->comm[0] = 0;
	bpf_ringbuf_submit(e, 0);
}

/* emit_label tells what a process has become, unless its apps are only being prepared. */
static __always_inline void emit_label(__u32 kind, struct task_struct *t, const struct label *l)
{
	__u64 exit = list_exit(&l->apps);
	__u32 index = exit >> 32;
	__u32 app = l->apps.apps[index & (APPS_MAX - 1)];

	if ((__u32)exit != EXIT_DEFAULT)
		emit(kind, t, app, cause_of(l, app, index), 0);
}

/* refuse_process remembers a label that found no room: until it finds some, the process must not talk at all. */
static __noinline int refuse_process(__u32 tgid, const struct label *l)
{
	__u32 zero = 0, one = 1;

	count(STAT_LABELS_FULL);
	if (bpf_map_update_elem(&refused, &tgid, l, BPF_ANY))
		count(STAT_HELPER_FAILED);
	if (bpf_map_update_elem(&overflow, &zero, &one, BPF_ANY))
		count(STAT_HELPER_FAILED);
	return 0;
}

/* store keeps a label, or has the process refused. */
static __noinline int store(__u32 tgid, const struct label *l)
{
	mark_labelled(tgid);
	if (!bpf_map_update_elem(&labels, &tgid, l, BPF_ANY))
		return 0;
	refuse_process(tgid, l);
	return -1;
}

struct judge {
	const struct config *cfg;
	struct task_struct *task; /* going up */
	struct list found;
	const struct list *had; /* the apps it had */
	__u64 born; /* start of the process just below `task` */
};

/* inherit takes what a process should have inherited from one ancestor. It returns 1 once an ancestor knows: its label,
 * or its being a stranger, says all that there is to learn further up.
 */
static long inherit(__u32 i, struct judge *j)
{
	struct task_struct *t = j->task->real_parent;
	__u64 start = t->group_leader->start_boottime;
	__u32 tgid = t->tgid;
	struct stranger *u;
	struct label *l;
	struct file *exe;

	if (tgid <= 1)
		return 1; /* init's children are on their own; the swapper has none */
	l = label_of_process(tgid, start);
	if (l && l->exec_id == t->self_exec_id) {
		if (l->since > j->born)
			return 1; /* it had its child before it had its apps */
		if (list_add_stable(&j->found, l, tgid))
			return 1;
	}
	u = bpf_map_lookup_elem(&unlisted, &tgid);
	if (u && u->start == start && u->exec_id == t->self_exec_id && u->generation == j->cfg->generation)
		return 1;
	if (l)
		list_add(&j->found, l->given);
	exe = t->mm->exe_file;
	if (exe)
		identify(j->cfg, exe, &j->found);
	if (l && l->since <= j->born) /* of an image before an exec that was missed */
		list_add_stable(&j->found, l, tgid);
	j->born = start;
	j->task = t;
	return 0;
}

/* inherit_fresh takes, of one ancestor's own apps, those that are fresh, and those that the process had. */
static long inherit_fresh(__u32 i, struct judge *j)
{
	struct task_struct *t = j->task->real_parent;
	struct file *exe = t->mm->exe_file;
	__u32 tgid = t->tgid;
	struct list own = {};
	struct label *l;

	if (tgid <= 1)
		return 1;
	l = label_of_process(tgid, t->group_leader->start_boottime);
	if (l)
		list_add(&own, l->given);
	if (exe && exe != j->task->mm->exe_file) /* else it has not executed anything: the same again */
		identify(j->cfg, exe, &own);
	list_add_fresh(&j->found, &own, j->had);
	j->task = t;
	return 0;
}

/* judge makes the label of a process from its image, its living ancestors as `step` looks at them, and what l held: the
 * label it had, or nothing.
 */
static __always_inline void judge(const struct config *cfg, struct task_struct *t, long (*step)(__u32, struct judge *),
				  struct label *l)
{
	struct judge j = { .cfg = cfg, .task = t, .had = &l->apps };
	struct file *exe = t->mm->exe_file;

	if (l->exec_id != t->self_exec_id || !bpf_map_lookup_elem(&apps, &l->given))
		l->given = 0;
	l->start = t->group_leader->start_boottime;
	l->exec_id = t->self_exec_id;
	j.born = l->start;
	list_add(&j.found, l->given);
	if (exe)
		identify(cfg, exe, &j.found);
	l->own = list_len(&j.found);
	bpf_loop(ANCESTORS_MAX, step, &j, 0);
	list_add_living(&j.found, &l->apps);
	l->apps = j.found;
}

/* whole_label is read_label, and makes good what events had been missed: whoever adds to a label and stores it declares
 * it valid, and nobody asks the ancestors any more.
 */
static __always_inline int whole_label(const struct config *cfg, struct task_struct *t, struct label *l)
{
	int had = read_label(t->tgid, t->group_leader->start_boottime, l);

	if (!had || l->exec_id != t->self_exec_id)
		judge(cfg, t, inherit, l);
	return had;
}

#endif
