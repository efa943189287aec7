//go:build ignore

// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * The kernel part of sidestep. From the executable to the mark:
 *
 *   identify.h  file -> apps        script.h  script -> apps
 *   label.h     process -> label    process.h exec, fork, exit
 *   socket.h    socket -> mark      guard.h   packet -> pass or drop
 *   walk.h      what lived before us
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_tracing.h>

#include "process.h"
#include "socket.h"
#include "guard.h"
#include "walk.h"

/* Both licences may be chosen; the helpers that read the kernel want this word. */
char LICENSE[] SEC("license") = "Dual BSD/GPL";
