/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The layout that the kernel part and the agent share: integers and fixed arrays only, padding spelled out.
 * bpf2go makes the Go types from it; ABI_VERSION is stored in the pinned settings map and grows with every change.
 *
 * In every version: config begins with abi, seed and netns_cookie, and app with exit. succeed.go takes over what an older
 * version has pinned, as it is: whoever gives label, note or flow another meaning in the same size translates it there.
 */
#ifndef SIDESTEP_ABI_H
#define SIDESTEP_ABI_H

#include <linux/types.h>

#define ABI_VERSION 3

/* How many apps a label remembers, nearest first; what does not fit is forgotten and counted. */
#define APPS_MAX 8

/* The app of everything that `sidestep run` started. */
#define APP_LAUNCHED 1

/* An exit says where the sockets of an app go; mark bits are the exit's number. */
#define EXIT_DEFAULT 0 /* the system's routes: the app is included, or not yet in force */
#define EXIT_OUTSIDE 1 /* the uplink */
#define EXIT_BLOCKED 2 /* nowhere */

/* For how long the peer of a connection that was cut gets no answer: it may repeat itself for so long. */
#define CUT_SECONDS 120

/* What a rule's key stands for, in the upper half of its last word. */
#define KIND_FILE 1
#define KIND_DIR 2

/* In map links, what an interface is. One that is not there is a tunnel, or was not seen yet. */
#define LINK_OUTSIDE 1

/* In map addresses: whose an address of this machine is. */
#define ADDRESS_OUTSIDE 1 /* a permitted link's, and no other's */
#define ADDRESS_INSIDE 2 /* a tunnel's, or of another link that is not permitted */

/* In map places, what is behind a prefix. */
#define PLACE_LOCAL 1 /* this machine, its links, its private networks */
#define PLACE_HOST 2 /* one host that somebody sent outside by name, as a VPN does with its server */

/* In map names: some rule of this kind ends in this base name. */
#define NAME_FILE 1
#define NAME_DIR 2

struct config {
	__u64 abi;
	__u64 seed[2]; /* SipHash key of every name and path */
	__u64 netns_cookie; /* the network namespace that the engine governs */
	__u64 generation; /* grows before every change of rules; outdates map unlisted */
	__u64 quiet; /* until then (boot time, ns) the kernel answers nothing through a tunnel */
	__u32 mark_mask;
	__u32 mark_shift;
	__u32 dir_rules; /* number of directory rules; 0 saves the walk */
	__u32 next_app; /* the agent's: no app's number is used twice, as a socket's note may outlive the app */
	__u32 strict; /* 1 while included programs are kept off the uplink too */
	__u32 uplink4; /* interface index of the uplink, or 0 */
	__u32 uplink6;
	__u32 pad;
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
	__u32 born; /* the exit it was made for: its side, for good */
	__u32 tgid; /* the process that the apps come from: the maker, or one that the note walk found to hold it */
	__u32 walked; /* by which generation's note walk the apps were guessed; 0: they are the maker's */
	__u32 told; /* when the guard last told of it, in seconds of boot time */
	__u32 unused; /* 1: it had no port when it was noted, or was closed with it: its first use may be on any side */
	__u32 maker; /* the process that made it; 0: nobody knows */
};

/* An IPv6 address, or an IPv4 address mapped into it, in network order. */
struct address {
	__u32 word[4];
};

/* The addresses that begin with so many bits. */
struct prefix {
	__u32 bits;
	struct address address;
};

/* What a socket, or a packet of it, has at its two ends. */
struct flow {
	struct address local;
	struct address remote;
	__u16 local_port; /* host order, as the other one */
	__u16 remote_port;
	__u8 protocol;
	__u8 mapped; /* 1: an IPv6 socket that speaks IPv4 */
	__u16 pad;
};

/* A request says what a walk is about. */
struct request {
	__u32 tgid; /* assign: the process, and what it is to be */
	__u32 app;
	__u64 born; /* seed: only who was born since, in nanoseconds of boot time */
};

enum event_kind {
	EVENT_EXEC = 1, /* a process became one of app's by exec */
	EVENT_FORK = 2, /* a process was born one */
	EVENT_EXIT = 3, /* such a process ended */
	EVENT_SEED = 4, /* the agent's walk over running processes made it one */
	EVENT_HEAL = 5, /* the socket hook made good what the tracepoints had missed */
	EVENT_REFUSED = 6, /* a socket, or what a process wanted to do with one, was refused */
	EVENT_STOPPED = 7, /* the guard stopped a packet of a socket, the first one in this second */
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
	STAT_NOTES_FAILED, /* notes that found no memory; in an upgrade, of a socket that was ending too */
	STAT_EVENTS_LOST, /* events that did not fit into the ring */
	STAT_HELPER_FAILED, /* other helpers that failed: reads of names, deletes, cache writes */
	STAT_REFUSED_MPTCP, /* MPTCP sockets of excluded programs refused: their subflows would have no mark */
	STAT_GUARD_SENT, /* packets of excluded programs that the guard kept from a link */
	STAT_GUARD_RECEIVED, /* packets for excluded programs that came by a link that they must not use */
	STAT_GUARD_ANSWERED, /* answers of the kernel itself that would have taken an uplink's address into a tunnel */
	STAT_GUARD_CHANGED, /* packets of sockets whose app has changed sides since they were made */
	STAT_GUARD_SOURCE, /* packets that would have taken a tunnel's address outside, or in strict mode the reverse */
	STAT_GUARD_STRICT, /* packets of included programs kept off the uplink, in strict mode */
	STAT_GUARD_DOOR, /* packets without a socket of their own that were kept from a closed link at its door */
	STAT_SOCKETS_MOVED, /* unused sockets and listeners that went to another side */
	STAT_REFUSED_HANDED, /* calls refused: the socket is on another side than the caller */
	STAT_REFUSED_BIND, /* calls refused: an excluded program chose a tunnel's address or a tunnel */
	STAT_REFUSED_JOIN, /* groups that an excluded program wanted to join on a tunnel, or without an uplink */
	STAT_REFUSED_SCTP, /* SCTP sockets of excluded programs refused: what they accept has no mark */
	STAT_MAX,
};

struct event {
	__u64 time; /* boot time, ns */
	enum event_kind kind;
	__u32 tgid;
	__u32 ppid;
	__u32 app;
	enum cause cause;
	enum stat reason; /* of EVENT_REFUSED and EVENT_STOPPED */
	char comm[16];
	struct flow flow; /* of EVENT_STOPPED */
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

/* Whose a socket is. */
struct owner {
	struct list apps;
	__u32 tgid;
};

/* What the stray walks write for each socket that the agent has to deal with. */
enum stray_kind {
	STRAY_FLOW = 1, /* a connection on the wrong side: to be closed */
	STRAY_QUEUED = 2, /* a connection that nobody has accepted yet: to be closed if its listener has moved */
	STRAY_LISTENER = 3, /* a listener that has moved */
	STRAY_ENDED = 4, /* the end of a marked connection, in TIME-WAIT: to be closed where marks go */
};

struct stray {
	enum stray_kind kind;
	__u32 app;
	__u32 tgid;
	__u32 link; /* the interface that the socket is bound to, or 0 */
	struct flow flow;
	__u64 cookie; /* 0 for STRAY_ENDED */
};

/* What the holders walk writes for each descriptor of a socket that has a note or a mark. */
struct holder {
	__u64 cookie;
	__u32 pid; /* of a thread, where the process has lost its leader */
	__u32 fd;
	__u32 stays; /* 1: only this machine and its networks are at the other end, or may come */
	__u32 pad;
};

_Static_assert(sizeof(struct config) == 80, "ABI");
_Static_assert(sizeof(struct label) == 64, "ABI");
_Static_assert(sizeof(struct event) == 88, "ABI");
_Static_assert(sizeof(struct process) == 40, "ABI");
_Static_assert(sizeof(struct note) == 56, "ABI");
_Static_assert(sizeof(struct flow) == 40, "ABI");
_Static_assert(sizeof(struct stray) == 64, "ABI");
_Static_assert(sizeof(struct holder) == 24, "ABI");

#endif
