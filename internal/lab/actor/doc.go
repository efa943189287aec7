// Package actor drives real processes, command by command, for tests and for the demo.
//
// Four programs of a few kilobytes are embedded, compiled from freestanding C (src/). [InstallProbe] writes a probe:
// it sends from its first instructions and ends. [InstallTimed] writes one that sends at fixed moments after its start.
// [InstallFlood] writes a flood: it sends until it is killed.
// [Install] writes an actor: it obeys a [Stage] and can fork, clone, exec, start threads, send, connect and change its
// root and namespaces, each in the ways that the kernel distinguishes.
//
//	Stage ──Start──▶ Actor ──Fork, ForkExec──▶ Actor ──▶ ...
//	  ▲                │ own channel              │ own channel
//	  └──── hello ─────┴──────────────────────────┘
//
// Every living process has its own channel: a SOCK_SEQPACKET connection to the stage's socket, opened by the process
// itself before anything else and announced by the token that the birth was given. One command is one message, and
// its answer is one message, so a step costs two context switches and nothing sleeps. An actor whose channel ends
// exits: nothing outlives the driver.
//
// Actors ignore SIGCHLD, so the kernel reaps their children; orphans belong to init, or the nearest subreaper.
package actor
