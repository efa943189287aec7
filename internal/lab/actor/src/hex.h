/* SPDX-License-Identifier: Apache-2.0 */
/* hex.h: addresses on the command line, in hexadecimal: the bytes of a struct sockaddr_in or sockaddr_in6. */
#ifndef HEX_H
#define HEX_H

#include "sys.h"

static inline s64 nibble(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	return -1;
}

static inline s64 parse_hex(const char *s, struct address *to)
{
	to->len = 0;
	for (; *s; s += 2) {
		s64 high = nibble(s[0]);
		s64 low = high < 0 ? -1 : nibble(s[1]);

		if (low < 0 || to->len == sizeof(to->raw))
			return -EINVAL;
		to->raw[to->len++] = (u8)(high << 4 | low);
	}
	return to->len < 16 ? -EINVAL : 0;
}

#endif
