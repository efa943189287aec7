/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Scripts: the executable is the interpreter, so the script is known by the string given to exec.
 *
 * The string's names, from the last to the first, followed by the names from the root or working directory up to the
 * superblock's root, are the file's identity (file system, path within it) as long as the string crosses neither a mount
 * nor a symbolic link; the agent adds the identities that a script has when seen across those. A string with ".." names
 * nothing. Only mount namespaces of the initial user namespace are believed: in one of their own, anybody can put
 * anything at any path.
 */
#ifndef SIDESTEP_SCRIPT_H
#define SIDESTEP_SCRIPT_H

#include "identify.h"

#define STRING_MAX 4096 /* PATH_MAX */

struct string {
	const struct config *cfg;
	const char *s;
	struct dentry *base; /* what the string starts from */
	struct list *found;
	struct sip sip;
	__u32 len; /* without the NUL */
	__u32 base_name; /* offset of the last name */
	__u32 end; /* of the name that is being walked, exclusive */
	int bad;
};

/* measure_step finds the length and the last slash, 64 bytes at a time. */
static long measure_step(__u32 i, struct string *c)
{
	char chunk[64];
	long n = bpf_probe_read_kernel_str(chunk, sizeof(chunk), c->s + c->len);

	if (n <= 0) {
		count(STAT_HELPER_FAILED);
		c->bad = 1;
		return 1;
	}
	n--; /* the NUL */
	for (__u32 k = 0; k < sizeof(chunk) - 1; k++) {
		if (k >= (__u32)n)
			break;
		if (chunk[k] == '/')
			c->base_name = c->len + k + 1;
	}
	c->len += n;
	return n < (long)sizeof(chunk) - 1;
}

/* absorb_name takes the name [pos, end) of the string into the hash. "" and "." are nothing; ".." is not followed. */
static __always_inline void absorb_name(struct string *c, __u32 pos)
{
	char dots[2] = {};
	__u32 n = c->end - pos;

	if (!n)
		return;
	if (n <= 2) {
		if (bpf_probe_read_kernel(dots, 2, c->s + pos)) {
			c->bad = 1;
			return;
		}
		if (dots[0] == '.' && n == 1)
			return;
		if (dots[0] == '.' && dots[1] == '.') {
			c->bad = 1;
			return;
		}
	}
	if (sip_name(&c->sip, (__u64)c->s + pos, n))
		c->bad = 1;
}

/* absorb_step walks the string backwards, one byte a step, and absorbs a name at each slash. */
static long absorb_step(__u32 i, struct string *c)
{
	__u32 pos = c->base_name - i; /* the byte before it is looked at; base_name is where the walk starts */
	char byte = '/';

	if (pos && bpf_probe_read_kernel(&byte, 1, c->s + pos - 1)) {
		c->bad = 1;
		return 1;
	}
	if (byte == '/') {
		absorb_name(c, pos);
		if (c->bad || !pos)
			return 1;
		c->end = pos - 1;
	}
	return 0;
}

/* string_rule asks for the rule of the path that the string names up to `end`, its last name starting at `start`. */
static __always_inline __u32 string_rule(struct string *c, __u32 start, __u32 end, __u32 kind)
{
	struct climb up;

	c->bad = 0;
	c->end = end;
	c->base_name = start;
	sip_init(&c->sip, c->cfg);
	bpf_loop(STRING_MAX, absorb_step, c, 0);
	if (c->bad)
		return 0;
	up.d = c->base;
	up.s = c->sip;
	return rule_above(&up, kind);
}

struct string_dirs {
	struct string *c;
	__u32 from; /* the byte that the walk starts before */
	__u32 end; /* of the current name, exclusive */
};

/* string_dirs_step walks backwards over the string's directories, nearest first. */
static long string_dirs_step(__u32 i, struct string_dirs *w)
{
	struct string *c = w->c;
	__u32 pos = w->from - i;
	char byte = '/';

	if (pos && bpf_probe_read_kernel(&byte, 1, c->s + pos - 1))
		return 1;
	if (byte != '/')
		return 0;
	if (w->end > pos && name_kinds(c->cfg, (__u64)c->s + pos, w->end - pos) & NAME_DIR)
		list_add(c->found, string_rule(c, pos, w->end, KIND_DIR));
	if (!pos)
		return 1;
	w->end = pos - 1;
	return 0;
}

/* script_app adds the apps that name the script, if one is being run, and returns the first. */
static __always_inline __u32 script_app(const struct config *cfg, struct task_struct *t, struct linux_binprm *bprm,
					struct list *found)
{
	struct string c = { .cfg = cfg, .found = found };
	char first = 0;
	__u32 name;

	if (bprm->interp == bprm->filename || t->nsproxy->mnt_ns->user_ns->level)
		return 0;
	/* Read by helper, the address is a number to the verifier, and may be added to. */
	if (bpf_core_read(&c.s, sizeof(c.s), &bprm->filename)) {
		count(STAT_HELPER_FAILED);
		return 0;
	}
	bpf_loop(STRING_MAX / 63 + 1, measure_step, &c, 0);
	if (c.bad || c.len <= c.base_name)
		return 0;
	if (bpf_probe_read_kernel(&first, 1, c.s))
		return 0;
	c.base = first == '/' ? t->fs->root.dentry : t->fs->pwd.dentry;
	name = c.base_name;
	if (name_kinds(cfg, (__u64)c.s + name, c.len - name) & NAME_FILE)
		list_add(found, string_rule(&c, name, c.len, KIND_FILE));
	if (cfg->dir_rules) {
		struct string_dirs w = { .c = &c, .from = name, .end = name ? name - 1 : 0 };

		if (name)
			bpf_loop(STRING_MAX, string_dirs_step, &w, 0);
		dirs_from(cfg, c.base, found);
	}
	return found->apps[0];
}

#endif
