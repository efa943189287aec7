// Package bpf holds the kernel part of the engine: the C, and the Go that bpf2go makes of it.
//
// The compiled objects are committed, so that building needs Go only; `make generate` makes them anew. A build with the
// tag `deaf`, for tests, carries an object whose tracepoints lose events.
package bpf

//go:generate go tool bpf2go -target bpfel -tags !deaf -type config -type app -type label -type request -type event_kind -type event -type verdict -type cause -type process -type stat -type note -type address -type prefix -type flow -type stray_kind -type stray -type holder -output-stem datapath -cflags "-O2 -g -Wall -Wextra -Wno-unused-parameter -Werror -mcpu=v3 -I/usr/include/x86_64-linux-gnu" Datapath datapath.bpf.c
//go:generate go tool bpf2go -target bpfel -tags deaf -type config -type app -type label -type request -type event_kind -type event -type verdict -type cause -type process -type stat -type note -type address -type prefix -type flow -type stray_kind -type stray -type holder -output-stem deaf -cflags "-O2 -g -Wall -Wextra -Wno-unused-parameter -Werror -mcpu=v3 -I/usr/include/x86_64-linux-gnu -DDEAF" Datapath datapath.bpf.c
