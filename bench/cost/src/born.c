/* SPDX-License-Identifier: Apache-2.0 */
/* born.c: processes and threads that live as short as they can. */
#include "load.h"

static void reap(s64 pid)
{
	s32 status = 0;

	check("fork", pid);
	check("wait", sys(NR_wait4, pid, &status, 0, NULL));
	if (status)
		fail("a child failed", -(status >> 8 & 255));
}

/* start_image runs a program as posix_spawn does: without a copy of our memory. */
static void start_image(char *path)
{
	char *argv[] = { path, NULL };
	s64 pid = sys(NR_clone, CLONE_VFORK | SIGCHLD, NULL, NULL, NULL, NULL);

	if (!pid)
		leave(-sys(NR_execve, path, argv, argv + 1));
	reap(pid);
}

u64 run_exec(u64 n, char **args)
{
	u64 start;

	start_image(args[0]); /* it is in the caches now */
	start = now();
	for (u64 i = 0; i < n; i++)
		start_image(args[0]);
	return now() - start;
}

/* pace starts the program so often a second, for so many seconds. */
u64 run_pace(u64 n, char **args)
{
	u64 seconds = number(args[1]), start = now();

	for (u64 i = 0; i < n * seconds; i++) {
		u64 at = start + i * 1000000000 / n;
		struct timespec t = { .sec = at / 1000000000, .nsec = at % 1000000000 };

		sys(NR_clock_nanosleep, CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL);
		start_image(args[0]);
	}
	return now() - start;
}

u64 run_fork(u64 n, char **args)
{
	u64 start = now();

	(void)args;
	for (u64 i = 0; i < n; i++) {
		s64 pid = sys(NR_clone, SIGCHLD, NULL, NULL, NULL, NULL);

		if (!pid)
			leave(0);
		reap(pid);
	}
	return now() - start;
}

static void end_thread(void *arg)
{
	(void)arg;
	for (;;)
		sys(NR_exit, 0);
}

/* thread starts one thread after the other; each has ended when the next one begins. */
u64 run_thread(u64 n, char **args)
{
	s64 stack = new_stack();
	u64 start;

	(void)args;
	check("make a stack", stack);
	start = now();
	for (u64 i = 0; i < n; i++) {
		volatile u32 tid = 1;
		u32 seen;

		check("clone", clone_call(THREAD | CLONE_CHILD_CLEARTID, (void *)(stack + STACK_SIZE), end_thread, NULL,
					  (u32 *)&tid));
		while ((seen = tid))
			sys(NR_futex, &tid, FUTEX_WAIT, seen, NULL);
	}
	start = now() - start;
	sys(NR_munmap, stack, STACK_SIZE);
	return start;
}
