/* SPDX-License-Identifier: Apache-2.0 */
/* load.h: what the parts of the load generator share.
 *
 *	load.c   start, the clock, the table of loads
 *	born.c   processes and threads
 *	net.c    sockets and packets
 *	crowd.c  many processes that hold many sockets
 */
#ifndef LOAD_H
#define LOAD_H

#include "clone.h"
#include "hex.h"
#include "sys.h"

#if defined(__x86_64__)
enum {
	NR_prctl = 157, NR_accept4 = 288, NR_listen = 50, NR_shutdown = 48,
	NR_sendmmsg = 307, NR_kill = 62,
};
#else
enum {
	NR_prctl = 167, NR_accept4 = 242, NR_listen = 201, NR_shutdown = 210,
	NR_sendmmsg = 269, NR_kill = 129,
};
#endif

enum { PR_SET_PDEATHSIG = 1, SIGKILL = 9 };

u64 now(void);
void NORETURN fail(const char *what, s64 err);
void check(const char *what, s64 ret);
void say(u64 n);

/* A load does what it is named for, n times, and returns how many nanoseconds that took. */
struct load {
	char *name;
	u64 (*run)(u64 n, char **args);
};

u64 run_exec(u64 n, char **args);
u64 run_fork(u64 n, char **args);
u64 run_thread(u64 n, char **args);
u64 run_pace(u64 n, char **args);

u64 run_socket(u64 n, char **args);
u64 run_connect(u64 n, char **args);
u64 run_send(u64 n, char **args);
u64 run_flood(u64 n, char **args);
u64 run_ask(u64 n, char **args);
u64 run_bulk(u64 n, char **args);
u64 run_serve(u64 n, char **args);
u64 run_crowd(u64 n, char **args);

u64 number(const char *s);
struct address address(const char *hex);

#endif
