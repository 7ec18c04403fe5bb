#!/bin/sh
# The include rules: a plugin includes plugin.h, its own folder and system headers, nothing else;
# core includes no plugin; a layer of core includes only itself and the layers before it. Includes
# by macro are refused, because this check could not follow them. The script first proves on a made-up
# tree that it finds violations.
#
# usage: check_includes.sh SOURCE_DIR
set -eu

layers="util host config registry formats tokenizer model session decode transform train measure cli"

# Prints one line for each violation in the tree $1.
violations() {
    root=$1
    for file in $(find "$root"/core "$root"/plugins "$root"/tests/skeleton "$root"/tests/bad_plugins \
        "$root"/tests/shim \( -name '*.[ch]' -o -name '*.cu' -o -name '*.cuh' \) 2>/dev/null | sort); do
        grep -nE '^[[:space:]]*#[[:space:]]*include' "$file" | sed "s|^|${file#"$root"/}:|" || true
    done | awk -v layers="$layers" -v root="$root" '
    function complain(why) { print place ": " text ": " why }
    function exists(path,    line) { # a file that can be read
        if (path in seen) return seen[path]
        seen[path] = (getline line < path) >= 0
        close(path)
        return seen[path]
    }
    BEGIN { n = split(layers, names, " "); for (i = 1; i <= n; i++) rank[names[i]] = i }
    {
        split($0, part, ":")
        file = part[1]; place = file ":" part[2]
        text = substr($0, length(place) + 2)
        folder = file; sub(/\/[^\/]*$/, "", folder)
        split(file, at, "/")
        own = at[1] "/" at[2]                    # core/util, plugins/attn_mha, tests/skeleton
        if (!match(text, /["<][^">]+[">]/)) { complain("only \"x\" and <x> can be checked"); next }
        quoted = substr(text, RSTART, 1) == "\""
        name = substr(text, RSTART + 1, RLENGTH - 2)
        first = name; sub(/\/.*/, "", first)
        if (name == "plugin.h" && quoted) next
        if (name ~ /(^|\/)\.\.?\//) { complain("no relative steps"); next }
        if (at[1] == "core") {
            if (name ~ /^plugins\//) complain("core includes no plugin")
            else if ((first in rank) && name ~ /\// && exists(root "/core/" name)) {
                if (!(at[2] in rank)) complain(at[2] " is no layer")
                else if (rank[first] > rank[at[2]]) complain(first " comes after " at[2])
                else if (!quoted) complain("headers of the project are included with quotes")
            } else if (quoted && !exists(root "/" folder "/" name)) {
                complain("no such file in the folder or in core")
            }
        } else if (quoted) {
            if (!exists(root "/" folder "/" name) && !exists(root "/" own "/" name))
                complain("not plugin.h and not in the folder")
        } else if (name ~ /plugin\.h$/ || exists(root "/core/" name) || exists(root "/plugins/" name)) {
            complain("a plugin includes \"plugin.h\", its own folder and system headers")
        }
    }'
}

# A tree with known violations: each must be found, and the good lines must not.
self_test() {
    tree=$(mktemp -d)
    trap 'rm -rf "$tree"' EXIT
    mkdir -p "$tree/core/util" "$tree/core/model" "$tree/plugins/attn_x" "$tree/plugins/attn_y"
    touch "$tree/core/plugin.h" "$tree/core/util/a.h" "$tree/core/model/m.h"
    touch "$tree/plugins/attn_x/x.h" "$tree/plugins/attn_y/y.h"
    printf '#include "plugin.h"\n#include "util/a.h"\n#include <math.h>\n#include "m.h"\n' \
        >"$tree/core/model/good.c"
    printf '#include "plugin.h"\n#include "x.h"\n#include <stdlib.h>\n' >"$tree/plugins/attn_x/good.c"
    printf '#include "model/m.h"\n' >"$tree/core/util/bad1.c"              # upwards
    printf '#include "../plugins/attn_x/x.h"\n' >"$tree/core/util/bad2.c"  # core -> plugin
    printf '# include "util/a.h"\n' >"$tree/plugins/attn_x/bad3.c"         # plugin -> core
    printf '#include <util/a.h>\n' >"$tree/plugins/attn_x/bad4.c"          # the same, disguised
    printf '#include "../attn_y/y.h"\n' >"$tree/plugins/attn_x/bad5.c"     # plugin -> plugin
    printf '#include HEADER\n' >"$tree/plugins/attn_x/bad6.c"
    printf '#include "y.h"\n' >"$tree/plugins/attn_x/bad7.c"
    found=$(violations "$tree" | sed 's/:.*//;s/.*\///' | tr '\n' ' ')
    expected="bad1.c bad2.c bad3.c bad4.c bad5.c bad6.c bad7.c "
    if [ "$found" != "$expected" ]; then
        echo "check_includes.sh itself is broken: found '$found', expected '$expected'" >&2
        exit 1
    fi
}

[ $# -eq 1 ] || { echo "usage: $0 SOURCE_DIR" >&2; exit 2; }
self_test
files=$(find "$1"/core "$1"/plugins -name '*.[ch]' | wc -l)
[ "$files" -gt 0 ] || { echo "no sources in $1" >&2; exit 1; }
bad=$(violations "$1")
if [ -n "$bad" ]; then
    printf '%s\n' "$bad"
    exit 1
fi
echo "$files files follow the include rules"
