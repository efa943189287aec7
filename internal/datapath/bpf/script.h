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

struct extent {
	__u32 len; /* without the NUL */
	__u32 base_name; /* offset of the last name */
};

struct string {
	__u64 s;
	__u64 base; /* the dentry that it starts from */
	struct extent extent;
	int bad;
};

/* measure reads 63 more bytes of a string: its length, and where its last name begins. It returns 1 at the end.
 * A global function, for its loop: what it writes is no business of the verifier's, so the turns of the loop are alike.
 */
__noinline int measure(struct extent *e, __u64 addr)
{
	char chunk[64];
	long n;

	if (!e)
		return 1;
	n = bpf_probe_read_kernel_str(chunk, sizeof(chunk), (void *)(addr + e->len));
	if (n <= 0) {
		count(STAT_HELPER_FAILED);
		e->base_name = e->len; /* no name at all: no rule */
		return 1;
	}
	n--; /* the NUL */
	for (__u32 k = 0; k < sizeof(chunk) - 1; k++) {
		if (k >= (__u32)n)
			break;
		if (chunk[k] == '/')
			e->base_name = e->len + k + 1;
	}
	e->len += n;
	return n < (long)sizeof(chunk) - 1;
}

static long measure_step(__u32 i, struct string *c)
{
	return measure(&c->extent, c->s) & 1;
}

/* lead_step takes one "/", "./" or "../" off the start of the string, and climbs from the base for the last. */
static long lead_step(__u32 i, struct string *c)
{
	char head[4] = {};
	struct look l;

	if (bpf_probe_read_kernel_str(head, sizeof(head), (void *)c->s) < 0) {
		c->bad = 1;
		return 1;
	}
	if (head[0] == '/') {
		c->s++;
	} else if (head[0] == '.' && head[1] == '/') {
		c->s += 2;
	} else if (head[0] == '.' && head[1] == '.' && head[2] == '/') {
		c->s += 3;
		if (!look_at(c->base, &l) ||
		    l.parent == c->base) { /* what is above a file system's root, it does not know */
			c->bad = 1;
			return 1;
		}
		c->base = l.parent;
	} else {
		return 1;
	}
	return 0;
}

/* is_dots reports whether the n bytes at s are "." (1) or ".." (2). */
static __always_inline int is_dots(__u64 s, __u32 n)
{
	char dots[2] = {};

	if (n > 2 || bpf_probe_read_kernel(dots, 2, (void *)s))
		return 0;
	if (n == 1)
		return dots[0] == '.';
	return dots[0] == '.' && dots[1] == '.' ? 2 : 0;
}

struct absorb {
	__u64 s;
	__u32 start; /* of the name that is being walked, */
	__u32 end; /* and its end, exclusive */
	struct climb up;
	int bad;
};

/* absorb_name takes the name [pos, end) of the string into the hash. "" and "." are nothing; ".." after a name, which may
 * be a symbolic link, is not followed.
 */
static __always_inline void absorb_name(struct absorb *c, __u32 pos)
{
	__u32 n = c->end - pos;
	int dots;

	if (!n)
		return;
	dots = is_dots(c->s + pos, n);
	if (dots == 2)
		c->bad = 1;
	if (!dots)
		sip_name(&c->up.s, c->s + pos, n);
}

/* absorb_step walks the string backwards, one byte a step, and absorbs a name at each slash. */
static long absorb_step(__u32 i, struct absorb *c)
{
	__u32 pos = c->start - i; /* the byte before it is looked at */
	char byte = '/';

	if (pos && bpf_probe_read_kernel(&byte, 1, (void *)(c->s + pos - 1))) {
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
__noinline __u32 string_rule(const struct config *cfg, const struct string *c, __u32 start, __u32 end, __u32 kind)
{
	struct absorb a = { .start = start, .end = end };

	if (!cfg || !c)
		return 0;
	a.s = c->s;
	a.up.d = c->base;
	sip_init(&a.up.s, cfg);
	bpf_loop(STRING_MAX, absorb_step, &a, 0);
	return a.bad ? 0 : rule_above(&a.up, kind);
}

struct string_dirs {
	const struct config *cfg;
	const struct string *c;
	struct list *found;
	__u32 from; /* the byte that the walk starts before */
	__u32 end; /* of the current name, exclusive */
	int dotted; /* met "..": what is to the left of it is not above the script */
	__u32 namesakes;
};

/* string_dirs_step walks backwards over the string's directories, nearest first. */
static long string_dirs_step(__u32 i, struct string_dirs *w)
{
	__u64 s = w->c->s;
	__u32 pos = w->from - i;
	char byte = '/';

	if (pos && bpf_probe_read_kernel(&byte, 1, (void *)(s + pos - 1)))
		return 1;
	if (byte != '/')
		return 0;
	if (w->end > pos && is_dots(s + pos, w->end - pos) == 2) {
		w->dotted = 1;
		return 1;
	}
	if (w->end > pos && name_kinds(w->cfg, s + pos, w->end - pos) & NAME_DIR) {
		if (w->namesakes++ == NAMESAKES_MAX) {
			count(STAT_HELPER_FAILED);
			return 1;
		}
		list_add(w->found, string_rule(w->cfg, w->c, pos, w->end, KIND_DIR));
	}
	if (!pos)
		return 1;
	w->end = pos - 1;
	return 0;
}

/* script_dirs adds the apps whose directory is above the script; its last name starts at `name`. */
__noinline int script_dirs(const struct config *cfg, const struct string *c, __u32 name, struct list *found)
{
	struct string_dirs w = { .cfg = cfg, .c = c, .found = found, .from = name, .end = name ? name - 1 : 0 };

	if (!cfg || !c || !found)
		return 0;
	if (name)
		bpf_loop(STRING_MAX, string_dirs_step, &w, 0);
	if (!w.dotted)
		dirs_from(cfg, c->base, found);
	return 0;
}

/* identify_script adds the apps that name the script at the string s, which starts from a dentry. */
__noinline int identify_script(const struct config *cfg, __u64 s, __u64 base, struct list *found)
{
	struct string c = { .s = s, .base = base };
	__u32 name, len;

	if (!cfg || !found)
		return 0;
	bpf_loop(STRING_MAX, lead_step, &c, 0);
	if (c.bad)
		return 0;
	bpf_loop(STRING_MAX / 63 + 1, measure_step, &c, 0);
	name = c.extent.base_name;
	len = c.extent.len;
	if (len <= name)
		return 0;
	if (name_kinds(cfg, c.s + name, len - name) & NAME_FILE)
		list_add(found, string_rule(cfg, &c, name, len, KIND_FILE));
	if (cfg->dir_rules)
		script_dirs(cfg, &c, name, found);
	return 0;
}

/* start_of is the dentry of a process's root or working directory. */
static __always_inline __u64 start_of(struct fs_struct *fs, int root)
{
	__u64 d = 0;
	int err;

	if (root)
		err = bpf_core_read(&d, sizeof(d), &fs->root.dentry);
	else
		err = bpf_core_read(&d, sizeof(d), &fs->pwd.dentry);
	if (err)
		count(STAT_HELPER_FAILED); /* and what is read there fails, too */
	return d;
}

/* script_app adds the apps that name the script, if one is being run, and returns the first. */
static __noinline __u32 script_app(const struct config *cfg, struct task_struct *t, struct linux_binprm *bprm,
				   struct list *found)
{
	char first = 0;
	__u64 name;

	if (bprm->interp == bprm->filename || t->nsproxy->mnt_ns->user_ns->level)
		return 0;
	if (bpf_core_read(&name, sizeof(name), &bprm->filename)) {
		count(STAT_HELPER_FAILED);
		return 0;
	}
	if (bpf_probe_read_kernel(&first, 1, (void *)name))
		return 0;
	identify_script(cfg, name, start_of(t->fs, first == '/'), found);
	return found->apps[0];
}

#endif
