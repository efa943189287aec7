/* SPDX-License-Identifier: Apache-2.0 */
/* clone.c: stacks, and the one clone call that changes to them. */
#include "clone.h"

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

/* new_stack returns the low end of STACK_SIZE fresh bytes, or -errno. */
s64 new_stack(void)
{
	return sys(NR_mmap, NULL, STACK_SIZE, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
}
