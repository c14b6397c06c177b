#!/usr/bin/env bash
# Fuzzes the native core: run_core.sh [RUNS]. Needs clang with its run-time library (Debian: clang, libclang-rt-14-dev).
#
# New inputs go to build/fuzz/core, those that found something to build/fuzz/. IXFAST_FUZZ_SECONDS ends it by time instead.
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
root="$(cd "$here/../.." && pwd)"
work="$root/build/fuzz"
runs="${1:-1000000}"

mkdir -p "$work/core"
"${CLANG:-clang}" -O1 -g -std=c11 -Wall -Wextra -fno-omit-frame-pointer -fsanitize=fuzzer,address,undefined \
    -fno-sanitize-recover=undefined -I"$root/src/ixfast" "$here/core.c" -o "$work/core-fuzzer"
exec "$work/core-fuzzer" -runs="$runs" -max_total_time="${IXFAST_FUZZ_SECONDS:-0}" -max_len=4096 -len_control=0 \
    -print_final_stats=1 -artifact_prefix="$work/" "$work/core" "$here/corpus/core"
