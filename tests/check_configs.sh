#!/bin/sh
# Every file in configs/ is a valid configuration and does what it is for. One that sets the output
# folder of a training takes two small steps, the same ones when it does so again; the others print some
# text, and the same text when they run again. A model that is not there fails the check like anything
# else.
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

# train CONFIG FOLDER: two steps, few tokens
train() {
    rm -rf "$2"
    "$picochat" train --config "$1" --out "$2" --set trainer.distill.steps=2 \
        --set trainer.distill.batch=2 --set trainer.distill.length=64 --set trainer.eval_rows=2 \
        >"$top/log" 2>&1
}

count=0
for config in "$1"/configs/*.ini; do
    [ -e "$config" ] || continue
    count=$((count + 1))
    if ! "$picochat" config check --config "$config" >"$top/log" 2>&1; then
        complain "config check refuses it"
    elif grep -q '^output' "$config"; then
        if ! train "$config" "$top/first" || ! train "$config" "$top/second"; then
            complain "it does not train"
        elif ! cmp -s "$top/first/last.gguf" "$top/second/last.gguf"; then
            complain "it trains another model when it runs again"
        fi
        rm -rf "$top/first" "$top/second"
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
