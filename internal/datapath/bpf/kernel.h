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

struct in6_addr {
	union {
		__u32 u6_addr32[4];
	} in6_u;
};

struct sock_common {
	__u32 skc_daddr;
	__u32 skc_rcv_saddr;
	__u16 skc_dport; /* network order */
	__u16 skc_num; /* host order */
	__u16 skc_family;
	volatile unsigned char skc_state;
	int skc_bound_dev_if;
	struct {
		struct net *net;
	} skc_net;
	struct in6_addr skc_v6_daddr;
	struct in6_addr skc_v6_rcv_saddr;
};

struct net {
	__u64 net_cookie;
};

struct socket;

struct sock {
	struct sock_common __sk_common;
	__u16 sk_type;
	__u16 sk_protocol;
	unsigned char sk_userlocks : 4;
	__u32 sk_mark;
	struct socket *sk_socket; /* NULL until accept() has returned the connection, and once it is closed */
};

struct socket {
	struct sock *sk;
};

struct inet_sock {
	struct sock sk;
};

struct inet_connection_sock {
	struct inet_sock icsk_inet;
};

struct tcp_sock {
	struct inet_connection_sock inet_conn;
};

struct udp_sock {
	struct inet_sock inet;
};

struct inet_timewait_sock {
	struct sock_common __tw_common;
	__u32 tw_mark;
};

struct tcp_timewait_sock {
	struct inet_timewait_sock tw_sk;
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

struct bpf_iter__bpf_sk_storage_map {
	struct bpf_iter_meta *meta;
	struct bpf_map *map;
	struct sock *sk;
	void *value;
};

struct bpf_iter__tcp {
	struct bpf_iter_meta *meta;
	struct sock_common *sk_common;
};

struct bpf_iter__udp {
	struct bpf_iter_meta *meta;
	struct udp_sock *udp_sk;
};

struct net_device {
	int ifindex;
};

struct dst_entry {
	struct net_device *dev;
};

struct sk_buff {
	struct sock *sk;
	__u32 mark;
	unsigned long _skb_refdst; /* the route: a struct dst_entry */
	unsigned char *head;
	__u16 network_header; /* counted from head */
};

struct nf_hook_state {
	__u8 pf;
	struct sock *sk; /* who sends */
};

struct bpf_nf_ctx {
	const struct nf_hook_state *state;
	struct sk_buff *skb;
};

#pragma clang attribute pop

#define CLONE_THREAD 0x00010000 /* include/uapi/linux/sched.h */
#define AF_INET 2
#define AF_INET6 10
#define AF_PACKET 17

#define SOCK_STREAM 1 /* include/linux/net.h */
#define SOCK_RAW 3

#define IPPROTO_NONE 59
#define IPPROTO_ICMP 1
#define IPPROTO_TCP 6 /* include/uapi/linux/in.h */
#define IPPROTO_UDP 17
#define IPPROTO_ESP 50
#define IPPROTO_AH 51
#define IPPROTO_ICMPV6 58
#define IPPROTO_SCTP 132
#define IPPROTO_MPTCP 262

#define ICMP_DEST_UNREACH 3 /* include/uapi/linux/icmp{,v6}.h */
#define ICMP_PORT_UNREACH 3
#define ICMP_TIME_EXCEEDED 11
#define ICMP_PARAMETERPROB 12
#define ICMPV6_DEST_UNREACH 1
#define ICMPV6_PORT_UNREACH 4
#define ICMPV6_INFOMSG_MASK 0x80 /* errors are below it */

#define TCP_SYN 2 /* RFC 9293, section 3.1 */
#define TCP_RST 4

#define SOL_SOCKET 1 /* include/uapi/asm-generic/socket.h */
#define SO_MARK 36

#define EPERM 1 /* include/uapi/asm-generic/errno{-base,}.h */
#define EPROTONOSUPPORT 93
#define EADDRNOTAVAIL 99
#define ENETUNREACH 101

#define ETH_P_IP 0x0800
#define ETH_P_IPV6 0x86DD

#define SOCK_BINDPORT_LOCK 8 /* include/net/sock.h: the program chose the port */

#define LOOPBACK_IFINDEX 1 /* include/net/flow.h: lo is the first interface of every network namespace */

/* include/net/tcp_states.h; a connected UDP socket is TCP_ESTABLISHED */
#define TCP_ESTABLISHED 1
#define TCP_TIME_WAIT 6
#define TCP_CLOSE_WAIT 8
#define TCP_LISTEN 10
#define TCP_NEW_SYN_RECV 12

#endif
