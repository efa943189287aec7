// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* pidmap: tells user space of every exec, fork and exit, and marks the sockets of the threads that user space has put
 * into a table.
 *
 * The kernel's half of the design that pidmap.go describes.
 */
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#define PATH_SIZE 256

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct task_struct {
	int pid;
};

struct linux_binprm {
	const char *filename;
};

#pragma clang attribute pop

/* Mirrored in pidmap.go. */
enum { EVENT_EXEC = 1, EVENT_FORK, EVENT_EXIT };

struct event {
	__u32 kind;
	__u32 tid;
	__u32 parent; /* thread; of a fork only */
	__u32 pad; /* explicit: always 0 */
	char path[PATH_SIZE]; /* as given to exec; of an exec only */
};
_Static_assert(sizeof(struct event) == 16 + PATH_SIZE, "ABI");

/* events: what has happened, on the CPU where it did.
 *
 * Writer: the three tracepoint programs. Reader: user space, which makes one buffer for each CPU.
 * Full:   the event is lost, and nobody looks for it later.
 * Lives:  as long as the agent.
 */
struct {
	__uint(type, BPF_MAP_TYPE_PERF_EVENT_ARRAY);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(__u32));
} events SEC(".maps");

/* threads: those whose sockets are marked, by thread id.
 *
 * Writer: user space, some time after the event. Reader: mark_socket.
 * Full:   the thread is not marked.
 * Lives:  as long as mark_socket is attached, which may be longer than the agent.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, __u32);
	__type(value, __u8);
	__uint(max_entries, 10240);
} threads SEC(".maps");

volatile const __u32 mark;

static __always_inline __u32 current_tid(void)
{
	return (__u32)bpf_get_current_pid_tgid();
}

SEC("tp_btf/sched_process_exec")
int BPF_PROG(on_exec, struct task_struct *task, int old, struct linux_binprm *bprm)
{
	struct event e = { .kind = EVENT_EXEC, .tid = current_tid() };

	bpf_probe_read_kernel_str(e.path, sizeof(e.path), bprm->filename);
	bpf_perf_event_output(ctx, &events, BPF_F_CURRENT_CPU, &e, sizeof(e));
	return 0;
}

SEC("tp_btf/sched_process_fork")
int BPF_PROG(on_fork, struct task_struct *parent, struct task_struct *child)
{
	struct event e = { .kind = EVENT_FORK, .tid = child->pid, .parent = parent->pid };

	bpf_perf_event_output(ctx, &events, BPF_F_CURRENT_CPU, &e, sizeof(e));
	return 0;
}

SEC("tp_btf/sched_process_exit")
int BPF_PROG(on_exit)
{
	struct event e = { .kind = EVENT_EXIT, .tid = current_tid() };

	bpf_perf_event_output(ctx, &events, BPF_F_CURRENT_CPU, &e, sizeof(e));
	return 0;
}

SEC("cgroup/sock_create")
int mark_socket(struct bpf_sock *sk)
{
	__u32 tid = current_tid();

	if (bpf_map_lookup_elem(&threads, &tid))
		sk->mark = mark;
	return 1;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
