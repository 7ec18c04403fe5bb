#!/bin/sh
# plugin.h alone compiles without a warning as every language that a plugin may be written in, with
# every compiler that is here; and the check can fail.
#
# usage: check_header.sh PLUGIN_H
set -eu
[ $# -eq 1 ] || { echo "usage: $0 PLUGIN_H" >&2; exit 2; }
[ -r "$1" ] || { echo "$0: cannot read $1" >&2; exit 1; }
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT

# The header twice (its guard), its macros and its inline functions used.
cat >"$dir/use.c" <<'C'
#include "plugin.h"
#include "plugin.h"
pico_status use(pico_error *err);
pico_status use(pico_error *err) {
    return pico_fail(err, PICO_E_INVALID, "%u", PICO_ABI_MINOR);
}
const pico_plugin *pico_plugin_query(uint32_t index) {
    (void)index;
    return NULL;
}
C
cp "$dir/use.c" "$dir/use.cc"
echo '#include "plugin.h"
int wide(long x); int wide(long x) { return x; }' >"$dir/bad.c" # -Wconversion must object

count=0
compile() { # COMPILER STANDARD SOURCE
    "$1" -std="$2" -I"$include" -Wall -Wextra -Wpedantic -Wconversion -Werror -c "$dir/$3" \
        -o "$dir/out.o"
}
include=$(dirname "$1")
for row in "cc c" "gcc c" "clang c" "g++ cc" "clang++ cc"; do
    compiler=${row% *}
    if ! command -v "$compiler" >/dev/null 2>&1; then
        echo "$compiler is not here: skipped"
        continue
    fi
    case $row in *" c") standards="c11 c17" ;; *) standards="c++11 c++17 c++20" ;; esac
    for standard in $standards; do
        compile "$compiler" "$standard" "use.${row#* }"
        count=$((count + 1))
    done
    if [ "${row#* }" = c ] && compile "$compiler" c11 bad.c 2>/dev/null; then
        echo "check_header.sh itself is broken: $compiler accepted a narrowing" >&2
        exit 1
    fi
done
[ "$count" -gt 0 ] || { echo "no compiler was found" >&2; exit 1; }
echo "plugin.h compiles in $count ways"
