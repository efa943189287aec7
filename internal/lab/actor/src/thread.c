/* SPDX-License-Identifier: Apache-2.0 */
/* thread.c: new threads, and the one clone call that changes stacks. */
#include "actor.h"

/* s64 clone_call(flags, stack, fn, arg, ctid): fn(arg) runs on the new stack and must not return.
 *
 * C cannot say this: the child comes back from the system call on a stack that holds no return address. fn and arg
 * wait on the new stack itself; when both are popped it is aligned to 16 again, as a call needs it. The two machines
 * order clone's last two arguments differently.
 */
#if defined(__x86_64__)
__asm__(".text\n"
	".globl clone_call\n"
	"clone_call:\n"
	"	subq $16, %rsi\n"
	"	movq %rdx, 0(%rsi)\n"
	"	movq %rcx, 8(%rsi)\n"
	"	movq %r8, %r10\n"
	"	xorl %edx, %edx\n"
	"	xorl %r8d, %r8d\n"
	"	movl $56, %eax\n"
	"	syscall\n"
	"	testq %rax, %rax\n"
	"	jnz 1f\n"
	"	xorl %ebp, %ebp\n"
	"	popq %rax\n"
	"	popq %rdi\n"
	"	callq *%rax\n"
	"	hlt\n"
	"1:	ret\n");
#else
__asm__(".text\n"
	".globl clone_call\n"
	"clone_call:\n"
	"	sub x1, x1, #16\n"
	"	stp x2, x3, [x1]\n"
	"	mov x2, #0\n"
	"	mov x3, #0\n"
	"	mov x8, #220\n"
	"	svc #0\n"
	"	cbnz x0, 1f\n"
	"	ldp x9, x0, [sp], #16\n"
	"	mov x29, #0\n"
	"	mov x30, #0\n"
	"	blr x9\n"
	"	brk #1\n"
	"1:	ret\n");
#endif

enum { THREAD = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM };

struct job {
	struct message *in;
	struct reply *rp;
	enum next next;
	u32 running;
};

/* new_stack returns the low end of STACK_SIZE fresh bytes, or -errno. */
s64 new_stack(void)
{
	return sys(NR_mmap, NULL, STACK_SIZE, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
}

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
