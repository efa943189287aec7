/* SPDX-License-Identifier: Apache-2.0 */
/* datagram.h: what these programs send, so that the receiver knows who sent it. Mirrored in wire.go. */
#ifndef DATAGRAM_H
#define DATAGRAM_H

#include "sys.h"

struct datagram {
	u32 magic;
	u32 pid, tid; /* as the sender sees itself */
	u32 index;
};

#define DATAGRAM_MAGIC 0x6d677264 /* "drgm" */

/* send_datagram sends one datagram from a new socket. The socket comes before everything else: it is what the kernel
 * classifies.
 */
static inline s64 send_datagram(const struct address *to, u32 index)
{
	s64 err, fd = sys(NR_socket, family(to->raw), SOCK_DGRAM | SOCK_CLOEXEC, 0);
	struct datagram d;

	if (fd < 0)
		return fd;
	d.magic = DATAGRAM_MAGIC;
	d.pid = (u32)sys(NR_getpid);
	d.tid = (u32)sys(NR_gettid);
	d.index = index;
	err = sys(NR_sendto, fd, &d, sizeof(d), MSG_NOSIGNAL, to->raw, to->len);
	sys(NR_close, fd);
	return err < 0 ? err : 0;
}

#endif
