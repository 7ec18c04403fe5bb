#!/bin/sh
# docs/config.md is what the program prints: the reference cannot drift from the option tables.
#
# usage: check_reference.sh PICOCHAT DOCS_CONFIG_MD
set -eu
[ $# -eq 2 ] || { echo "usage: $0 PICOCHAT DOCS_CONFIG_MD" >&2; exit 2; }
made=$(mktemp)
docs=$(mktemp)
trap 'rm -f "$made" "$docs"' EXIT
env -u PICOCHAT_PLUGIN_PATH "$1" config reference >"$made"
# The section of a plugin that not every build has is compared where it is there.
if grep -qF '## [backend.cuda]' "$made"; then
    cat "$2" >"$docs"
else
    awk '/^## /{ skip = $0 == "## [backend.cuda]" } !skip' "$2" >"$docs"
fi
if ! diff -u "$docs" "$made"; then
    echo "check_reference.sh: run: build/picochat config reference > docs/config.md" >&2
    exit 1
fi
