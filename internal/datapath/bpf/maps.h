/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Every map, with who writes, who reads, what happens when it is full, and how long it lives.
 * "Pinned" maps live in the engine's pin directory, from its first start to `sidestep clean` or a reboot.
 */
#ifndef SIDESTEP_MAPS_H
#define SIDESTEP_MAPS_H

#include "abi.h"

/* settings: what the programs need to know of the machine and the rules.
 *
 * Writer: the agent. Reader: every program. One entry, never full. Pinned.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct config);
} settings SEC(".maps");

/* apps: where the sockets of each app go now. THE switch: one write moves a whole process tree.
 *
 * Writer: the agent. Numbers are never used again, so a label that names an app which is gone names nothing.
 * Reader: the socket hook (hot), the process programs.
 * Full:   the agent's write fails, and with it the command.
 * Pinned.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1 << 17);
	__type(key, __u32);
	__type(value, struct app);
} apps SEC(".maps");

/* names: the base names that rules end in, so that a program that no rule names costs one lookup.
 *
 * Writer: the agent. Reader: exec, the socket hook's classification. Full: the command fails. Pinned.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1 << 18);
	__type(key, __u64); /* SipHash of the name */
	__type(value, __u32); /* NAME_FILE, NAME_DIR */
} names SEC(".maps");

/* rules: (kind, file system, path within it), hashed, to the app.
 *
 * Writer: the agent. Reader: as names. Full: the command fails. Pinned.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1 << 18);
	__type(key, struct rule_key);
	__type(value, __u32);
} rules SEC(".maps");

/* labels: which apps each live process belongs to. A process without an entry belongs to none, or was missed.
 *
 * Writer: exec, fork, exit; the agent's seed walk; the socket hook where those missed something.
 * Reader: the socket hook (hot), exec, fork, the list walk.
 * Full:   the process is put into `refused`, its sockets are refused, STAT_LABELS_FULL grows. Only processes of
 *         listed apps are ever stored, so programs that no rule names never feel it.
 * Pinned.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1 << 17);
	__type(key, __u32); /* tgid, in the initial pid namespace */
	__type(value, struct label);
} labels SEC(".maps");

/* labelled: a bit for each process number, set before a label is stored under it. Nearly every process has none, and to look
 * for it in `labels` means to wait for memory that nobody has touched; this is small enough to be near.
 *
 * Writer: whoever stores a label; exit clears it. Reader: whoever reads one. Never full: Linux has no greater numbers.
 * Pinned.
 */
#define TGIDS (1 << 22) /* PID_MAX_LIMIT in include/linux/threads.h */

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, TGIDS / 64);
	__type(key, __u32); /* tgid / 64 */
	__type(value, __u64);
} labelled SEC(".maps");

/* unlisted: processes that the socket hook found to belong to no app, so that it need not look again.
 *
 * Writer and reader: the socket hook. Full: the least recently used goes, and is judged again at its next socket.
 * Entries of another generation are void. Not pinned: a cache.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1 << 14);
	__type(key, __u32); /* tgid */
	__type(value, struct stranger);
} unlisted SEC(".maps");

/* refused: the labels that found no room in labels. Their processes' sockets are refused until one finds some, or until
 * the app is included.
 *
 * Writer: whoever stores a label, when labels is full. Reader: whoever reads one, once `overflow` is set.
 * Full:   the least recently used goes; it is then judged by its executable and its living ancestors alone.
 * Pinned.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1 << 13);
	__type(key, __u32); /* tgid */
	__type(value, struct label);
} refused SEC(".maps");

/* overflow: 1 once a label could not be stored. Writer: the programs. Reader: the programs. Pinned. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} overflow SEC(".maps");

/* notes: the apps that a socket belongs to and the exit it was made for; accepted sockets get their listener's.
 *
 * Writer: the socket hook, the note walk. Reader: whoever must know which side a socket is on.
 * Full:   no memory refuses the socket of an excluded program; an included one goes without, and is counted.
 * Lives:  as long as the socket. Pinned.
 */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC | BPF_F_CLONE);
	__type(key, int);
	__type(value, struct note);
} notes SEC(".maps");

/* links: the interfaces that excluded programs may use: all but the tunnels. The value is LINK_OUTSIDE.
 *
 * Writer: the agent, before it changes the routing. Reader: the guard (every packet).
 * Full:   the agent's write fails, and excluded programs can't use that link.
 * Pinned.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1 << 14);
	__type(key, __u32); /* interface index */
	__type(value, __u32);
} links SEC(".maps");

/* addresses: this machine's on permitted links (ADDRESS_OUTSIDE) and on others (ADDRESS_INSIDE), now or before. Those on both
 * are missing.
 *
 * Writer: the agent. Reader: the guard, the bind hook. Full: the least recently used goes; the agent writes those of now
 *         again with each change of the network. Pinned.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1 << 13);
	__type(key, struct address);
	__type(value, __u32);
} addresses SEC(".maps");

/* places: what is local, and which hosts are outside by name (PLACE_*).
 *
 * Writer: the agent. Reader: the guard where a socket's app has changed sides and in strict mode, the call hooks, the
 *         stray walks. Full: the agent's write fails. Pinned.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1 << 17);
	__type(key, struct prefix);
	__type(value, __u32);
} places SEC(".maps");

/* cut: the two ends of connections that were closed on the wrong side: what their peers still send must not be answered.
 * Of UDP also without the ports, as what names an ICMP error.
 *
 * Writer: the stray walks. Reader: the guard (the kernel's own answers only).
 * Full:   the least recently used goes, and its answer: a reset that says nothing but that there is no connection.
 * Pinned.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1 << 15);
	__type(key, struct flow);
	__type(value, __u32); /* when, in seconds of boot time; void after CUT_SECONDS */
} cut SEC(".maps");

/* mptcp: whose the MPTCP sockets are that the note walk has found, by their two ends.
 *
 * Writer: the note and disown walks; the agent empties it before them. Reader: the subflow walk.
 * Full:   the least recently used goes, and its subflow without a note. Not pinned.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1 << 12);
	__type(key, struct flow);
	__type(value, struct owner);
} mptcp SEC(".maps");

/* requests: whom the next walk is about. Writer: the agent. Reader: the assign and seed walks. Not pinned. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct request);
} requests SEC(".maps");

/* inner, outer: never read. Replacing an inner map makes the kernel wait for the programs that are running.
 *
 * Writer: the agent, to wait. Not pinned.
 */
struct inner {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} inner SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 1);
	__type(key, __u32);
	__array(values, struct inner);
} outer SEC(".maps") = { .values = { &inner } };

/* stats: counters by enum stat. Writer: every program. Reader: the agent. Pinned. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, STAT_MAX);
	__type(key, __u32);
	__type(value, __u64);
} stats SEC(".maps");

/* events: what the agent tells its users; nothing depends on them being read.
 *
 * Writer: every program. Reader: the agent. Full: the event is lost and STAT_EVENTS_LOST grows. Pinned.
 */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 20);
	__type(value, struct event); /* for bpf2go; the loader leaves it out */
} events SEC(".maps");

/* count is a function of its own so that its key is on nobody's stack but its own: 512 bytes are all there is. */
static __noinline int count(__u32 stat)
{
	__u64 *n = bpf_map_lookup_elem(&stats, &stat);

	if (n)
		(*n)++; /* per CPU; a preempted increment may be lost, which a counter bears */
	return 0;
}

static __always_inline struct config *get_config(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&settings, &zero);
}

#endif
