package main

import (
	"slices"
	"strings"
)

// A kernel is one that distributions ship, and what is tried on it.
type kernel struct {
	Name   string // on the command line
	System string // whose kernel it is, as people call it
	Origin string // of its packages, as apt knows it
	Suite  string
	// Image and Modules are patterns for the names of its packages; the newest that fit are taken. Modules is
	// empty where the image's package has them.
	Image, Modules string
	Arch           string // as Go and Debian call it
	Append         string // to the kernel's command line
	Tests          tests
	Sets           []string // of kernels
}

// A tests is how much is tried.
type tests string

const (
	all    tests = "all"    // every test, the long loops shortened
	core   tests = "core"   // the oracle, first packets, changes of sides, ways into the tunnel, the demo
	refuse tests = "refuse" // too old: the daemon must say so, and doctor what is missing

	service tests = "service" // whatever the system does that is given with -root
)

// The sets of kernels. In everyday are those that `make check-vm` has time for.
const (
	everyday = "everyday"
	every    = "all"
	arm      = "arm64"
)

// kernels are in the order in which they are run and reported.
var kernels = []kernel{
	debian("debian-11", "Debian 11", "bullseye", `5\.10\.0-\d+`, "amd64", refuse, everyday, every),
	ubuntu("ubuntu-22.04", "Ubuntu 22.04", "jammy", `5\.15\.0-\d+`, refuse, every),
	debian("debian-12", "Debian 12", "bookworm", `6\.1\.0-\d+`, "amd64", all, everyday, every),
	ubuntu("ubuntu-24.04", "Ubuntu 24.04", "noble", `6\.8\.0-\d+`, core, every),
	with("lockdown=integrity", debian("debian-13", "Debian 13", "trixie", `6\.12\.[0-9.]+\+deb13`, "amd64", core, everyday, every)),
	debian("debian-13-6.16", "Debian 13 backports", "trixie-backports", `6\.16\.[0-9.]+\+deb13`, "amd64", core, every),
	debian("debian-13-6.17", "Debian 13 backports", "trixie-backports", `6\.17\.[0-9.]+\+deb13`, "amd64", core, every),
	debian("debian-13-6.19", "Debian 13 backports", "trixie-backports", `6\.19\.[0-9.]+\+deb13`, "amd64", core, every),
	with("preempt=full", debian("debian-13-7.3", "Debian 13 backports", "trixie-backports", `7\.3\.[0-9.]+\+deb13`, "amd64",
		core, everyday, every)),
	rt(debian("debian-12-rt", "Debian 12", "bookworm", `6\.1\.0-\d+`, "amd64", core, every)),
	rt(debian("debian-13-rt", "Debian 13", "trixie", `6\.12\.[0-9.]+\+deb13`, "amd64", core, every)),
	debian("debian-12-arm64", "Debian 12", "bookworm", `6\.1\.0-\d+`, "arm64", core, arm),
	debian("debian-13-arm64", "Debian 13", "trixie", `6\.12\.[0-9.]+\+deb13`, "arm64", core, arm),
}

// debian is a kernel of Debian's, in the flavour for virtual machines. From 6.19 on its image and its modules are in
// packages of their own.
func debian(name, system, suite, version, arch string, t tests, sets ...string) kernel {
	return kernel{
		Name: name, System: system, Origin: "Debian", Suite: suite, Arch: arch, Tests: t, Sets: sets,
		Image:   `linux-(image|binary)-` + version + `-cloud-` + arch,
		Modules: `linux-modules-` + version + `-cloud-` + arch,
	}
}

// rt is the kernel in the flavour for real time (PREEMPT_RT), in which nearly everything can be preempted.
func rt(k kernel) kernel {
	k.Image = strings.Replace(k.Image, "-cloud-", "-rt-", 1)
	k.Modules = strings.Replace(k.Modules, "-cloud-", "-rt-", 1)
	return k
}

// ubuntu is a kernel of Ubuntu's. Machines whose apt has no archive of Ubuntu's leave it out.
func ubuntu(name, system, suite, version string, t tests, sets ...string) kernel {
	return kernel{
		Name: name, System: system, Origin: "Ubuntu", Suite: suite, Arch: "amd64", Tests: t, Sets: sets,
		Image:   `linux-image-` + version + `-generic`,
		Modules: `linux-modules-` + version + `-generic`,
	}
}

// with is the kernel with something on its command line.
func with(words string, k kernel) kernel {
	k.Append = words
	return k
}

// chosen returns the kernels of the list that are named or are in a named set.
func chosen(names []string) []kernel {
	return slices.DeleteFunc(slices.Clone(kernels), func(k kernel) bool {
		return !slices.ContainsFunc(names, func(n string) bool { return n == k.Name || slices.Contains(k.Sets, n) })
	})
}

// modules are what the lab and the engine need of a kernel, where it has them as modules. WireGuard is the kernel's
// own then, not the lab's. crc32c_generic is what the last two ask for without naming it.
var modules = []string{
	"crc32c_generic", "veth", "tun", "wireguard", "inet_diag", "tcp_diag", "udp_diag", "raw_diag", "overlay", "nf_tables", "sctp",
}
