/* SPDX-License-Identifier: Apache-2.0 */
/* thread.c: commands on new threads. */
#include "actor.h"

struct job {
	struct message *in;
	struct reply *rp;
	enum next next;
	u32 running;
};

static void work(void *arg)
{
	struct job *job = arg;

	job->next = run(job->in, job->rp);
	if (job->next == JOIN) /* we are a process born of this thread, and its stack is now our only one */
		serve(START_CHILD, job->in->rq.token);
	for (;;)
		sys(NR_exit, 0);
}

/* run_on_thread runs one command as the first thing that a new thread does, while this one waits. */
enum next run_on_thread(struct message *in, struct reply *rp)
{
	struct job job = { .in = in, .rp = rp, .next = ANSWER, .running = 1 };
	s64 tid, stack = new_stack();

	in->rq.flags &= ~(u32)ON_THREAD;
	if (stack < 0) {
		rp->ret = stack;
		return ANSWER;
	}
	tid = clone_call(THREAD | CLONE_CHILD_CLEARTID, (void *)(stack + STACK_SIZE), work, &job, &job.running);
	if (tid < 0)
		rp->ret = tid;
	else /* the kernel clears running and wakes us when the thread no longer uses its stack */
		while (*(volatile u32 *)&job.running)
			sys(NR_futex, &job.running, FUTEX_WAIT, 1, NULL);
	sys(NR_munmap, stack, STACK_SIZE);
	return job.next;
}

static void serve_on(void *arg)
{
	serve(START_AGAIN, (u64)arg);
}

/* abdicate ends the leading thread; a new one answers and serves on. */
enum next abdicate(struct message *in, struct reply *rp)
{
	s64 tid, stack = new_stack();

	tid = stack < 0 ? stack :
	      clone_call(THREAD, (void *)(stack + STACK_SIZE), serve_on, (void *)(u64)in->rq.seq, NULL);
	if (tid > 0)
		for (;;)
			sys(NR_exit, 0);
	rp->ret = tid;
	rp->tid = (u32)sys(NR_gettid);
	return ANSWER;
}
