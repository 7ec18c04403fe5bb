#!/bin/sh
# The way of a plugin author: picochat is installed (staged with DESTDIR, so the tree is not where it
# was configured to be), the installed skeletons are copied and built from the installed files alone,
# with CMake and with a plain compiler, and the installed program loads them.
#
# usage: check_skeleton.sh SOURCE_DIR BUILD_DIR
set -eu
[ $# -eq 2 ] || { echo "usage: $0 SOURCE_DIR BUILD_DIR" >&2; exit 2; }
source=$1 build=$2
top=$(mktemp -d)
trap 'rm -rf "$top"' EXIT

fail() {
    echo "check_skeleton.sh: $1" >&2
    exit 1
}

# Runs a command quietly; shows its output if it fails.
quiet() {
    "$@" >"$top/log" 2>&1 || {
        cat "$top/log" >&2
        fail "failed: $*"
    }
}

# ---- install ----
DESTDIR="$top/stage" quiet cmake --install "$build" --prefix /opt/picochat
prefix=$top/stage/opt/picochat
[ "$(cd "$prefix/include" && find . -type f)" = ./picochat/plugin.h ] ||
    fail "plugin.h is not the only installed header"
pc=$(find "$prefix" -name picochat.pc)
[ -n "$pc" ] || fail "picochat.pc was not installed"
PKG_CONFIG_PATH=$(dirname "$pc")
export PKG_CONFIG_PATH
plugindir=$(pkg-config --variable=plugindir picochat)
built=$(cd "$build/plugins" && ls -- *.so)
installed=$(cd "$plugindir" && ls -- *.so)
[ "$built" = "$installed" ] || fail "built plugins: $built; in $plugindir: $installed"

# ---- build, out of the tree ----
cp -R "$prefix/share/picochat/skeleton" "$top/mine"
diff -r "$source/tests/skeleton" "$top/mine" || fail "the installed skeleton is another one"
# Both ways to name the header work, with both ways to build.
sed -i 's,#include "plugin.h",#include <picochat/plugin.h>,' "$top/mine/sample_skeleton.c"
grep -q '<picochat/plugin.h>' "$top/mine/sample_skeleton.c" || fail "no skeleton includes plugin.h"
quiet cmake -S "$top/mine" -B "$top/with_cmake" -DCMAKE_PREFIX_PATH="$prefix"
quiet cmake --build "$top/with_cmake"
mkdir "$top/with_cc"
for name in decode_skeleton sample_skeleton; do
    quiet ${CC:-cc} -std=c11 -O2 -Wall -Wextra -Wpedantic -Werror -shared -fPIC \
        $(pkg-config --cflags picochat) -o "$top/with_cc/$name.so" "$top/mine/$name.c" -lm
    grep -q "$source/core" "$top/with_cmake/CMakeFiles/$name.dir/flags.make" 2>/dev/null &&
        fail "the CMake package points back into the source tree"
done
for how in with_cmake with_cc; do
    quiet sh "$source/tests/check_exports.sh" "$top/$how" "${CC:-cc}"
done

# ---- load: the installed program finds its own plugins, and these ----
picochat=$prefix/bin/picochat
quiet env -u PICOCHAT_PLUGIN_PATH "$picochat" plugins list -v
for so in $installed; do
    grep -q "$prefix/.*/$so" "$top/log" || fail "plugins list does not show the installed $so"
done
grep -q "$build/" "$top/log" && fail "the installed program looks into the build folder"
for how in with_cmake with_cc; do
    for kind in decoder sampler; do
        quiet "$picochat" plugins show $kind/skeleton --plugin-path "$top/$how"
        grep -q "$top/$how" "$top/log" || fail "plugins show finds another $kind: $(cat "$top/log")"
    done
done

# Runs the installed program with --config and more, its text to a file.
generate() { # FILE OPTION...
    file=$1
    shift
    "$picochat" run --config "$prefix/share/picochat/configs/mha_greedy.ini" -n 24 \
        -p "Once upon a time" "$@" >"$file" 2>"$top/log" || fail "run $*: $(cat "$top/log")"
    [ -s "$file" ] || fail "run $*: no text"
}

# ---- run: both are correct, and give the text of the plugins that come with picochat ----
conform=$(find "$build" -type f -name picochat-conform | head -n 1)
if [ -n "$conform" ]; then
    for how in with_cmake with_cc; do
        for name in decode_skeleton sample_skeleton; do
            quiet "$conform" "$top/$how/$name.so"
        done
    done
fi
model=$prefix/share/picochat/models/tiny.gguf
if [ -e "$model" ]; then
    set -- --plugin-path "$top/with_cmake" --decoder skeleton --sampler skeleton
    generate "$top/plain" --temp 0
    generate "$top/own" --temp 0 "$@"
    cmp "$top/plain" "$top/own" || fail "the skeletons change the text at temperature 0"
    generate "$top/plain" --temp 1 --top-k 0 --top-p 1 --min-p 0
    generate "$top/own" --temp 1 "$@"
    cmp "$top/plain" "$top/own" || fail "the skeletons change the text at temperature 1"
fi
echo "both skeletons build from an installed prefix, with CMake and with cc, and load"
