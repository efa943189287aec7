/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * SipHash-2-4 with 128 bits of output (Aumasson, Bernstein 2012) over names and paths.
 *
 * The message is a sequence of 8-byte words. A name is its bytes, then NUL up to the next multiple of 8, at least
 * one: since names hold no NUL, no two sequences of names give the same words. Package identity does the same in Go.
 */
#ifndef SIDESTEP_HASH_H
#define SIDESTEP_HASH_H

#include "maps.h"

#define NAME_LEN_MAX 255 /* NAME_MAX in include/uapi/linux/limits.h */

struct sip {
	__u64 v0, v1, v2, v3; /* the state; in the end v0 and v1 are the result */
	__u16 words; /* modulo 32 is what the result needs */
	__u16 left; /* of the name that is being absorbed, in bytes */
	int failed; /* a name could not be read: the result names nothing */
};

#define ROTL(x, b) (((x) << (b)) | ((x) >> (64 - (b))))

static __always_inline void sip_round(struct sip *s)
{
	s->v0 += s->v1;
	s->v1 = ROTL(s->v1, 13) ^ s->v0;
	s->v0 = ROTL(s->v0, 32);
	s->v2 += s->v3;
	s->v3 = ROTL(s->v3, 16) ^ s->v2;
	s->v0 += s->v3;
	s->v3 = ROTL(s->v3, 21) ^ s->v0;
	s->v2 += s->v1;
	s->v1 = ROTL(s->v1, 17) ^ s->v2;
	s->v2 = ROTL(s->v2, 32);
}

static __always_inline void sip_init(struct sip *s, const struct config *cfg)
{
	s->v0 = cfg->seed[0] ^ 0x736f6d6570736575ULL;
	s->v1 = cfg->seed[1] ^ 0x646f72616e646f6dULL ^ 0xee;
	s->v2 = cfg->seed[0] ^ 0x6c7967656e657261ULL;
	s->v3 = cfg->seed[1] ^ 0x7465646279746573ULL;
	s->words = 0;
	s->left = 0;
	s->failed = 0;
}

static __always_inline void sip_word(struct sip *s, __u64 m)
{
	s->v3 ^= m;
	sip_round(s);
	sip_round(s);
	s->v0 ^= m;
	s->words++;
}

static __always_inline __u64 sip_half(struct sip *s)
{
#pragma unroll
	for (int i = 0; i < 4; i++)
		sip_round(s);
	return s->v0 ^ s->v1 ^ s->v2 ^ s->v3;
}

/* sip_end leaves the result in v0 and v1. A global function, as sip_name: what it needs is on its own stack. */
__noinline int sip_end(struct sip *s)
{
	__u64 first;

	if (!s)
		return -1;
	sip_word(s, (__u64)s->words << 59); /* bytes modulo 256, in the top byte */
	s->v2 ^= 0xee;
	first = sip_half(s);
	s->v1 ^= 0xdd;
	s->v1 = sip_half(s);
	s->v0 = first;
	return 0;
}

/* sip_name absorbs a name of len bytes at a kernel address. If the name can't be read, it returns -1 and the hash has
 * failed. A global function: the verifier checks it once, and knows nothing of the hash afterwards, so loops around it
 * end. What is left of the name is counted in the hash, where the verifier does not follow it: to the verifier all turns
 * of the loop are alike.
 */
__noinline int sip_name(struct sip *s, __u64 name, __u64 len)
{
	if (!s)
		return -1;
	if (len > NAME_LEN_MAX) {
		s->failed = 1;
		return -1;
	}
	s->left = len;
	for (__u32 off = 0; off <= NAME_LEN_MAX; off += 8) {
		__u64 word = 0;
		__u64 n = s->left;

		if (n > sizeof(word))
			n = sizeof(word);
		if (bpf_probe_read_kernel(&word, n, (void *)(name + off))) {
			s->failed = 1;
			return -1;
		}
		sip_word(s, word);
		if (s->left < sizeof(word))
			return 0;
		s->left -= sizeof(word);
	}
	return 0;
}

#endif
