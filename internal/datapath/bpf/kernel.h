/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The few fields of kernel structures that we read, found by name at load time (CO-RE).
 * Every one of them exists from 5.15 to 7.x; include/linux/{sched,fs,dcache,binfmts,fs_struct}.h of the kernel.
 */
#ifndef SIDESTEP_KERNEL_H
#define SIDESTEP_KERNEL_H

#include <linux/types.h>

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct qstr {
	__u64 hash_len; /* length in the upper half on little endian */
	const unsigned char *name;
};

struct super_block {
	__u32 s_dev;
};

struct dentry {
	struct dentry *d_parent; /* itself at the root of the file system */
	struct qstr d_name;
	struct super_block *d_sb;
};

struct vfsmount;

struct path {
	struct vfsmount *mnt;
	struct dentry *dentry;
};

struct sock_common {
	__u16 skc_family;
	struct {
		struct net *net;
	} skc_net;
};

struct net {
	__u64 net_cookie;
};

struct sock {
	struct sock_common __sk_common;
	__u32 sk_mark;
};

struct socket {
	struct sock *sk;
};

struct file {
	struct path f_path;
};

struct mm_struct {
	struct file *exe_file;
};

struct fs_struct {
	struct path root;
	struct path pwd;
};

struct user_namespace {
	int level; /* 0: the initial one */
};

struct mnt_namespace {
	struct user_namespace *user_ns; /* the owner */
};

struct nsproxy {
	struct mnt_namespace *mnt_ns;
	struct net *net_ns;
};

struct signal_struct {
	struct {
		int counter;
	} live; /* threads that have not passed do_exit */
};

struct task_struct {
	int pid;
	int tgid;
	__u64 start_boottime;
	__u64 self_exec_id;
	struct task_struct *real_parent;
	struct task_struct *group_leader;
	struct mm_struct *mm;
	struct fs_struct *fs;
	struct nsproxy *nsproxy;
	struct signal_struct *signal;
	char comm[16];
};

struct linux_binprm {
	const char *filename; /* as given to exec; the script, where the image is an interpreter */
	const char *interp; /* the same pointer, unless an interpreter runs */
};

struct seq_file;

struct bpf_iter_meta {
	struct seq_file *seq;
};

struct bpf_iter__task {
	struct bpf_iter_meta *meta;
	struct task_struct *task;
};

struct bpf_iter__task_file {
	struct bpf_iter_meta *meta;
	struct task_struct *task;
	__u32 fd;
	struct file *file;
};

#pragma clang attribute pop

#define CLONE_THREAD 0x00010000 /* include/uapi/linux/sched.h */
#define AF_INET 2
#define AF_INET6 10

#endif
