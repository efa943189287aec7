/* SPDX-License-Identifier: Apache-2.0 */
/* actor.c: start, the command loop, the table of commands. */
#include "actor.h"

ENTRY;

/* The compiler calls these for large structures, with or without a C library. */
__attribute__((used)) void *memset(void *dst, int c, u64 n)
{
	for (u64 i = 0; i < n; i++)
		((volatile u8 *)dst)[i] = (u8)c;
	return dst;
}

__attribute__((used)) void *memcpy(void *dst, const void *src, u64 n)
{
	for (u64 i = 0; i < n; i++)
		((volatile u8 *)dst)[i] = ((const u8 *)src)[i];
	return dst;
}

/* move_fd gives fd a fixed number, which survives exec. */
static void move_fd(s64 fd, s64 to)
{
	if (fd < 0)
		leave(-fd);
	sys(NR_dup3, fd, to, 0);
	sys(NR_close, fd);
}

/* join opens this process's own channel.
 *
 * connect() knows no directory descriptor, so the working directory moves for a moment. A path would be too long,
 * and would not exist inside a chroot or another mount namespace.
 */
static void join(void)
{
	struct {
		u16 family;
		char path[sizeof(STAGE_SOCKET)];
	} to = { AF_UNIX, STAGE_SOCKET };
	s64 cwd = sys(NR_openat, AT_FDCWD, ".", O_PATH | O_CLOEXEC);
	s64 err;

	sys(NR_close, CONTROL_FD);
	move_fd(sys(NR_socket, AF_UNIX, SOCK_SEQPACKET, 0), CONTROL_FD);
	err = sys(NR_fchdir, STAGE_FD);
	if (!err)
		err = sys(NR_connect, CONTROL_FD, &to, sizeof(to));
	if (err)
		leave(-err);
	sys(NR_fchdir, cwd);
	sys(NR_close, cwd);
}

void send_reply(struct reply *rp, const char *data)
{
	struct iovec iov[2] = { { rp, sizeof(*rp) }, { data, rp->len } };
	struct msghdr msg = { .iov = iov, .iovlen = 2 };

	rp->pid = (u32)sys(NR_getpid);
	rp->ppid = (u32)sys(NR_getppid);
	if (sys(NR_sendmsg, CONTROL_FD, &msg, MSG_NOSIGNAL) < 0)
		leave(0); /* the driver is gone */
}

/* receive waits for a command. The end of the channel is the end of the process: nothing outlives its driver. */
static void receive(struct message *in)
{
	s64 n = sys(NR_recvfrom, CONTROL_FD, in, sizeof(*in), MSG_TRUNC);

	if (n <= 0)
		leave(0);
	if (n < (s64)sizeof(in->rq) || n > (s64)sizeof(*in) || in->rq.magic != MAGIC ||
	    in->rq.len != n - sizeof(in->rq))
		leave(EPROTO);
}

static s64 any_syscall(struct message *in, struct reply *rp)
{
	u64 *a = in->rq.arg;

	rp->len = in->rq.len;
	return syscall6(a[0], a[1], a[2], a[3], a[4], a[5], a[6]);
}

enum next run(struct message *in, struct reply *rp)
{
	u64 *arg = in->rq.arg;

	if (in->rq.flags & ON_THREAD)
		return run_on_thread(in, rp);
	switch (in->rq.op) {
	case OP_INFO:
		break;
	case OP_EXIT:
		leave((s64)arg[0]);
	case OP_BIRTH:
	case OP_SPAWN:
		return give_birth(in, rp);
	case OP_EXEC:
		rp->ret = execute(in);
		break;
	case OP_SEND:
		rp->ret = send_many(in);
		break;
	case OP_CONNECT:
		rp->ret = connect_once(in, rp);
		break;
	case OP_POLL:
		rp->ret = poll_fd((s64)arg[0], (s64)arg[1], (s64)arg[2]);
		break;
	case OP_STORM:
		rp->ret = storm(in);
		break;
	case OP_SYSCALL:
		rp->ret = any_syscall(in, rp);
		break;
	case OP_ABDICATE:
		return abdicate(in, rp);
	default:
		rp->ret = -ENOSYS;
	}
	rp->tid = (u32)sys(NR_gettid);
	return ANSWER;
}

/* serve is the life of a process: say hello, then obey. The word is a token or a sequence number, as start says. */
void NORETURN serve(int start, u64 word)
{
	struct message in;
	struct reply rp = { .magic = MAGIC, .base = (u64)in.data };
	enum next next = start == START_AGAIN ? ANSWER : JOIN;

	if (next == ANSWER)
		rp.seq = (u32)word;
	else
		rp.token = word;
	rp.tid = (u32)sys(NR_gettid);
	for (;;) {
		if (next == JOIN)
			join();
		if (next != SILENT)
			send_reply(&rp, in.data);
		receive(&in);
		rp.seq = in.rq.seq;
		rp.token = 0;
		rp.ret = 0;
		rp.len = 0;
		next = run(&in, &rp);
		if (next == JOIN) {
			rp.seq = 0;
			rp.ret = 0;
			rp.token = in.rq.token;
			rp.tid = (u32)sys(NR_gettid);
		}
	}
}

/* The wish of how to start comes by the environment: argv belongs to the tests, and a script's interpreter gets the
 * script's path there.
 */
static const char *find_wish(char **envp)
{
	static const char name[] = "SIDESTEP_ACTOR=";

	for (; *envp; envp++) {
		u64 i = 0;

		while (name[i] && (*envp)[i] == name[i])
			i++;
		if (!name[i])
			return *envp + i;
	}
	leave(EINVAL);
}

NORETURN __attribute__((used)) void begin(s64 *stack)
{
	const char *wish = find_wish((char **)(stack + 1 + stack[0] + 1));
	struct sigaction ignore = { .handler = (void *)1 };
	u64 word = 0;

	if (wish[0] == START_NOT)
		leave(0);
	for (int i = 1; i <= 16; i++) {
		char c = wish[i];

		if (!(c >= '0' && c <= '9') && !(c >= 'a' && c <= 'f'))
			leave(EINVAL);
		word = word << 4 | (u64)(c <= '9' ? c - '0' : c - 'a' + 10);
	}
	/* The kernel reaps our children at once: no zombies. Inherited by fork and exec. */
	sys(NR_rt_sigaction, SIGCHLD, &ignore, NULL, 8);
	sys(NR_close, IMAGE_FD);
	if (wish[0] == START_STAGE)
		move_fd(sys(NR_openat, AT_FDCWD, wish + 17, O_PATH), STAGE_FD);
	serve(wish[0], word);
}
