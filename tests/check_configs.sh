#!/bin/sh
# Every file in configs/ is a valid configuration and runs: it prints some text, and the same text
# when it runs again. A model that is not there fails the check like anything else.
#
# usage: check_configs.sh SOURCE_DIR PICOCHAT
set -eu
[ $# -eq 2 ] || { echo "usage: $0 SOURCE_DIR PICOCHAT" >&2; exit 2; }
picochat=$2
top=$(mktemp -d)
trap 'rm -rf "$top"' EXIT
bad=0

complain() {
    echo "$config: $1" >&2
    sed 's/^/    /' "$top/log" >&2
    bad=1
}

count=0
for config in "$1"/configs/*.ini; do
    [ -e "$config" ] || continue
    count=$((count + 1))
    if ! "$picochat" config check --config "$config" >"$top/log" 2>&1; then
        complain "config check refuses it"
    elif ! "$picochat" run --config "$config" -n 16 >"$top/first" 2>"$top/log" ||
        ! "$picochat" run --config "$config" -n 16 >"$top/second" 2>"$top/log"; then
        complain "it does not run"
    elif [ "$(wc -c <"$top/first")" -lt 8 ]; then
        complain "it prints next to nothing"
    elif ! cmp -s "$top/first" "$top/second"; then
        complain "it prints another text when it runs again"
    fi
done
[ "$count" -gt 0 ] || { echo "no configs in $1/configs" >&2; exit 1; }
[ "$bad" -eq 0 ] || exit 1
echo "$count configs are valid and run"
