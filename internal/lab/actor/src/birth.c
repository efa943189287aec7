/* SPDX-License-Identifier: Apache-2.0 */
/* birth.c: new processes and new images. */
#include "actor.h"

struct birth {
	u32 how, seq;
	u64 flags; /* of clone */
	u64 token;
	u64 base;
	struct image *image; /* NULL: the child serves */
	s32 report[2];       /* a pipe for what fails in the child, -1 without one */
};

struct clone_args {
	u64 flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls;
};

/* next_string returns the string at *at, moves *at behind it, and returns NULL if there is none. */
static char *next_string(struct message *in, u32 *at)
{
	u32 first = *at;

	while (*at < in->rq.len)
		if (!in->data[(*at)++])
			return in->data + first;
	return NULL;
}

/* parse_image reads via and argc from the request, and path, directory and argv from its data: exactly. */
s64 parse_image(struct image *im, struct message *in)
{
	u64 argc = in->rq.arg[3];
	u32 at = 0;

	if (argc > ARGV_MAX)
		return -E2BIG;
	im->via = (u32)in->rq.arg[2];
	im->path = next_string(in, &at);
	im->dir = next_string(in, &at);
	for (u64 i = 0; i < argc; i++)
		im->argv[i] = next_string(in, &at);
	im->argv[argc] = NULL;
	if (!im->dir || (argc && !im->argv[argc - 1]) || at != in->rq.len)
		return -EBADMSG;
	return 0;
}

/* copy_to_memfd returns a descriptor of a file that has no path. */
static s64 copy_to_memfd(const char *path)
{
	s64 from = sys(NR_openat, AT_FDCWD, path, O_CLOEXEC);
	s64 n, to;

	if (from < 0)
		return from;
	to = sys(NR_memfd_create, "actor", 0);
	do
		n = to < 0 ? to : sys(NR_sendfile, to, from, NULL, 1 << 20);
	while (n > 0);
	sys(NR_close, from);
	if (n < 0 && to >= 0)
		sys(NR_close, to);
	return n < 0 ? n : to;
}

/* exec_image replaces this process's program, or returns -errno. It leaves the working directory in im->dir. */
s64 exec_image(struct image *im, char start, u64 word)
{
	char wish[] = "SIDESTEP_ACTOR=?0123456789abcdef";
	char *envp[] = { wish, NULL };
	s64 fd, err = 0;

	wish[15] = start;
	for (int i = 0; i < 16; i++)
		wish[31 - i] = "0123456789abcdef"[word >> 4 * i & 15];
	if (im->dir[0] && im->via != VIA_DIRFD)
		err = sys(NR_chdir, im->dir);
	if (err)
		return err;
	if (im->via == VIA_PATH)
		return sys(NR_execve, im->path, im->argv, envp);
	if (im->via == VIA_MEMFD)
		fd = copy_to_memfd(im->path);
	else
		fd = sys(NR_openat, AT_FDCWD, im->via == VIA_DIRFD ? im->dir : im->path, O_PATH);
	if (fd < 0)
		return fd;
	/* Stays open in the new image: the kernel opens a script as /dev/fd/202, or /dev/fd/202/name. */
	sys(NR_dup3, fd, IMAGE_FD, 0);
	sys(NR_close, fd);
	if (im->via == VIA_DIRFD)
		err = sys(NR_execveat, IMAGE_FD, im->path, im->argv, envp, 0);
	else
		err = sys(NR_execveat, IMAGE_FD, "", im->argv, envp, AT_EMPTY_PATH);
	sys(NR_close, IMAGE_FD);
	return err;
}

/* execute replaces the program and keeps the channel: the new image answers. It returns only if it fails. */
s64 execute(struct message *in)
{
	struct image im;
	s64 err = parse_image(&im, in);

	return err ? err : exec_image(&im, START_AGAIN, in->rq.seq);
}

static void NORETURN fail(struct birth *b, s64 err)
{
	sys(NR_write, b->report[1], &err, sizeof(err));
	leave(-err);
}

/* child is what a new process does first. */
static enum next child(struct birth *b)
{
	struct reply rp = { .magic = MAGIC, .seq = b->seq, .base = b->base };

	if (b->image) {
		sys(NR_close, CONTROL_FD);
		fail(b, exec_image(b->image, START_CHILD, b->token));
	}
	if (b->flags & CLONE_VFORK) {
		/* The parent sleeps until this process ends or execs: answer for it. */
		rp.ret = sys(NR_getpid);
		rp.tid = (u32)sys(NR_gettid);
		send_reply(&rp, NULL);
	}
	sys(NR_close, b->report[0]);
	sys(NR_close, b->report[1]);
	return JOIN;
}

static void vm_child(void *arg)
{
	struct birth *b = arg;

	child(b);
	serve(START_CHILD, b->token);
}

/* clone_vm makes a process that shares our memory, on a stack of its own as posix_spawn does. */
static s64 clone_vm(struct birth *b)
{
	s64 pid, stack = new_stack();
	struct birth *copy = (struct birth *)(stack + STACK_SIZE) - 1;

	if (stack < 0)
		return stack;
	*copy = *b; /* our own frame may be gone before the child looks */
	pid = clone_call(b->flags | SIGCHLD, (void *)((u64)copy & ~15UL), vm_child, copy, NULL);
	if (pid < 0 || b->flags & CLONE_VFORK)
		sys(NR_munmap, stack, STACK_SIZE); /* else the child lives on it */
	return pid;
}

static s64 split(struct birth *b)
{
	struct clone_args args = { .flags = b->flags, .exit_signal = SIGCHLD };

	if (b->flags & CLONE_VM)
		return clone_vm(b);
	if (b->how == BY_CLONE3)
		return sys(NR_clone3, &args, sizeof(args));
#ifdef __x86_64__
	if (b->how == BY_FORK)
		return sys(NR_fork);
#endif
	return sys(NR_clone, b->flags | SIGCHLD, NULL, NULL, NULL, NULL);
}

/* split_again makes the grandchild of a double fork, and ends the process between. */
static void split_again(struct birth *b)
{
	s64 between = sys(NR_getpid);
	s64 pid = sys(NR_clone, SIGCHLD, NULL, NULL, NULL, NULL);

	if (pid < 0)
		fail(b, pid);
	if (pid > 0)
		leave(0);
	while (sys(NR_getppid) == between)
		sys(NR_sched_yield);
}

enum next give_birth(struct message *in, struct reply *rp)
{
	struct image im;
	struct birth b = {
		.how = (u32)in->rq.arg[0], .seq = in->rq.seq, .flags = in->rq.arg[1],
		.token = in->rq.token, .base = rp->base, .report = { -1, -1 },
	};
	s64 pid, err = 0;

	if (in->rq.op == OP_SPAWN) {
		b.image = &im;
		err = parse_image(&im, in);
	}
	if (!err && (b.image || b.how == BY_DOUBLE))
		err = sys(NR_pipe2, b.report, O_CLOEXEC);
	pid = err ? err : split(&b);
	if (!pid) {
		if (b.how == BY_DOUBLE)
			split_again(&b);
		return child(&b);
	}
	/* The pipe ends when the exec is done or the grandchild serves; before that it carries an error. */
	sys(NR_close, b.report[1]);
	if (pid > 0 && b.report[0] >= 0 && sys(NR_read, b.report[0], &err, sizeof(err)) == sizeof(err))
		pid = err;
	sys(NR_close, b.report[0]);
	if (pid > 0 && b.how == BY_DOUBLE)
		sys(NR_wait4, pid, NULL, 0, NULL); /* ECHILD once it is gone: children are ignored */
	rp->ret = pid;
	rp->tid = (u32)sys(NR_gettid);
	return pid > 0 && b.flags & CLONE_VFORK && !b.image ? SILENT : ANSWER;
}
