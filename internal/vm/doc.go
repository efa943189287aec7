// Command vm runs the privileged tests on the kernels that people have: in small virtual machines that boot the
// kernels of distributions, taken from their packages. `make check-vm` calls it.
//
//	kernels.go ─▶ apt: fetch, unpack ─▶ initramfs: kernel modules, busybox, test binaries ─▶ QEMU
//	  (data)        (cached)                                                                  │ console
//	                                 guest: the same program as init, runs the steps ◀────────┤
//	                                 report: reads what it prints, one row a kernel ◀─────────┘
//
// It needs root for nothing, and dpkg, apt, xz and QEMU on the machine. It reaches what the machine's own apt is
// configured for and nothing else; the guests reach nothing at all.
package main
