/* SPDX-License-Identifier: Apache-2.0 */
/* storm.c: many short processes, as fast as the kernel makes them. */
#include "actor.h"
#include "datagram.h"

enum { WIDTH_MAX = 64 };

struct storm {
	struct image im;
	struct address to;
	u64 argc, flags;
};

static void NORETURN drop(struct storm *s)
{
	s64 err = 0;

	if (s->argc)
		err = exec_image(&s->im, START_NOT, 0);
	else if (s->to.len)
		err = send_datagram(&s->to, 0);
	leave(-err);
}

static s64 wait_for(s64 pid)
{
	s32 status = 0;
	s64 err = sys(NR_wait4, pid, &status, 0, NULL);

	return err < 0 ? err : status;
}

/* gust makes up to width processes that live at the same time, and returns how many ended well, or -errno. */
static s64 gust(struct storm *s, u64 width)
{
	s64 pids[WIDTH_MAX], err = 0, good = 0;
	u64 n;

	for (n = 0; n < width; n++) {
		pids[n] = sys(NR_clone, s->flags | SIGCHLD, NULL, NULL, NULL, NULL);
		if (!pids[n])
			drop(s);
		if (pids[n] < 0) {
			err = pids[n];
			break;
		}
	}
	for (u64 i = 0; i < n; i++) {
		s64 status = wait_for(pids[i]);

		if (status < 0)
			err = status;
		good += !status;
	}
	return err ? err : good;
}

/* storm returns how many processes ended well. It needs their exit status, so children are not ignored meanwhile. */
s64 storm(struct message *in)
{
	struct sigaction wait = { 0 }, ignore = { .handler = (void *)1 };
	struct storm s = { .argc = in->rq.arg[3], .flags = in->rq.arg[4] };
	u64 left = in->rq.arg[0], width = in->rq.arg[1];
	s64 n = 0, good = 0, err = 0;

	if (!width || width > WIDTH_MAX || s.flags & CLONE_VM)
		return -EINVAL;
	if (s.argc)
		err = parse_image(&s.im, in);
	else if (in->rq.len)
		err = parse_address(&s.to, in);
	if (err)
		return err;
	sys(NR_rt_sigaction, SIGCHLD, &wait, NULL, 8);
	for (; left && n >= 0; left -= width) {
		if (width > left)
			width = left;
		n = gust(&s, width);
		good += n;
		poll_fd(-1, 0, 0); /* ends us if the driver is gone */
	}
	sys(NR_rt_sigaction, SIGCHLD, &ignore, NULL, 8);
	while (sys(NR_wait4, -1, NULL, WNOHANG, NULL) > 0)
		; /* actors that ended during the storm */
	return n < 0 ? n : good;
}
