// Package fault makes the kernel fail a process, at one system call or from one on, or kills it there.
//
// The process is whatever program there is: it knows nothing of this. A seccomp filter that it inherits has the kernel ask
// before each call that may fail for a reason outside the process, and [Calls] answers.
//
//	Start ─▶ filter on a thread ─▶ that thread starts the process
//	                                     │ bpf, openat, renameat, sendto, write to a file ...
//	Arm(n, how) ──▶ Calls ◀── asks ──────┘
//	                  └─────▶ goes on, fails with ENOMEM, or is killed
//
// Calls that only a broken process would make in vain (memory of its own, its own channels) are left alone.
package fault
