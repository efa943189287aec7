// Package sidestep is split tunneling for VPN clients: programs named by path use the ordinary network, all others stay
// in the tunnel, and no packet is on the wrong side.
//
// An [Engine] enforces one policy in one network namespace:
//
//	New ─▶ Run ─▶ Ready        Exclude, Include, Replace: the policy
//	        │                  Status, Apps, Processes, Explain…: what is
//	        ▼                  Events: what happens
//	   ctx ends: all is taken back, in the safe order
//
// The kernel decides alone. An engine that is killed leaves its policy in force; the next one with the same state
// directory takes it over, and [Clean] removes it. `sidestep daemon` is this package behind a unix socket.
//
// Linux only so far. It needs CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN and CAP_SYS_ADMIN: root, in practice.
package sidestep
