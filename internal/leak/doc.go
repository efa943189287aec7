// Package leak holds the tests that count packets on the wires: an excluded program's on the uplink, everybody else's in
// the tunnel, none on the other. It has no code of its own.
//
// Each test runs the real engine in a lab.World with real processes, and shows first that its sensor works: the same
// traffic, of a program that is not excluded yet, is seen on the other wire. One packet on the wrong wire fails it.
//
//	rig_test.go       a world, an engine and a stage of actors; which side did it go?
//	start_test.go     first packets of thousands of starts
//	birth_test.go     children, threads, images
//	identity_test.go  which file is the listed one? and mount_test.go, rule_test.go, script_test.go
//	change_test.go    exclude and include of what runs
//	crash_test.go     the daemon dies, comes back, is stopped, is cleaned up after
//	network_test.go   connections work, or fail at once
//	tunnel_test.go    the tunnel comes and goes; the kernel's own answers; other network namespaces
//	move_test.go      the network changes under traffic, with and without the daemon awake
//	openvpn_test.go   the real OpenVPN
//
// The flag -long makes the loops of start_test.go twenty times as long.
package leak
