/* SPDX-License-Identifier: Apache-2.0 */
/* net.c: sockets, datagrams and connections, and the server that the last two talk to. */
#include "load.h"

enum {
	SMALL = 64, BATCH = 64, BIG = 65536, IPPROTO_TCP = 6, TCP_NODELAY = 1, SO_REUSEADDR = 2, SHUT_WR = 1,
	ASK = 'a', TAKE = 't', /* the first byte of a connection says what the server does */
};

struct mmsghdr {
	struct msghdr msg;
	u64 len; /* and padding */
};

static s64 new_socket(const struct address *to, s64 type)
{
	s64 fd = sys(NR_socket, family(to->raw), type | SOCK_CLOEXEC, 0);

	check("socket", fd);
	return fd;
}

u64 run_socket(u64 n, char **args)
{
	struct address to = address(args[0]);
	u64 start = now();

	for (u64 i = 0; i < n; i++)
		sys(NR_close, new_socket(&to, SOCK_DGRAM));
	return now() - start;
}

u64 run_connect(u64 n, char **args)
{
	struct address to = address(args[0]);
	u64 start = now();

	for (u64 i = 0; i < n; i++) {
		s64 fd = new_socket(&to, SOCK_DGRAM);

		check("connect", sys(NR_connect, fd, to.raw, to.len));
		sys(NR_close, fd);
	}
	return now() - start;
}

/* since returns how long ago start was, and closes a socket. */
static u64 since(u64 start, s64 fd)
{
	u64 took = now() - start;

	sys(NR_close, fd);
	return took;
}

/* send names the peer of every datagram. */
u64 run_send(u64 n, char **args)
{
	struct address to = address(args[0]);
	s64 fd = new_socket(&to, SOCK_DGRAM);
	u8 data[SMALL] = { 0 };
	u64 start = now();

	for (u64 i = 0; i < n; i++)
		check("sendto", sys(NR_sendto, fd, data, SMALL, 0, to.raw, to.len));
	return since(start, fd);
}

/* flood sends on a connected socket, BATCH datagrams with each call: as many packets as there can be. */
u64 run_flood(u64 n, char **args)
{
	struct address to = address(args[0]);
	s64 fd = new_socket(&to, SOCK_DGRAM);
	u8 data[SMALL] = { 0 };
	struct iovec iov = { data, SMALL };
	struct mmsghdr batch[BATCH] = { 0 };
	u64 start;

	check("connect", sys(NR_connect, fd, to.raw, to.len));
	for (u64 i = 0; i < BATCH; i++)
		batch[i].msg = (struct msghdr){ .iov = &iov, .iovlen = 1 };
	start = now();
	for (u64 sent = 0; sent < n;) {
		s64 now_sent = sys(NR_sendmmsg, fd, batch, n - sent < BATCH ? n - sent : BATCH, 0);

		check("sendmmsg", now_sent);
		sent += now_sent;
	}
	return since(start, fd);
}

static s64 dial(const struct address *to, u8 what)
{
	s64 fd = new_socket(to, SOCK_STREAM), one = 1;

	check("connect", sys(NR_connect, fd, to->raw, to->len));
	check("set TCP_NODELAY", sys(NR_setsockopt, fd, IPPROTO_TCP, TCP_NODELAY, &one, 4));
	check("send", sys(NR_write, fd, &what, 1));
	return fd;
}

/* ask sends a byte and waits for it to come back. */
u64 run_ask(u64 n, char **args)
{
	struct address to = address(args[0]);
	s64 fd = dial(&to, ASK);
	u8 byte = 0;
	u64 start = now();

	for (u64 i = 0; i < n; i++) {
		check("ask", sys(NR_write, fd, &byte, 1));
		if (sys(NR_read, fd, &byte, 1) != 1)
			fail("no answer", -EPIPE);
	}
	return since(start, fd);
}

static void send_all(s64 fd, const u8 *data, u64 len)
{
	while (len) {
		s64 n = sys(NR_write, fd, data, len);

		check("send", n);
		data += n;
		len -= n;
	}
}

/* bulk sends n times 64 KiB and waits until the server has taken them all. */
u64 run_bulk(u64 n, char **args)
{
	struct address to = address(args[0]);
	s64 fd = dial(&to, TAKE);
	s64 data = sys(NR_mmap, NULL, BIG, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	u64 start;
	u8 byte;

	check("make a buffer", data);
	start = now();
	for (u64 i = 0; i < n; i++)
		send_all(fd, (u8 *)data, BIG);
	check("shut down", sys(NR_shutdown, fd, SHUT_WR));
	if (sys(NR_read, fd, &byte, 1))
		fail("the server did not close", -EPIPE);
	sys(NR_munmap, data, BIG);
	return since(start, fd);
}

static void NORETURN serve_one(s64 fd)
{
	static u8 data[BIG];
	s64 n, one = 1;

	sys(NR_setsockopt, fd, IPPROTO_TCP, TCP_NODELAY, &one, 4);
	if (sys(NR_read, fd, data, 1) != 1)
		leave(0);
	if (data[0] == TAKE)
		while (sys(NR_read, fd, data, BIG) > 0)
			;
	else
		while ((n = sys(NR_read, fd, data, BIG)) > 0)
			send_all(fd, data, n);
	leave(0);
}

/* serve answers connections, and drops the datagrams to the same port, until it is killed. */
u64 run_serve(u64 n, char **args)
{
	struct sigaction ignore = { .handler = (void *)1 };
	struct address at = address(args[0]);
	s64 udp = new_socket(&at, SOCK_DGRAM), tcp = new_socket(&at, SOCK_STREAM), one = 1;

	check("set SO_REUSEADDR", sys(NR_setsockopt, tcp, SOL_SOCKET, SO_REUSEADDR, &one, 4));
	check("bind", sys(NR_bind, udp, at.raw, at.len));
	check("bind", sys(NR_bind, tcp, at.raw, at.len));
	check("listen", sys(NR_listen, tcp, 1024));
	sys(NR_rt_sigaction, SIGCHLD, &ignore, NULL, 8);
	say(0); /* ready */
	for (;;) {
		s64 fd = sys(NR_accept4, tcp, NULL, NULL, SOCK_CLOEXEC);

		check("accept", fd);
		if (!sys(NR_clone, SIGCHLD, NULL, NULL, NULL, NULL)) {
			sys(NR_prctl, PR_SET_PDEATHSIG, SIGKILL);
			serve_one(fd);
		}
		sys(NR_close, fd);
	}
	return n;
}
