/* SPDX-License-Identifier: Apache-2.0 */
/* crowd.c: processes and sockets that are there and do nothing. */
#include "load.h"

static void NORETURN stand(s64 sockets, const struct address *to, s64 ready)
{
	u8 byte = 0;

	sys(NR_prctl, PR_SET_PDEATHSIG, SIGKILL);
	for (s64 i = 0; i < sockets; i++) {
		s64 fd = sys(NR_socket, family(to->raw), SOCK_DGRAM, 0);

		check("socket", fd);
		check("connect", sys(NR_connect, fd, to->raw, to->len));
	}
	check("report", sys(NR_write, ready, &byte, 1));
	sys(NR_close, ready);
	for (;;)
		sys(NR_ppoll, NULL, 0, NULL, NULL, 8);
}

/* crowd makes n processes with so many sockets each, all connected to one address. It writes how long that took, and ends
 * when its standard input does, and its children with it.
 */
u64 run_crowd(u64 n, char **args)
{
	u64 sockets = number(args[0]), start = now();
	struct address to = address(args[1]);
	s32 ready[2];
	u8 byte;

	check("make a pipe", sys(NR_pipe2, ready, 0));
	for (u64 i = 0; i < n; i++) {
		s64 pid = sys(NR_clone, SIGCHLD, NULL, NULL, NULL, NULL);

		if (!pid)
			stand(sockets, &to, ready[1]);
		check("fork", pid);
	}
	for (u64 i = 0; i < n; i++)
		if (sys(NR_read, ready[0], &byte, 1) != 1)
			fail("a child failed", -EPIPE);
	say(now() - start);
	while (sys(NR_read, 0, &byte, 1) > 0)
		;
	return now() - start;
}
