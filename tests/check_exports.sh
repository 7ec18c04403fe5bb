#!/bin/sh
# What the binaries of the plugins show: each exports pico_plugin_query and nothing else, imports
# nothing that prints, exits or reads the environment, and has no mutable data of its own (two live
# instances must work). Data that is constant after relocation is fine.
#
# usage: check_exports.sh PLUGIN_FOLDER C_COMPILER [sanitized]
# sanitized: only exports are checked; the run-time of a sanitizer brings data and imports.
set -eu
[ $# -ge 2 ] || { echo "usage: $0 PLUGIN_FOLDER C_COMPILER [sanitized]" >&2; exit 2; }

forbidden='exit|_exit|_Exit|quick_exit|abort|printf|__printf_chk|vprintf|__vprintf_chk|puts|putchar'
forbidden="$forbidden|perror|stdout|stderr|getenv|secure_getenv|setenv|dlclose|signal|sigaction"

# Prints one line for each fault of the shared object $1.
faults() {
    exports=$(nm -D --defined-only "$1" | awk '{ print $NF }' | sort | tr '\n' ' ')
    [ "$exports" = "pico_plugin_query " ] ||
        echo "$1: exports '$exports', expected pico_plugin_query alone"
    [ "$2" = sanitized ] && return
    # The static CUDA runtime brings data and imports of its own.
    case $1 in */backend_cuda.so) return 0 ;; esac
    nm -D --undefined-only "$1" | awk '{ print $NF }' | sed 's/@.*//' | grep -xE "$forbidden" |
        sed "s|^|$1: a plugin must not use |" || true
    # What the compiler's start files bring is not the plugin's.
    objdump -t "$1" | awk -v so="$1" '
        $0 ~ /[ \t]\.t?(data|bss)[ \t]/ && $2 != "d" && $3 != "d" {
            name = $NF
            if (name !~ /^(\.t?(data|bss)|__dso_handle|__TMC_END__|completed\.[0-9]+|_edata|_end|__bss_start)$/)
                print so ": mutable data at file scope: " name
        }'
}

self_test() {
    dir=$(mktemp -d)
    trap 'rm -rf "$dir"' EXIT
    cat >"$dir/bad.c" <<'C'
#include <stdio.h>
static int counter;
int helper(void);
int helper(void) { puts("x"); return ++counter; }
int pico_plugin_query(void);
int pico_plugin_query(void) { return 0; }
C
    cat >"$dir/good.c" <<'C'
static const char *const names[] = {"a", "b"}; /* relocated, then constant */
const char *pico_plugin_query(int i);
const char *pico_plugin_query(int i) { return names[i & 1]; }
C
    $1 -shared -fPIC -o "$dir/bad.so" "$dir/bad.c"
    $1 -shared -fPIC -o "$dir/good.so" "$dir/good.c"
    [ "$(faults "$dir/bad.so" "" | wc -l)" -eq 3 ] || broken "$(faults "$dir/bad.so" "")"
    [ -z "$(faults "$dir/good.so" "")" ] || broken "$(faults "$dir/good.so" "")"
}

broken() {
    echo "check_exports.sh itself is broken: $1" >&2
    exit 1
}

self_test "$2"
count=0
bad=
for so in "$1"/*.so; do
    [ -e "$so" ] || continue
    count=$((count + 1))
    found=$(faults "$so" "${3:-}")
    [ -z "$found" ] || bad="$bad$found
"
done
[ "$count" -gt 0 ] || { echo "no plugins in $1" >&2; exit 1; }
if [ -n "$bad" ]; then
    printf '%s' "$bad"
    exit 1
fi
echo "$count plugins export pico_plugin_query alone"
