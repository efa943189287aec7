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

static __always_inline int is_root(struct dentry *d)
{
	return d->d_parent == d;
}

/* read_name reads where a dentry's name is and how long. Read by helper, the address is a number to the verifier: since
 * 6.17 a direct load makes a pointer of it, which no global function takes. A name that can't be read is none.
 */
static __always_inline void read_name(struct qstr *name, struct dentry *d)
{
	if (bpf_core_read(name, sizeof(*name), &d->d_name))
		name->hash_len = ~0ULL;
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

static __noinline __u32 dentry_kinds(const struct config *cfg, struct dentry *d)
{
	struct qstr name;

	read_name(&name, d);
	return name_kinds(cfg, (__u64)name.name, name.hash_len >> 32);
}

struct climb {
	struct dentry *d;
	struct sip s;
};

static long climb_step(__u32 i, struct climb *c)
{
	struct dentry *d = c->d;
	struct qstr name;

	if (is_root(d))
		return 1;
	read_name(&name, d);
	c->d = d->d_parent;
	sip_name(&c->s, (__u64)name.name, name.hash_len >> 32);
	return 0;
}

/* rule_above ends a path: it absorbs d and everything above it, then asks whether a rule of this kind says so. */
static __always_inline __u32 rule_above(struct climb *c, __u32 kind)
{
	__u32 *app;

	bpf_loop(DEPTH_MAX, climb_step, c, 0);
	if (c->s.failed) {
		count(STAT_HELPER_FAILED);
		return 0;
	}
	if (!is_root(c->d))
		return 0; /* deeper than any rule */
	sip_word(&c->s, (__u64)c->d->d_sb->s_dev | (__u64)kind << 32);
	sip_end(&c->s);
	app = bpf_map_lookup_elem(&rules, &c->s); /* a rule_key is the first two words of a finished hash */
	return app ? *app : 0;
}

static __noinline __u32 rule_of(const struct config *cfg, struct dentry *d, __u32 kind)
{
	struct climb c = { .d = d };

	sip_init(&c.s, cfg);
	return rule_above(&c, kind);
}

struct dirs {
	const struct config *cfg;
	struct dentry *d;
	struct list *found;
};

static long dirs_step(__u32 i, struct dirs *c)
{
	struct dentry *d = c->d;

	/* The root, too, is a directory that can be listed: where a file system is mounted. Its name is "/". */
	if (dentry_kinds(c->cfg, d) & NAME_DIR)
		list_add(c->found, rule_of(c->cfg, d, KIND_DIR));
	c->d = d->d_parent;
	return is_root(d);
}

/* dirs_from adds the apps whose directory is d or above it, nearest first. */
static __always_inline void dirs_from(const struct config *cfg, struct dentry *d, struct list *found)
{
	struct dirs c = { .cfg = cfg, .d = d, .found = found };

	bpf_loop(DEPTH_MAX, dirs_step, &c, 0);
}

/* identify adds the apps that name the executable, or a directory above it. */
static __noinline int identify(const struct config *cfg, struct file *exe, struct list *found)
{
	struct dentry *d = exe->f_path.dentry;

	if (dentry_kinds(cfg, d) & NAME_FILE)
		list_add(found, rule_of(cfg, d, KIND_FILE));
	if (cfg->dir_rules && !is_root(d))
		dirs_from(cfg, d->d_parent, found);
	return 0;
}

#endif
