#!/bin/sh
# The program on the emulated device: greedy text is the CPU's, whatever the weights, drafts and
# company; and each thing that a machine can lack is said, with the exit code for it.
#
# usage: check_text.sh BUILD_FOLDER SOURCE_FOLDER
set -eu
[ $# -eq 2 ] || { echo "usage: $0 BUILD_FOLDER SOURCE_FOLDER" >&2; exit 2; }
picochat=$1/picochat
model=$2/models/tiny.gguf
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
n=0

fail() {
    echo "check_text.sh: $1" >&2
    exit 1
}


on_device() { # ARGUMENTS...: on the emulated device
    "$picochat" --plugin-path "$build/tests/plugins" --backend cuda_emulated -m "$model" "$@"
}
build=$(cd "$1" && pwd)

# The same text on both.
same() {
    "$picochat" -m "$model" "$@" >"$dir/cpu" 2>"$dir/cpu.err" || fail "cpu: $*: $(cat "$dir/cpu.err")"
    on_device "$@" >"$dir/cuda" 2>"$dir/cuda.err" || fail "cuda: $*: $(cat "$dir/cuda.err")"
    [ -s "$dir/cpu" ] || fail "$*: no text"
    cmp -s "$dir/cpu" "$dir/cuda" || fail "$*: other text: $(cat "$dir/cuda")"
    n=$((n + 1))
}

words="One day, a little girl and the cat and the dog and the cat and"
same -p "$words" -n 12 --temp 0
same -p "$words" -n 12 --temp 0 --decoder spec_lookup
same -p "$words" -n 8 --temp 0 --kv-type bf16
same -p "$words" -n 8 --temp 0 --set sampler.repetition_penalty=1.2
same -p "$words" -n 6 --temp 0.7 --seed 3 --set sampler.standard.top_k=5
same -p "$words" -n 6 --temp 0 --set compress.1.plugin=int8
printf '{"prompt": "One day"}\n{"prompt": "The cat sat"}\n' >"$dir/prompts"
same --prompts "$dir/prompts" --parallel 2 -n 6 --temp 0

# Recorded steps change nothing, neither does the order of threads and blocks, and the host leaves
# device memory alone.
on_device -p "$words" -n 12 --temp 0 >"$dir/first" 2>/dev/null
on_device -p "$words" -n 12 --temp 0 --set backend.cuda_emulated.graphs=off >"$dir/eager" 2>/dev/null
PICOCHAT_EMULATED_CUDA=reverse,protect on_device -p "$words" -n 12 --temp 0 >"$dir/reverse" 2>/dev/null
cmp -s "$dir/first" "$dir/eager" || fail "recorded steps give another text"
cmp -s "$dir/first" "$dir/reverse" || fail "the order of threads changes the text"

# The host's memory and arithmetic are no limits of a device.
"$picochat" bench --plugin-path "$build/tests/plugins" --backend cuda_emulated -m "$model" -p 4 -n 2 \
    -k 0 -r 1 >"$dir/bench" 2>&1 || fail "bench: $(cat "$dir/bench")"
grep -q "no limits: the backend computes elsewhere" "$dir/bench" || fail "bench: $(cat "$dir/bench")"
grep -q "x F32 FMA" "$dir/bench" && fail "bench compares a device with the host"

# What can be missing: the exit code is 5, and the message says what.
missing() { # ENVIRONMENT WORDS
    code=0
    PICOCHAT_EMULATED_CUDA=$1 on_device -p x -n 1 >/dev/null 2>"$dir/err" || code=$?
    [ "$code" -eq 5 ] || fail "$1: exit code $code, expected 5"
    grep -q "$2" "$dir/err" || fail "$1: expected '$2' in: $(cat "$dir/err")"
    PICOCHAT_EMULATED_CUDA=$1 "$picochat" plugins list -v --plugin-path "$build/tests/plugins" \
        >"$dir/list" 2>&1 || fail "$1: plugins list -v fails"
}
missing nodriver "no CUDA driver"
grep -q "cannot run here: .*no CUDA driver" "$dir/list" || fail "plugins list -v does not say why"
missing nodevice "no CUDA device"
grep -q "cannot run here: .*no CUDA device" "$dir/list" || fail "plugins list -v does not say why"
missing memory=1 "no device memory for [0-9]* bytes of .* of 1 MB are free"
grep -q "runs on emulated" "$dir/list" || fail "plugins list -v does not say what it runs on"

# A launch that fails, wherever it is: the run ends with the name of an op, and nothing hangs.
for launch in 0 7 30 60; do
    code=0
    PICOCHAT_EMULATED_CUDA=fail=$launch on_device -p "$words" -n 6 --temp 0 >/dev/null \
        2>"$dir/err" || code=$?
    [ "$code" -eq 5 ] || fail "launch $launch: exit code $code: $(cat "$dir/err")"
    grep -q "[a-z_]*: unspecified launch failure" "$dir/err" ||
        fail "launch $launch: no cause in: $(cat "$dir/err")"
done

# auto: some backend, and the log says which.
"$picochat" -m "$model" --backend auto -p "$words" -n 4 --temp 0 >"$dir/auto" 2>"$dir/err" ||
    fail "auto: $(cat "$dir/err")"
grep -Eq "backend auto: (cuda$|cpu, because )" "$dir/err" || fail "auto: $(cat "$dir/err")"

echo "$n texts are the CPU's; what is missing is said"
