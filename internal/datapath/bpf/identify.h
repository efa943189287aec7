/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Which apps name this file?
 *
 * A file is (file system, path within it): the device of the superblock and the names from the dentry up to the
 * superblock's root, hashed. Mounts, mount namespaces, chroots and argv play no part in it. The base name is looked up
 * first, so a file that no rule could mean costs one short hash. Directory rules are found on the same way up.
 */
#ifndef SIDESTEP_IDENTIFY_H
#define SIDESTEP_IDENTIFY_H

#include "hash.h"
#include "kernel.h"
#include "list.h"

#define DEPTH_MAX 2048 /* PATH_MAX / 2: deeper than any path that can be named */

/* For so many folders, nearest first, a program's path is climbed: those that bear the name of a listed one. Whoever makes more
 * of them does so to keep the processor busy.
 */
#define NAMESAKES_MAX 64

/* Dentries are numbers here, got and read by helper, which to the verifier pointers are not: then the functions that climb can
 * be global, and it checks them once for each program, not in every state in which they are called.
 */

/* What one look at a dentry tells: both fields, side by side in the kernel since 2.6.38. */
struct look {
	__u64 parent; /* the dentry itself at the root of the file system */
	struct qstr name;
};

/* look_at reads a dentry. It returns 0 if that can't be read. */
static __always_inline int look_at(__u64 dentry, struct look *l)
{
	struct dentry *d = (struct dentry *)dentry;
	int err;

	if (bpf_core_field_offset(d->d_name) == bpf_core_field_offset(d->d_parent) + sizeof(l->parent))
		err = bpf_core_read(l, sizeof(*l), &d->d_parent);
	else
		err = bpf_core_read(&l->parent, sizeof(l->parent), &d->d_parent) ||
		      bpf_core_read(&l->name, sizeof(l->name), &d->d_name);
	return !err;
}

static __always_inline __u64 name_len(const struct look *l)
{
	return l->name.hash_len >> 32;
}

/* name_kinds says of which kinds there are rules that end in this name. */
__noinline __u32 name_kinds(const struct config *cfg, __u64 name, __u64 len)
{
	struct sip s;
	__u32 *kinds;

	if (!cfg)
		return 0;
	sip_init(&s, cfg);
	if (sip_name(&s, name, len)) {
		count(STAT_HELPER_FAILED);
		return 0;
	}
	sip_end(&s);
	kinds = bpf_map_lookup_elem(&names, &s.v0);
	return kinds ? *kinds : 0;
}

struct climb {
	__u64 d;
	struct sip s;
};

static long climb_step(__u32 i, struct climb *c)
{
	struct look l;

	if (!look_at(c->d, &l)) {
		c->s.failed = 1;
		return 1;
	}
	if (l.parent == c->d)
		return 1; /* the root of the file system */
	c->d = l.parent;
	return sip_name(&c->s, (__u64)l.name.name, name_len(&l)) & 1;
}

/* device_of reads the device of a dentry's file system. It returns 0 if it can't be read: no file system has that. */
static __always_inline __u32 device_of(__u64 dentry)
{
	struct dentry *d = (struct dentry *)dentry;
	struct super_block *sb;
	__u32 device = 0;

	if (bpf_core_read(&sb, sizeof(sb), &d->d_sb) || bpf_core_read(&device, sizeof(device), &sb->s_dev))
		count(STAT_HELPER_FAILED);
	return device;
}

/* rule_above ends a path: it absorbs d and everything above it, then asks whether a rule of this kind says so. */
static __always_inline __u32 rule_above(struct climb *c, __u32 kind)
{
	__u32 *app;

	if (bpf_loop(DEPTH_MAX, climb_step, c, 0) == DEPTH_MAX)
		return 0; /* deeper than any rule */
	if (c->s.failed) {
		count(STAT_HELPER_FAILED);
		return 0;
	}
	sip_word(&c->s, device_of(c->d) | (__u64)kind << 32);
	sip_end(&c->s);
	app = bpf_map_lookup_elem(&rules, &c->s); /* a rule_key is the first two words of a finished hash */
	return app ? *app : 0;
}

__noinline __u32 rule_of(const struct config *cfg, __u64 dentry, __u32 kind)
{
	struct climb c = { .d = dentry };

	if (!cfg)
		return 0;
	sip_init(&c.s, cfg);
	return rule_above(&c, kind);
}

struct rise {
	const struct config *cfg;
	__u64 d;
	struct list *found;
	__u32 kind; /* of rule that d may be in: KIND_FILE where one has its name, 0 where none has, above that KIND_DIR */
	__u32 namesakes;
};

static long rise_step(__u32 i, struct rise *c)
{
	__u32 kind = c->kind;
	struct look l;
	__u64 d = c->d;

	if (!look_at(d, &l)) {
		count(STAT_HELPER_FAILED);
		return 1;
	}
	/* The root, too, is a directory that can be listed: where a file system is mounted. Its name is "/". */
	if (kind == KIND_DIR && !(name_kinds(c->cfg, (__u64)l.name.name, name_len(&l)) & NAME_DIR))
		kind = 0;
	if (kind) {
		if (c->namesakes++ == NAMESAKES_MAX) {
			count(STAT_HELPER_FAILED);
			return 1;
		}
		list_add(c->found, rule_of(c->cfg, d, kind));
	}
	c->d = l.parent;
	c->kind = KIND_DIR;
	return l.parent == d;
}

/* dirs_from adds the apps whose directory is the dentry or above it, nearest first. */
static __always_inline void dirs_from(const struct config *cfg, __u64 dentry, struct list *found)
{
	struct rise c = { .cfg = cfg, .d = dentry, .found = found, .kind = KIND_DIR };

	bpf_loop(DEPTH_MAX, rise_step, &c, 0);
}

/* identify_path adds the apps that name a file with this dentry, if some rule has its name, or a directory above it. */
__noinline int identify_path(const struct config *cfg, __u64 dentry, __u32 named, struct list *found)
{
	struct rise c = { .cfg = cfg, .d = dentry, .found = found, .kind = named ? KIND_FILE : 0 };

	if (!cfg || !found)
		return 0;
	bpf_loop(cfg->dir_rules ? DEPTH_MAX : 1, rise_step, &c, 0);
	return 0;
}

/* dentry_kinds is name_kinds of a dentry's name. */
static __noinline __u32 dentry_kinds(const struct config *cfg, struct dentry *d)
{
	struct qstr name;

	if (bpf_core_read(&name, sizeof(name), &d->d_name)) {
		count(STAT_HELPER_FAILED);
		return 0;
	}
	return name_kinds(cfg, (__u64)name.name, name.hash_len >> 32);
}

/* dentry_number is where a file is, as a number. */
static __noinline __u64 dentry_number(struct file *file)
{
	__u64 d = 0;

	if (bpf_core_read(&d, sizeof(d), &file->f_path.dentry))
		count(STAT_HELPER_FAILED); /* and what is read there fails, too */
	return d;
}

/* identify adds the apps that name the executable, or a directory above it. */
static __always_inline void identify(const struct config *cfg, struct file *exe, struct list *found)
{
	__u32 named = dentry_kinds(cfg, exe->f_path.dentry) & NAME_FILE;

	if (named || cfg->dir_rules)
		identify_path(cfg, dentry_number(exe), named, found);
}

#endif
