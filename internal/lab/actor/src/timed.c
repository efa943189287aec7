/* SPDX-License-Identifier: Apache-2.0 */
/* timed: sends at fixed moments after it starts, from its first thread and again from a second, and ends.
 *
 *	timed ut|tu HEXSOCKADDR
 *
 * At each moment it sends a datagram (u) and begins a TCP connection (t), in the order of the first argument, each
 * from a new socket. The moments of the first thread count from the program's first instruction. The second thread is
 * made after them, and its moments count from its own first instruction.
 *
 * What is sent at moment i goes to HEXSOCKADDR's port + i from the first thread, + MOMENTS + i from the second, so
 * that who counts packets knows each.
 *
 * The exit status is the errno of the first call that failed, or 0. A failure ends nothing.
 */
#include "sys.h"
#include "clone.h"
#include "datagram.h"
#include "hex.h"

ENTRY;

#define MOMENTS 8

/* Nanoseconds. Mirrored in timed.go. */
static const s64 moments[MOMENTS] = { 0, 500000, 1000000, 2000000, 5000000, 10000000, 20000000, 50000000 };

struct plan {
	struct address to;
	const char *order;
	u32 first; /* what is added to the port */
	s64 err;
	u32 running;
};

static s64 send_syn(const struct address *to)
{
	s64 err, fd = sys(NR_socket, family(to->raw), SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return fd;
	err = sys(NR_connect, fd, to->raw, to->len);
	sys(NR_close, fd);
	return err == -EINPROGRESS ? 0 : err;
}

static struct address with_port(const struct address *base, u32 add)
{
	struct address to = *base;
	u32 port = ((u32)base->raw[2] << 8 | base->raw[3]) + add;

	to.raw[2] = (u8)(port >> 8);
	to.raw[3] = (u8)port;
	return to;
}

static void send_all(struct plan *p)
{
	struct timespec start, at;

	sys(NR_clock_gettime, CLOCK_MONOTONIC, &start);
	for (u32 i = 0; i < MOMENTS; i++) {
		struct address to = with_port(&p->to, p->first + i);

		at.nsec = start.nsec + moments[i];
		at.sec = start.sec + (at.nsec >= 1000000000);
		at.nsec -= at.nsec >= 1000000000 ? 1000000000 : 0;
		while (i && sys(NR_clock_nanosleep, CLOCK_MONOTONIC, TIMER_ABSTIME, &at, NULL))
			;
		for (const char *c = p->order; *c; c++) {
			s64 err = *c == 'u' ? send_datagram(&to, i) : send_syn(&to);

			if (err < 0 && !p->err)
				p->err = err;
		}
	}
}

static void second(void *arg)
{
	send_all(arg);
	for (;;)
		sys(NR_exit, 0);
}

static s64 send_from_thread(struct plan *p)
{
	s64 tid, stack = new_stack();

	if (stack < 0)
		return stack;
	p->first = MOMENTS;
	p->running = 1;
	tid = clone_call(THREAD | CLONE_CHILD_CLEARTID, (void *)(stack + STACK_SIZE), second, p, &p->running);
	if (tid < 0)
		return tid;
	while (*(volatile u32 *)&p->running)
		sys(NR_futex, &p->running, FUTEX_WAIT, 1, NULL);
	return 0;
}

static int is_order(const char *s)
{
	return ((s[0] == 'u' && s[1] == 't') || (s[0] == 't' && s[1] == 'u')) && !s[2];
}

/* The compiler calls it for large structures, with or without a C library. */
__attribute__((used)) void *memcpy(void *dst, const void *src, u64 n)
{
	for (u64 i = 0; i < n; i++)
		((volatile u8 *)dst)[i] = ((const u8 *)src)[i];
	return dst;
}

NORETURN __attribute__((used)) void begin(s64 *stack)
{
	char **argv = (char **)(stack + 1);
	struct plan p = { .err = 0 };
	s64 err;

	if (stack[0] != 3 || !is_order(argv[1]) || parse_hex(argv[2], &p.to) < 0)
		leave(EINVAL);
	p.order = argv[1];
	send_all(&p);
	err = send_from_thread(&p);
	leave(-(p.err ? p.err : err));
}
