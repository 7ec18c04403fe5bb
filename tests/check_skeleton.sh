#!/bin/sh
# The way of a plugin author: picochat is installed (staged with DESTDIR, so the tree is not where it
# was configured to be), the skeletons are copied out of the source tree and built from the installed
# files alone, with CMake and with a plain compiler, and the installed program loads them.
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
cp -R "$source/tests/skeleton" "$top/mine"
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

# ---- load ----
picochat=$prefix/bin/picochat
if [ -x "$picochat" ]; then
    "$picochat" plugins list >"$top/list" 2>"$top/log" || fail "plugins list: $(cat "$top/log")"
    for so in $installed; do
        name=${so%.so}
        grep -q "${name#*_}" "$top/list" || fail "plugins list does not show the installed $so"
    done
    for how in with_cmake with_cc; do
        for name in decode_skeleton sample_skeleton; do
            quiet "$picochat" plugins show "$top/$how/$name.so"
            grep -q skeleton "$top/log" || fail "plugins show does not name $how/$name"
        done
    done
fi
conform=$(find "$build" -type f -name picochat-conform | head -n 1)
if [ -n "$conform" ]; then
    for how in with_cmake with_cc; do
        for name in decode_skeleton sample_skeleton; do
            quiet "$conform" "$top/$how/$name.so"
        done
    done
fi
echo "both skeletons build from an installed prefix, with CMake and with cc"
