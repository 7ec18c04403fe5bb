#!/bin/sh
# A generic build runs on every x86-64: AVX and AVX2 stand only in the object files NAME_avx2 and in
# functions with such a name, AVX-512 only in NAME_avx512 (or _vnni, _amx); they are called after the
# CPU was asked. Reads the machine code, not the source.
#
# usage: check_instructions.sh BUILD_FOLDER C_COMPILER [FLAGS]
# Skips when FLAGS, those of the build, allow AVX everywhere, as -march=native does.
set -eu
[ $# -ge 2 ] || { echo "usage: $0 BUILD_FOLDER C_COMPILER [FLAGS]" >&2; exit 2; }

# Prints one line for each function of the object file $1 with an instruction that it must not use.
faults() {
    file=$(basename "$1")
    objdump -d --no-show-raw-insn "$1" | awk -v file="$file" -v path="$1" '
        function allowed(name) {
            return name ~ /_(avx512|vnni|amx)/ ? 2 : name ~ /_avx2/ ? 1 : 0
        }
        /^[0-9a-f]+ <.*>:$/ {
            name = $2
            level = allowed(file) > allowed(name) ? allowed(file) : allowed(name)
            next
        }
        $1 ~ /^[0-9a-f]+:$/ {
            need = 0
            if ($2 ~ /^v/ && $2 !~ /^ver[rw]$/ ||
                $2 ~ /^(andn|bextr|bls(i|r|msk)|bzhi|mulx|pdep|pext|rorx|sarx|shlx|shrx)[lq]?$/)
                need = 1
            if ($0 ~ /%zmm|%k[0-7]|%[xy]mm(1[6-9]|2[0-9]|3[01])|%tmm|\{1to/ || $2 ~ /tilecfg/)
                need = 2
            if (need > level && !(name in told)) {
                told[name] = 1
                print path ": " name " must not use " (need == 2 ? "AVX-512" : "AVX") ": " $0
            }
        }'
}

broken() {
    echo "check_instructions.sh itself is broken: $1" >&2
    exit 1
}

self_test() {
    dir=$(mktemp -d)
    trap 'rm -rf "$dir"' EXIT
    cat >"$dir/x.c" <<'C'
#include <immintrin.h>
__attribute__((target("avx512f"))) void NAME(float *p);
__attribute__((target("avx512f"))) void NAME(float *p) {
    _mm512_storeu_ps(p, _mm512_sqrt_ps(_mm512_loadu_ps(p)));
}
__attribute__((target("avx2"))) void second_avx2(float *p);
__attribute__((target("avx2"))) void second_avx2(float *p) {
    _mm256_storeu_ps(p, _mm256_sqrt_ps(_mm256_loadu_ps(p)));
}
double third(double x);
double third(double x) { return x * x; }
C
    for case in "x first 1" "x first_avx2 1" "x first_avx512 0" "x_avx2 first 1" "x_avx512 first 0"; do
        set -- "$1" $case
        $1 -O2 -DNAME="$3" -c "$dir/x.c" -o "$dir/$2.o"
        [ "$(faults "$dir/$2.o" | wc -l)" -eq "$4" ] || broken "$case: $(faults "$dir/$2.o")"
    done
}

if echo | $2 ${3:-} -dM -E - | grep -q "define __AVX__ "; then
    echo "skipped: the flags '${3:-}' allow AVX everywhere"
    exit 0
fi
self_test "$2"
count=0
bad=
for object in $(find "$1/core" "$1/plugins" -name '*.o' | sort); do
    count=$((count + 1))
    found=$(faults "$object")
    [ -z "$found" ] || bad="$bad$found
"
done
[ "$count" -gt 0 ] || { echo "no object files in $1" >&2; exit 1; }
if [ -n "$bad" ]; then
    printf '%s' "$bad"
    exit 1
fi
echo "$count object files keep to their instruction sets"
