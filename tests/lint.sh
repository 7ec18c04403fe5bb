#!/bin/sh
# Formatting of all C sources, static analysis of core and plugins; any finding fails. An intended
# exception is marked where it is, with  /* cppcheck-suppress ID ; reason */. Uninitialised data is
# left to the compilers and the sanitizers: cppcheck sees it where it is not.
#
# usage: lint.sh      in the root of the source tree
set -eu
sources=$(find core plugins tests -name '*.[ch]' | sort)
analysed=$(find core plugins -name '*.c' | sort)
bad=0

clang-format --dry-run -Werror $sources || bad=1
cppcheck --quiet --error-exitcode=1 --inline-suppr --std=c11 --language=c \
    --enable=warning,performance,portability --suppress=missingIncludeSystem \
    --suppress=uninitvar --suppress=uninitStructMember --suppress=uninitdata \
    -D_GNU_SOURCE -D__GNUC__ -D__x86_64__ -I core -j "$(nproc)" $analysed || bad=1
[ "$bad" -eq 0 ] || exit 1
echo "lint: $(echo "$sources" | wc -l) files are clean"
