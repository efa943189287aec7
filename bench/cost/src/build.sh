#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# build.sh: compile the load generator for every machine into ../bin. Needs clang and lld; run by `go generate`.
set -eu
cd "$(dirname "$0")"

ACTOR=../../../internal/lab/actor/src # system calls, clone, addresses
FLAGS="-std=gnu11 -O2 -Wall -Wextra -Werror -ffreestanding -fno-builtin -fno-strict-aliasing -fno-stack-protector -fno-pie
	-fno-unwind-tables -fno-asynchronous-unwind-tables -fno-ident -fomit-frame-pointer -ffunction-sections
	-static -nostdlib -fuse-ld=lld -s -I$ACTOR
	-Wl,--build-id=none,--gc-sections,-z,norelro,-z,noexecstack,-z,max-page-size=65536"

for machine in amd64:x86_64-linux-gnu arm64:aarch64-linux-gnu; do
	# shellcheck disable=SC2086
	${CC:-clang} -target "${machine#*:}" $FLAGS -o "../bin/load_${machine%%:*}" load.c born.c net.c crowd.c "$ACTOR/clone.c"
	chmod 644 "../bin/load_${machine%%:*}"
done
