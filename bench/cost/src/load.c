/* SPDX-License-Identifier: Apache-2.0 */
/* load: does one thing many times and writes how many nanoseconds that took.
 *
 *	load NAME COUNT SLICES [ARGUMENT]...
 *
 * It does so several times over, and tells of the fastest: whatever else the machine does makes it slower, never faster.
 * What has to be there first (sockets, connections) is made before the clock starts. It has no C library, as a start
 * of it is what is measured: see internal/lab/actor/src/sys.h.
 */
#include "load.h"

ENTRY;

static const struct load *find(const char *name)
{
	static const struct load loads[] = {
		{ "exec", run_exec },	{ "fork", run_fork }, { "thread", run_thread }, { "pace", run_pace },
		{ "socket", run_socket }, { "connect", run_connect }, { "send", run_send }, { "flood", run_flood },
		{ "ask", run_ask }, { "bulk", run_bulk }, { "serve", run_serve }, { "crowd", run_crowd },
	};

	for (u64 i = 0; i < sizeof(loads) / sizeof(loads[0]); i++) {
		const char *a = loads[i].name, *b = name;

		while (*a && *a == *b)
			a++, b++;
		if (*a == *b)
			return &loads[i];
	}
	return NULL;
}

/* The compiler calls these. */
void *memcpy(void *dst, const void *src, u64 n)
{
	for (u64 i = 0; i < n; i++)
		((u8 *)dst)[i] = ((const u8 *)src)[i];
	return dst;
}

void *memset(void *dst, int byte, u64 n)
{
	for (u64 i = 0; i < n; i++)
		((u8 *)dst)[i] = byte;
	return dst;
}

u64 now(void)
{
	struct timespec t;

	sys(NR_clock_gettime, CLOCK_MONOTONIC, &t);
	return (u64)t.sec * 1000000000 + t.nsec;
}

/* say writes a number and a newline to standard output. */
void say(u64 n)
{
	char text[24];
	u64 at = sizeof(text);

	text[--at] = '\n';
	do
		text[--at] = '0' + n % 10;
	while (n /= 10);
	sys(NR_write, 1, text + at, sizeof(text) - at);
}

void NORETURN fail(const char *what, s64 err)
{
	u64 n = 0;

	while (what[n])
		n++;
	sys(NR_write, 2, "load: ", 6);
	sys(NR_write, 2, what, n);
	sys(NR_write, 2, "\n", 1);
	leave(err < 0 ? -err : 1);
}

void check(const char *what, s64 ret)
{
	if (ret < 0)
		fail(what, ret);
}

u64 number(const char *s)
{
	u64 n = 0;

	if (!s)
		fail("a number is missing", -EINVAL);
	for (; *s >= '0' && *s <= '9'; s++)
		n = n * 10 + (*s - '0');
	return n;
}

struct address address(const char *hex)
{
	struct address a;

	if (!hex || parse_hex(hex, &a))
		fail("an address is missing", -EINVAL);
	return a;
}

/* begin is called with the address of argc. Without arguments it ends at once: that is the program that is started. */
void NORETURN begin(s64 *sp)
{
	char **argv = (char **)(sp + 1);
	const struct load *load;
	u64 best = -1;

	if (*sp < 4)
		leave(0);
	load = find(argv[1]);
	if (!load)
		fail("no such load", -EINVAL);
	for (u64 slices = number(argv[3]); slices; slices--) {
		u64 took = load->run(number(argv[2]), argv + 4);

		if (took < best)
			best = took;
	}
	say(best);
	leave(0);
}
