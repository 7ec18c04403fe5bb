#!/bin/sh
# Formatting of all C sources, static analysis of core, plugins and models, and clang's warnings about all
# that is built, with the flags of the build; any finding fails. An intended exception is marked where
# it is, with  /* cppcheck-suppress ID ; reason */. Uninitialised data is left to the compilers and
# the sanitizers: cppcheck sees it where it is not. Without clang or cmake that part is left out, and
# the last line says so.
#
# usage: lint.sh      in the root of the source tree
set -eu
sources=$(find core plugins models tests -name '*.[ch]' | sort)
analysed=$(find core plugins models -name '*.c' | sort)
bad=0

clang-format --dry-run -Werror $sources || bad=1
cppcheck --quiet --error-exitcode=1 --inline-suppr --std=c11 --language=c \
    --enable=warning,performance,portability --suppress=missingIncludeSystem \
    --suppress=uninitvar --suppress=uninitStructMember --suppress=uninitdata \
    -D_GNU_SOURCE -D__GNUC__ -D__x86_64__ -I core -I models -j "$(nproc)" $analysed || bad=1

# Every compile command of a build with clang, as far as the warnings.
warnings() {
    dir=$(mktemp -d)
    trap 'rm -rf "$dir"' EXIT
    CC=clang cmake --log-level=NOTICE -S . -B "$dir" -DPICOCHAT_WERROR=ON -DPICOCHAT_CUDA=OFF \
        -DCMAKE_EXPORT_COMPILE_COMMANDS=ON >"$dir/log" 2>&1 || { cat "$dir/log"; return 1; }
    # A line of JSON a command; its quotes and backslashes are escaped once more.
    sed -n 's/^ *"command": "\(.*\)",$/\1 -fsyntax-only/p' "$dir/compile_commands.json" |
        sed 's/\\\(.\)/\1/g' >"$dir/commands"
    [ -s "$dir/commands" ] || { echo "lint: cmake has listed no compile commands"; return 1; }
    tr '\n' '\0' <"$dir/commands" | (cd "$dir" && xargs -0 -n 1 -P "$(nproc)" sh -c)
}

compiled=", not compiled: clang or cmake is not there"
if command -v clang >/dev/null && command -v cmake >/dev/null; then
    warnings || bad=1
    compiled=" and compile without warnings"
fi
[ "$bad" -eq 0 ] || exit 1
echo "lint: $(echo "$sources" | wc -l) files are clean$compiled"
