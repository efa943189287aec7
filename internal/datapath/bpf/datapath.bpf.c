//go:build ignore

// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * The kernel part of sidestep. From the executable to the mark:
 *
 *   identify.h  file -> apps        script.h  script -> apps
 *   label.h     process -> label    process.h exec, fork, exit
 *   socket.h    socket -> mark      call.h    bind, connect, sendto -> allow or refuse
 *   guard.h     packet -> pass or drop        door.h    the same, where no socket hook looks
 *   join.h      multicast groups              walk.h    what lived before us
 *   stray.h     what has to be closed
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_tracing.h>

#include "process.h"
#include "join.h"
#include "door.h"
#include "answer.h"
#include "walk.h"

/* Both licences may be chosen; the helpers that read the kernel want this word. */
char LICENSE[] SEC("license") = "Dual BSD/GPL";
