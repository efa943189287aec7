#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# build.sh: compile the test programs for every machine into ../bin. Needs clang and lld; run by `go generate`.
#
# The same clang gives the same bytes: no build id, no identification, no path, no time goes into the output.
# ../bin/SOURCE holds a hash of this directory, so that a test without clang can see when ../bin is stale.
set -eu
cd "$(dirname "$0")"

CC=${CC:-clang}
FLAGS="-std=gnu11 -Os -Wall -Wextra -Werror -ffreestanding -fno-builtin -fno-strict-aliasing -fno-stack-protector -fno-pie
	-fno-unwind-tables -fno-asynchronous-unwind-tables -fno-ident -fomit-frame-pointer -ffunction-sections
	-static -nostdlib -fuse-ld=lld -s
	-Wl,--build-id=none,--gc-sections,-z,norelro,-z,noexecstack,-z,max-page-size=65536"

build() { # build GOARCH TARGET NAME FILE...
	arch=$1 target=$2 name=$3
	shift 3
	# shellcheck disable=SC2086
	"$CC" -target "$target" $FLAGS -o "../bin/${name}_$arch" "$@"
	chmod 644 "../bin/${name}_$arch"
}

for machine in amd64:x86_64-linux-gnu arm64:aarch64-linux-gnu; do
	build "${machine%%:*}" "${machine#*:}" probe probe.c
	build "${machine%%:*}" "${machine#*:}" actor actor.c birth.c clone.c thread.c net.c storm.c
	build "${machine%%:*}" "${machine#*:}" flood flood.c clone.c
	build "${machine%%:*}" "${machine#*:}" timed timed.c clone.c
done
build 386 i386-linux-gnu probe probe.c
LC_ALL=C cat -- *.c *.h build.sh | sha256sum | cut -d' ' -f1 >../bin/SOURCE
