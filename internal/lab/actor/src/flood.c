/* SPDX-License-Identifier: Apache-2.0 */
/* flood: sends until it is killed, from sockets of every age, and takes no error for an answer.
 *
 *	flood KIND HEXSOCKADDR [KIND HEXSOCKADDR]...
 *
 * Each pair is one thread with SLOTS sockets. In every round it sends on each of them, and pauses. KIND is
 *
 *	tcp	connections, to somebody who echoes
 *	udp	connected datagram sockets
 *	sendto	datagram sockets that are not connected
 *
 * The socket in slot i is replaced by a new one every 8 * 4^i rounds: the first lives for a moment, the last for
 * hours. Each was made when the one before it, in whatever slot, went into use. Those in slots 2, 3, 6 and 7 are bound
 * to a port first. Where a send fails, the next round tries the same socket again; if it has no peer any more, the odd
 * slots connect it anew.
 *
 * Nobody is sent to twice by different sockets, or by one before and after it was connected anew: the peer's address
 * is HEXSOCKADDR's with a number in its last three bytes. So a remote address tells a flow from all others, although
 * the kernel hands out local ports again.
 */
#include "sys.h"
#include "clone.h"
#include "datagram.h"
#include "hex.h"

ENTRY;

#define TALLY_FD 3 /* a file with a tally for each thread */
#define LINES_MAX 16
#define SLOTS 8
#define PAUSE 4000000 /* nanoseconds */
#define FIRST_PORT 1024 /* below those that the kernel hands out */
#define PORTS 30000

/* A tally is what a thread has done so far. The driver reads it at any time. Mirrored in flood.go. */
struct tally {
	u64 rounds, sockets; /* that went into use */
	u64 ends[254]; /* 0: sends that went well; by errno: sends and receipts that failed */
};
_Static_assert(sizeof(struct tally) == 2048, "ABI");

/* A line is a thread. */
struct line {
	char kind; /* the first letter */
	struct address to;
	u64 number, step; /* of the next peer, and from there to the one after it */
	volatile struct tally *tally;
	s64 sockets[SLOTS];
	struct address peers[SLOTS];
	s64 spare; /* socket */
};

/* meet gives a socket a new peer, in place of the one that it had. */
static void meet(struct line *l, u32 slot)
{
	struct address *peer = &l->peers[slot];
	struct address nobody = { .len = 16 };
	u8 *end = peer->raw + (l->to.len == 16 ? 8 : 24); /* of the address */

	*peer = l->to;
	end[-1] = (u8)l->number;
	end[-2] = (u8)(l->number >> 8);
	end[-3] = (u8)(l->number >> 16);
	l->number += l->step;
	if (l->kind == 's')
		return;
	sys(NR_connect, l->sockets[slot], nobody.raw, nobody.len);
	sys(NR_connect, l->sockets[slot], peer->raw, peer->len);
}

/* bind_any binds a socket to a port that is probably free, on all addresses. */
static void bind_any(const struct line *l, s64 fd)
{
	struct address any = { .len = l->to.len };
	u16 port = (u16)(FIRST_PORT + l->number % PORTS);

	any.raw[0] = l->to.raw[0];
	any.raw[1] = l->to.raw[1];
	any.raw[2] = (u8)(port >> 8);
	any.raw[3] = (u8)port;
	sys(NR_bind, fd, any.raw, any.len);
}

static s64 new_socket(const struct line *l)
{
	s64 type = l->kind == 't' ? SOCK_STREAM : SOCK_DGRAM;

	return sys(NR_socket, family(l->to.raw), type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
}

static void replace(struct line *l, u32 slot)
{
	sys(NR_close, l->sockets[slot]);
	l->sockets[slot] = l->spare;
	l->spare = new_socket(l);
	l->tally->sockets++;
	if (slot & 2)
		bind_any(l, l->sockets[slot]);
	meet(l, slot);
}

/* try sends on a socket, having taken what came back. */
static void try(struct line *l, u32 slot)
{
	struct datagram d = { .magic = DATAGRAM_MAGIC, .index = slot };
	struct address *to = l->kind == 's' ? &l->peers[slot] : NULL;
	char echo[256];
	s64 err = sys(NR_recvfrom, l->sockets[slot], echo, sizeof(echo));

	if (err < 0 && err != -EAGAIN)
		l->tally->ends[-err]++;
	err = sys(NR_sendto, l->sockets[slot], &d, sizeof(d), MSG_NOSIGNAL, to, to ? to->len : 0);
	l->tally->ends[err < 0 ? -err : 0]++;
	if (slot & 1 && (err == -EPIPE || err == -EDESTADDRREQ))
		meet(l, slot);
}

static void run(void *arg)
{
	struct line *l = arg;

	l->spare = new_socket(l);
	for (u32 slot = 0; slot < SLOTS; slot++)
		l->sockets[slot] = -1;
	for (;; l->tally->rounds++) {
		struct timespec pause = { 0, PAUSE };

		for (u32 slot = 0; slot < SLOTS; slot++) {
			if (l->tally->rounds % (8UL << 2 * slot) == 0)
				replace(l, slot);
			try(l, slot);
		}
		sys(NR_ppoll, NULL, 0, &pause, NULL, 8);
	}
}

NORETURN __attribute__((used)) void begin(s64 *stack)
{
	static struct line lines[LINES_MAX];
	u64 n = (u64)(stack[0] - 1) / 2;
	char **argv = (char **)(stack + 2);
	s64 err, tallies;

	if (n > LINES_MAX)
		leave(E2BIG);
	tallies = sys(NR_mmap, NULL, n * sizeof(struct tally), PROT_READ | PROT_WRITE, MAP_SHARED, TALLY_FD);
	if (tallies < 0)
		leave(-tallies);
	for (u64 i = 0; i < n; i++) {
		struct line *l = &lines[i];

		l->kind = argv[2 * i][0];
		l->number = i;
		l->step = n;
		l->tally = (struct tally *)tallies + i;
		err = parse_hex(argv[2 * i + 1], &l->to);
		if (!err)
			err = new_stack();
		if (err > 0)
			err = clone_call(THREAD, (void *)(err + STACK_SIZE), run, l, NULL);
		if (err < 0)
			leave(-err);
	}
	for (;;)
		sys(NR_ppoll, NULL, 0, NULL, NULL, 8);
}
