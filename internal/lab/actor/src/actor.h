/* SPDX-License-Identifier: Apache-2.0 */
/* actor.h: the messages between an actor and its driver, and how the actor's files fit together.
 *
 *	actor.c   start, the command loop, the table of commands
 *	birth.c   new processes and new images: fork, clone, exec
 *	thread.c  commands on new threads
 *	clone.c   the one stack-switching clone call
 *	net.c     datagrams, connections, waiting
 *	storm.c   many short processes
 *
 * One rule makes fork, vfork, CLONE_VM and threads safe together: there is no global variable. All state is in the
 * kernel (descriptors with fixed numbers) or in the frame of serve().
 */
#ifndef ACTOR_H
#define ACTOR_H

#include "clone.h"
#include "sys.h"

/* Descriptors with a fixed number survive fork and exec without bookkeeping. */
enum {
	CONTROL_FD = 200, /* the channel to the driver; one per process */
	STAGE_FD = 201,   /* the directory of the listener: reachable from a chroot, too */
	IMAGE_FD = 202,   /* the file of an exec by descriptor; the new image closes it */
};

#define STAGE_SOCKET "stage.sock"

/* Messages are native structures: driver and actor share a machine. Mirrored in wire.go. */
#define MAGIC 0x726f7463 /* "ctor" */
#define DATA_MAX 12288

struct request {
	u32 magic, seq;
	u32 op, flags;
	u64 token; /* of the process to be born */
	u64 arg[7];
	u32 len; /* of data */
	u32 pad;
};
_Static_assert(sizeof(struct request) == 88, "ABI");

/* A reply with seq 0 and a token is a hello: the first message of a new channel. */
struct reply {
	u32 magic, seq;
	s64 ret; /* result, or -errno */
	u64 token;
	u64 base; /* where the data of a request will be in memory: the driver lays out pointers with it */
	u32 pid, tid, ppid;
	u32 len; /* of data */
};
_Static_assert(sizeof(struct reply) == 48, "ABI");

struct message {
	struct request rq;
	char data[DATA_MAX];
};
_Static_assert(sizeof(struct message) == sizeof(struct request) + DATA_MAX, "data follows at once");

enum { ON_THREAD = 1 };

enum op {
	OP_INFO,
	OP_EXIT,     /* status */
	OP_BIRTH,    /* how, clone flags */
	OP_SPAWN,    /* how, clone flags, via, argc; data: image */
	OP_EXEC,     /* -, -, via, argc; data: image */
	OP_SEND,     /* count; data: address */
	OP_CONNECT,  /* milliseconds; data: address */
	OP_POLL,     /* fd, events, milliseconds */
	OP_STORM,    /* count, width, via, argc, flags; data: address or image */
	OP_SYSCALL,  /* number, six arguments; data: in and out */
	OP_ABDICATE, /* the leading thread ends, another serves on */
};

enum { BY_CLONE, BY_CLONE3, BY_FORK, BY_DOUBLE };
enum { VIA_PATH, VIA_FD, VIA_DIRFD, VIA_MEMFD };

/* What the command loop does after a command. */
enum next {
	ANSWER, /* send the reply */
	SILENT, /* somebody else did */
	JOIN,   /* this is a new process: open a channel of its own */
};

/* How an image or a process starts; the letter is the first of SIDESTEP_ACTOR's value. */
enum {
	START_STAGE = 'c', /* then 16 digits of token, then the stage's directory: connect there */
	START_CHILD = 'd', /* then the token: STAGE_FD is open, connect there */
	START_AGAIN = 'k', /* then the sequence number of the exec: CONTROL_FD is open, answer it */
	START_NOT = 'x',   /* exit at once */
};

#define ARGV_MAX 16

struct image {
	u32 via;
	char *path, *dir;
	char *argv[ARGV_MAX + 1];
};

void NORETURN serve(int start, u64 word);
enum next run(struct message *in, struct reply *rp);
void send_reply(struct reply *rp, const char *data);

enum next give_birth(struct message *in, struct reply *rp);
s64 parse_image(struct image *im, struct message *in);
s64 exec_image(struct image *im, char start, u64 word);
s64 execute(struct message *in);

enum next run_on_thread(struct message *in, struct reply *rp);
enum next abdicate(struct message *in, struct reply *rp);

void *memcpy(void *dst, const void *src, u64 n);

s64 send_many(struct message *in);
s64 connect_once(struct message *in, struct reply *rp);
s64 poll_fd(s64 fd, s64 events, s64 ms);

s64 storm(struct message *in);
s64 parse_address(struct address *to, const struct message *in);

#endif
