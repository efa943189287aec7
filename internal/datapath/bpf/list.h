/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* A short list of apps, each once, in the order in which they were added: the order is the meaning. */
#ifndef SIDESTEP_LIST_H
#define SIDESTEP_LIST_H

#include "maps.h"

/* The functions that change a list are global: the verifier checks them once, and forgets what it knew of the list. */

/* list_add puts app at the end unless it is there already. It returns how many apps were forgotten for want of room. */
__noinline int list_add(struct list *l, __u32 app)
{
	if (!l || !app)
		return 0;
#pragma unroll
	for (int i = 0; i < APPS_MAX; i++) {
		if (l->apps[i] == app)
			return 0;
		if (!l->apps[i]) {
			l->apps[i] = app;
			return 0;
		}
	}
	count(STAT_APPS_FORGOTTEN);
	return 1;
}

__noinline int list_has(const struct list *l, __u32 app)
{
	if (!l)
		return 0;
#pragma unroll
	for (int i = 0; i < APPS_MAX; i++)
		if (l->apps[i] == app)
			return 1;
	return 0;
}

__noinline int list_len(const struct list *l)
{
	int n = 0;

	if (!l)
		return 0;
#pragma unroll
	for (int i = 0; i < APPS_MAX; i++)
		n += l->apps[i] != 0;
	return n;
}

/* list_add_living adds those of another list's apps that the policy still knows. */
__noinline int list_add_living(struct list *l, const struct list *from)
{
	if (!l || !from)
		return 0;
	for (int i = 0; i < APPS_MAX; i++) {
		__u32 app = from->apps[i];

		if (!app)
			break;
		if (bpf_map_lookup_elem(&apps, &app))
			list_add(l, app);
	}
	return 0;
}

/* list_keep_living forgets the apps that the policy does not know any more. */
__noinline int list_keep_living(struct list *l)
{
	struct list before;

	if (!l)
		return 0;
	before = *l;
	*l = (struct list){};
	return list_add_living(l, &before);
}

/* list_add_fresh adds those of another list's apps that are fresh, and those that `had` names. */
__noinline int list_add_fresh(struct list *l, const struct list *from, const struct list *had)
{
	if (!l || !from || !had)
		return 0;
	for (int i = 0; i < APPS_MAX; i++) {
		__u32 app = from->apps[i];
		struct app *a;

		if (!app)
			break;
		a = bpf_map_lookup_elem(&apps, &app);
		if (a && (a->fresh || list_has(had, app)))
			list_add(l, app);
	}
	return 0;
}

/* list_exit says where the sockets of a process with these apps go: the exit in the lower half, the index of the app
 * that decides in the upper.
 */
__noinline __u64 list_exit(const struct list *l)
{
	if (!l)
		return EXIT_DEFAULT;
	for (int i = 0; i < APPS_MAX; i++) {
		__u32 app = l->apps[i];
		struct app *a;

		if (!app)
			break;
		a = bpf_map_lookup_elem(&apps, &app);
		if (a && a->exit != EXIT_DEFAULT)
			return a->exit | (__u64)i << 32;
	}
	return EXIT_DEFAULT;
}

#endif
