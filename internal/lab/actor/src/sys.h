/* SPDX-License-Identifier: Apache-2.0 */
/* sys.h: what these programs need of Linux, and nothing of a C library.
 *
 * There is no libc, for three reasons: the first instruction of the program is ours, so a leak test can send from
 * it; a libc's fork, vfork and exec do not hand out the raw system calls we must exercise; and a file of a few
 * kilobytes can be committed and copied to any path, into any chroot.
 *
 * System call numbers differ between machines and the kernel's <asm/unistd.h> covers only the build machine, so
 * both tables are here.
 */
#ifndef SYS_H
#define SYS_H

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef int s32;
typedef unsigned long u64;
typedef long s64;

#define NULL ((void *)0)
#define NORETURN __attribute__((noreturn))

#if defined(__x86_64__)
enum {
	NR_read = 0, NR_close = 3, NR_mmap = 9, NR_munmap = 11, NR_rt_sigaction = 13, NR_sched_yield = 24,
	NR_getpid = 39, NR_sendfile = 40, NR_socket = 41, NR_connect = 42, NR_sendto = 44, NR_recvfrom = 45,
	NR_sendmsg = 46, NR_bind = 49, NR_getsockname = 51, NR_setsockopt = 54, NR_getsockopt = 55, NR_clone = 56, NR_fork = 57,
	NR_execve = 59, NR_exit = 60, NR_wait4 = 61, NR_chdir = 80, NR_fchdir = 81, NR_getppid = 110,
	NR_gettid = 186, NR_futex = 202, NR_exit_group = 231, NR_openat = 257, NR_ppoll = 271, NR_dup3 = 292,
	NR_pipe2 = 293, NR_memfd_create = 319, NR_execveat = 322, NR_write = 1, NR_clock_gettime = 228,
	NR_clock_nanosleep = 230,
};
#elif defined(__aarch64__)
/* There is no fork here: fork is a clone, on arm64. */
enum {
	NR_read = 63, NR_close = 57, NR_mmap = 222, NR_munmap = 215, NR_rt_sigaction = 134, NR_sched_yield = 124,
	NR_getpid = 172, NR_sendfile = 71, NR_socket = 198, NR_connect = 203, NR_sendto = 206, NR_recvfrom = 207,
	NR_sendmsg = 211, NR_bind = 200, NR_getsockname = 204, NR_setsockopt = 208, NR_getsockopt = 209, NR_clone = 220,
	NR_execve = 221, NR_exit = 93, NR_wait4 = 260, NR_chdir = 49, NR_fchdir = 50, NR_getppid = 173,
	NR_gettid = 178, NR_futex = 98, NR_exit_group = 94, NR_openat = 56, NR_ppoll = 73, NR_dup3 = 24,
	NR_pipe2 = 59, NR_memfd_create = 279, NR_execveat = 281, NR_write = 64, NR_clock_gettime = 113,
	NR_clock_nanosleep = 115,
};
#elif defined(__i386__)
/* For the probe alone, which tells how 32-bit programs are treated by a 64-bit kernel. */
enum {
	NR_close = 6, NR_getpid = 20, NR_gettid = 224, NR_exit_group = 252, NR_socket = 359, NR_connect = 362,
	NR_setsockopt = 366, NR_sendto = 369,
};
#else
#error "no system call numbers for this machine"
#endif
enum { NR_clone3 = 435 };

enum {
	ENOENT = 2, E2BIG = 7, ECHILD = 10, EAGAIN = 11, EINVAL = 22, EPIPE = 32, ENOSYS = 38, EPROTO = 71, EBADMSG = 74, EDESTADDRREQ = 89, ETIMEDOUT = 110,
	EINPROGRESS = 115,

	AF_UNIX = 1, SOCK_STREAM = 1, SOCK_DGRAM = 2, SOCK_SEQPACKET = 5, SOCK_NONBLOCK = 04000,
	SOCK_CLOEXEC = 02000000, SOL_SOCKET = 1, SO_ERROR = 4, SO_SNDTIMEO = 21, MSG_TRUNC = 0x20,
	MSG_NOSIGNAL = 0x4000,

	O_CLOEXEC = 02000000, O_PATH = 010000000, AT_FDCWD = -100, AT_EMPTY_PATH = 0x1000,
	SIGCHLD = 17, WNOHANG = 1, POLLIN = 1, POLLOUT = 4, POLLERR = 8, POLLHUP = 16,

	PROT_READ = 1, PROT_WRITE = 2, MAP_SHARED = 1, MAP_PRIVATE = 2, MAP_ANONYMOUS = 0x20, MAP_NORESERVE = 0x4000,
	MAP_STACK = 0x20000,

	CLONE_VM = 0x100, CLONE_FS = 0x200, CLONE_FILES = 0x400, CLONE_SIGHAND = 0x800, CLONE_VFORK = 0x4000,
	CLONE_THREAD = 0x10000, CLONE_SYSVSEM = 0x40000, CLONE_CHILD_CLEARTID = 0x200000,

	FUTEX_WAIT = 0, CLOCK_MONOTONIC = 1, TIMER_ABSTIME = 1,
};

struct iovec {
	const void *base;
	u64 len;
};

struct msghdr {
	void *name;
	u64 namelen;
	struct iovec *iov;
	u64 iovlen;
	void *control;
	u64 controllen;
	u64 flags;
};

struct pollfd {
	s32 fd;
	short events, revents;
};

struct timespec {
	s64 sec, nsec;
};

/* The kernel's, not the C library's: handler, flags, restorer, mask. */
struct sigaction {
	void *handler;
	u64 flags, restorer, mask;
};

/* Raw bytes of a struct sockaddr_in or sockaddr_in6, as the driver made them. */
struct address {
	u8 raw[28];
	u32 len;
};

static inline u16 family(const void *sockaddr)
{
	return *(const u16 *)sockaddr;
}

static inline s64 syscall6(s64 nr, s64 a, s64 b, s64 c, s64 d, s64 e, s64 f)
{
#if defined(__x86_64__)
	register s64 r10 __asm__("r10") = d;
	register s64 r8 __asm__("r8") = e;
	register s64 r9 __asm__("r9") = f;

	__asm__ volatile("syscall"
			 : "+a"(nr)
			 : "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	return nr;
#elif defined(__i386__)
	/* The sixth argument goes where the frame pointer is, so all of them are fetched through memory. */
	s64 v[] = { nr, a, b, c, d, e, f };

	__asm__ volatile("pushl %%ebx\n"
			 "pushl %%ebp\n"
			 "movl 4(%%eax), %%ebx\n"
			 "movl 8(%%eax), %%ecx\n"
			 "movl 12(%%eax), %%edx\n"
			 "movl 16(%%eax), %%esi\n"
			 "movl 20(%%eax), %%edi\n"
			 "movl 24(%%eax), %%ebp\n"
			 "movl (%%eax), %%eax\n"
			 "int $0x80\n"
			 "popl %%ebp\n"
			 "popl %%ebx\n"
			 : "=a"(nr)
			 : "a"(v)
			 : "ecx", "edx", "esi", "edi", "memory");
	return nr;
#else
	register s64 x8 __asm__("x8") = nr;
	register s64 x0 __asm__("x0") = a;
	register s64 x1 __asm__("x1") = b;
	register s64 x2 __asm__("x2") = c;
	register s64 x3 __asm__("x3") = d;
	register s64 x4 __asm__("x4") = e;
	register s64 x5 __asm__("x5") = f;

	__asm__ volatile("svc #0"
			 : "+r"(x0)
			 : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5)
			 : "memory");
	return x0;
#endif
}

/* sys(nr, arguments...): the result, or -errno. Missing arguments are zero. */
#define sys(...) sys_pad(__VA_ARGS__, 0, 0, 0, 0, 0, 0, 0)
#define sys_pad(nr, a, b, c, d, e, f, ...) \
	syscall6((nr), (s64)(a), (s64)(b), (s64)(c), (s64)(d), (s64)(e), (s64)(f))

static inline void NORETURN leave(s64 status)
{
	for (;;)
		sys(NR_exit_group, status);
}

/* The kernel enters at _start with argc, argv and envp on the stack and nothing in the registers; the stack is
 * aligned to 16 there, while a C function expects to be *called* with it aligned, so begin() cannot be the entry. A zero frame
 * pointer ends back traces.
 */
#if defined(__x86_64__)
#define ENTRY                              \
	__asm__(".text\n"                  \
		".globl _start\n"          \
		"_start:\n"                \
		"	xorl %ebp, %ebp\n" \
		"	movq %rsp, %rdi\n" \
		"	andq $-16, %rsp\n" \
		"	call begin\n"      \
		"	hlt\n")
#elif defined(__i386__)
#define ENTRY                              \
	__asm__(".text\n"                  \
		".globl _start\n"          \
		"_start:\n"                \
		"	xorl %ebp, %ebp\n" \
		"	movl %esp, %eax\n" \
		"	andl $-16, %esp\n" \
		"	subl $12, %esp\n"  \
		"	pushl %eax\n"      \
		"	call begin\n"      \
		"	hlt\n")
#else
#define ENTRY                             \
	__asm__(".text\n"                 \
		".globl _start\n"         \
		"_start:\n"               \
		"	mov x29, #0\n"    \
		"	mov x30, #0\n"    \
		"	mov x0, sp\n"     \
		"	bl begin\n"       \
		"	brk #1\n")
#endif

#endif
