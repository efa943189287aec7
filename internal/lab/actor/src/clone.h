/* SPDX-License-Identifier: Apache-2.0 */
/* clone.h: what runs on a stack of its own: threads, and processes that share memory. */
#ifndef CLONE_H
#define CLONE_H

#include "sys.h"

#define STACK_SIZE 131072

/* What makes a clone a thread. */
enum { THREAD = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM };

s64 clone_call(u64 flags, void *stack, void (*fn)(void *), void *arg, u32 *ctid);
s64 new_stack(void);

#endif
