/* SPDX-License-Identifier: Apache-2.0 */
/* probe: sends from its first instructions, and ends.
 *
 *	probe udp|tcp|syn HEXSOCKADDR [COUNT]
 *
 * HEXSOCKADDR is the bytes of a struct sockaddr_in or sockaddr_in6 in hexadecimal, so that nothing worth
 * measuring happens between the exec and the first socket(). Every one of the COUNT rounds uses a new socket.
 *
 *	udp	one datagram
 *	tcp	connect, given up after three seconds (ETIMEDOUT)
 *	syn	start to connect, and do not wait: the SYN is out when connect() returns
 *
 * The exit status is the errno of the first call that failed, or 0.
 */
#include "sys.h"
#include "datagram.h"
#include "hex.h"

ENTRY;

static s64 parse_count(const char *s)
{
	s64 n = 0;

	for (; *s; s++) {
		if (*s < '0' || *s > '9' || n > 100000000)
			return -EINVAL;
		n = n * 10 + (*s - '0');
	}
	return n;
}

static s64 connect_to(const struct address *to, s64 wait)
{
	struct { s64 sec, usec; } limit = { 3, 0 };
	s64 fd = sys(NR_socket, family(to->raw), SOCK_STREAM | (wait ? 0 : SOCK_NONBLOCK), 0);
	s64 err;

	if (fd < 0)
		return fd;
	if (wait)
		sys(NR_setsockopt, fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
	err = sys(NR_connect, fd, to->raw, to->len);
	sys(NR_close, fd);
	if (err == -EINPROGRESS)
		return wait ? -ETIMEDOUT : 0;
	return err;
}

NORETURN __attribute__((used)) void begin(s64 *stack)
{
	s64 argc = stack[0];
	char **argv = (char **)(stack + 1);
	struct address to;
	s64 err, count = 1;

	if (argc < 3 || argc > 4)
		leave(EINVAL);
	err = parse_hex(argv[2], &to);
	if (argc == 4)
		count = parse_count(argv[3]);
	if (count < 0)
		err = count;
	for (s64 i = 0; i < count && err >= 0; i++) {
		switch (argv[1][0]) {
		case 'u':
			err = send_datagram(&to, (u32)i);
			break;
		case 't':
			err = connect_to(&to, 1);
			break;
		case 's':
			err = connect_to(&to, 0);
			break;
		default:
			err = -EINVAL;
		}
	}
	leave(err < 0 ? -err : 0);
}
