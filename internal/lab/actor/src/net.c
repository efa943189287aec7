/* SPDX-License-Identifier: Apache-2.0 */
/* net.c: datagrams, connections, waiting. */
#include "actor.h"
#include "datagram.h"

s64 parse_address(struct address *to, const struct message *in)
{
	if (in->rq.len < 16 || in->rq.len > sizeof(to->raw))
		return -EBADMSG;
	memcpy(to->raw, in->data, in->rq.len);
	to->len = in->rq.len;
	return 0;
}

s64 send_many(struct message *in)
{
	struct address to;
	s64 err = parse_address(&to, in);

	for (u32 i = 0; i < in->rq.arg[0] && !err; i++)
		err = send_datagram(&to, i);
	return err;
}

/* poll_fd waits until fd has one of events. It also watches the channel, so that no driver leaves us waiting. */
s64 poll_fd(s64 fd, s64 events, s64 ms)
{
	struct pollfd fds[2] = { { (s32)fd, (short)events, 0 }, { CONTROL_FD, 0, 0 } };
	struct timespec limit = { ms / 1000, ms % 1000 * 1000000 };
	s64 n = sys(NR_ppoll, fds, 2, &limit, NULL, 8);

	if (fds[1].revents & (POLLHUP | POLLERR))
		leave(0);
	if (n < 0)
		return n;
	return n ? fds[0].revents : -ETIMEDOUT;
}

/* connect_once makes one TCP connection and reports its local address, also if the connection failed. */
s64 connect_once(struct message *in, struct reply *rp)
{
	struct address to;
	s32 failed = 0;
	u32 len = sizeof(failed);
	s64 fd, err = parse_address(&to, in);

	if (err)
		return err;
	fd = sys(NR_socket, family(to.raw), SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return fd;
	err = sys(NR_connect, fd, to.raw, to.len);
	if (err == -EINPROGRESS) {
		err = poll_fd(fd, POLLOUT, (s64)in->rq.arg[0]);
		if (err > 0)
			err = sys(NR_getsockopt, fd, SOL_SOCKET, SO_ERROR, &failed, &len);
		if (!err)
			err = -failed;
	}
	rp->len = sizeof(to.raw);
	if (sys(NR_getsockname, fd, in->data, &rp->len))
		rp->len = 0;
	sys(NR_close, fd);
	return err;
}
