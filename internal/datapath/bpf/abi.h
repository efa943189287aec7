/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The layout that the kernel part and the agent share: integers and fixed arrays only, padding spelled out.
 * bpf2go makes the Go types from it; ABI_VERSION is stored in the pinned settings map and grows with every change.
 */
#ifndef SIDESTEP_ABI_H
#define SIDESTEP_ABI_H

#include <linux/types.h>

#define ABI_VERSION 1

/* How many apps a label remembers, nearest first; what does not fit is forgotten and counted. */
#define APPS_MAX 8

/* The app of everything that `sidestep run` started. */
#define APP_LAUNCHED 1

/* An exit says where the sockets of an app go; mark bits are the exit's number. */
#define EXIT_DEFAULT 0 /* the system's routes: the app is included, or not yet in force */
#define EXIT_OUTSIDE 1 /* the uplink */
#define EXIT_BLOCKED 2 /* nowhere */

/* What a rule's key stands for, in the upper half of its last word. */
#define KIND_FILE 1
#define KIND_DIR 2

/* In map names: some rule of this kind ends in this base name. */
#define NAME_FILE 1
#define NAME_DIR 2

struct config {
	__u64 abi;
	__u64 seed[2]; /* SipHash key of every name and path */
	__u64 netns_cookie; /* the network namespace that the engine governs */
	__u64 generation; /* grows before every change of rules; outdates map unlisted */
	__u32 mark_mask;
	__u32 mark_shift;
	__u32 dir_rules; /* number of directory rules; 0 saves the walk */
	__u32 next_app; /* the agent's: no app's number is used twice, as a socket's note may outlive the app */
};

struct rule_key {
	__u64 hash[2];
};

struct app {
	__u32 exit;
	__u32 fresh; /* 1 while the agent prepares labels for it: seed adds only fresh apps to what lives */
};

/* A list of apps, each once; the order is the meaning. */
struct list {
	__u32 apps[APPS_MAX]; /* 0 ends it */
};

struct label {
	__u64 start; /* start_boottime of the group leader, ns: together with the tgid, the process */
	__u64 exec_id; /* self_exec_id of the image that was judged: together with start, the program run */
	__u64 since; /* boot time in ns of the exec that first gave the process an app; 0: born with it, or seeded */
	__u32 given; /* app that the process got by name, not by executable: a script's, or APP_LAUNCHED; 0 none */
	__u32 own; /* how many of the apps, from the front, the process's own image matched */
	struct list apps; /* own first, then inherited, nearest first */
};

/* A program run that belongs to no app, as far as the rules of a generation go. */
struct stranger {
	__u64 start;
	__u64 exec_id;
	__u64 generation;
};

struct note {
	struct list apps; /* as in the label of the process that made the socket */
	__u32 born; /* the exit it was made for */
	__u32 pad;
};

/* An IPv6 address, or an IPv4 address mapped into it, in network order. */
struct address {
	__u32 word[4];
};

/* A request names one process to `assign`. */
struct request {
	__u32 tgid;
	__u32 app;
};

enum event_kind {
	EVENT_EXEC = 1, /* a process became one of app's by exec */
	EVENT_FORK = 2, /* a process was born one */
	EVENT_EXIT = 3, /* such a process ended */
	EVENT_SEED = 4, /* the agent's walk over running processes made it one */
	EVENT_HEAL = 5, /* the socket hook made good what the tracepoints had missed */
	EVENT_REFUSED = 6, /* a socket was refused */
};

/* The agent's spelling of package policy's verdicts and causes. */
enum verdict { VERDICT_INCLUDED, VERDICT_EXCLUDED, VERDICT_UNDECIDED };
enum cause { CAUSE_DEFAULT, CAUSE_LISTED, CAUSE_INHERITED, CAUSE_LAUNCHED };

enum stat {
	STAT_LABELLED_EXEC, /* processes labelled at exec */
	STAT_LABELLED_FORK, /* processes labelled at birth */
	STAT_LABELLED_SEED, /* processes labelled by the agent's walk */
	STAT_HEALED, /* labels made good in the socket hook */
	STAT_SOCKETS_OUTSIDE, /* sockets marked for an exit */
	STAT_SOCKETS_NOTED, /* open sockets noted by the agent's walk */
	STAT_LABELS_FULL, /* labels that could not be stored */
	STAT_APPS_FORGOTTEN, /* apps that did not fit into a label */
	STAT_REFUSED_UNDECIDED, /* sockets refused: the label could not be stored */
	STAT_REFUSED_BLOCKED, /* sockets refused: the app's exit is EXIT_BLOCKED */
	STAT_REFUSED_FOREIGN_MARK, /* sockets refused: somebody else's mark was on it */
	STAT_REFUSED_NO_NOTE, /* sockets refused: no memory for the note */
	STAT_NOTES_FAILED, /* notes of included sockets that found no memory */
	STAT_EVENTS_LOST, /* events that did not fit into the ring */
	STAT_HELPER_FAILED, /* other helpers that failed: reads of names, deletes, cache writes */
	STAT_REFUSED_MPTCP, /* MPTCP sockets of excluded programs refused: their subflows would have no mark */
	STAT_GUARD_SENT, /* packets of excluded programs that the guard kept from a link */
	STAT_GUARD_RECEIVED, /* packets for excluded programs that came by a link that they must not use */
	STAT_GUARD_ANSWERED, /* answers of the kernel itself that would have taken an uplink's address into a tunnel */
	STAT_MAX,
};

struct event {
	__u64 time; /* boot time, ns */
	enum event_kind kind;
	__u32 tgid;
	__u32 ppid;
	__u32 app;
	enum cause cause;
	enum stat reason; /* of EVENT_REFUSED */
	char comm[16];
};

/* What the list iterator writes for each process. */
struct process {
	__u32 tgid;
	__u32 ppid;
	__u32 app;
	enum verdict verdict;
	enum cause cause;
	__u32 pad;
	char comm[16];
};

_Static_assert(sizeof(struct config) == 56, "ABI");
_Static_assert(sizeof(struct label) == 64, "ABI");
_Static_assert(sizeof(struct event) == 48, "ABI");
_Static_assert(sizeof(struct process) == 40, "ABI");
_Static_assert(sizeof(struct note) == 40, "ABI");

#endif
