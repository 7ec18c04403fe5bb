#!/bin/sh
# Installs from Debian what a task needs and this machine lacks, and nothing else. Where nothing is
# missing it prints nothing and calls no package manager. It refuses to guess on other systems and
# without the right to install: then it says what to install, and fails.
#
# usage: setup.sh TASK...      TASK: build test fuzz lint
set -eu

required=
optional=

need() { required="$required $1"; }

need_command() { # COMMAND PACKAGE
    command -v "$1" >/dev/null 2>&1 || need "$2"
}

has_module() { # is there a library that pkg-config knows by this name
    command -v pkg-config >/dev/null 2>&1 && pkg-config --exists "$1"
}

has_compiler() {
    if [ -n "${CC:-}" ]; then
        command -v "${CC%% *}" >/dev/null 2>&1
    else
        command -v cc >/dev/null 2>&1
    fi
}

has_fuzzer() {
    command -v clang >/dev/null 2>&1 &&
        ls "$(clang -print-runtime-dir)" 2>/dev/null | grep -q fuzzer
}

for task in "$@"; do
    case $task in
    build)
        has_compiler || need "gcc libc6-dev"
        need_command cmake cmake
        need_command pkg-config pkg-config
        has_module inih || need libinih-dev
        has_module jansson || need libjansson-dev
        has_module libzip || need libzip-dev
        has_module gmp || need libgmp-dev
        has_module libpcre2-8 || need libpcre2-dev
        has_module libedit || optional="$optional libedit-dev"
        ;;
    test) has_module cmocka || need libcmocka-dev ;;
    fuzz) has_fuzzer || need "clang libclang-rt-dev" ;;
    lint)
        need_command clang-format clang-format
        need_command cppcheck cppcheck
        ;;
    *)
        echo "setup.sh: unknown task '$task'; known: build test fuzz lint" >&2
        exit 2
        ;;
    esac
done

missing="$required$optional"
[ -n "$missing" ] || exit 0
missing=${missing# }

# Says what to do by hand; fails only where the task cannot go on without it.
give_up() {
    echo "picochat needs these Debian packages: $missing" >&2
    echo "$1; please run: apt-get install --no-install-recommends $missing" >&2
    if [ -z "$required" ]; then
        echo "They are optional: going on without them." >&2
        exit 0
    fi
    exit 1
}

command -v apt-get >/dev/null 2>&1 ||
    give_up "There is no apt-get here, install them (or this system's equivalents) by hand"

as_root=
if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null 2>&1 || give_up "You are not root and there is no sudo"
    as_root="sudo"
    [ -t 0 ] || as_root="sudo -n" # never wait for a password that nobody can type
    $as_root true 2>/dev/null || give_up "sudo did not let this user install packages"
fi

echo "Installing: $missing" >&2
log=$(mktemp)
trap 'rm -f "$log"' EXIT
# $missing and $as_root are lists of words. A stale or empty package index is the usual state of a
# fresh machine; if it cannot be refreshed, the install below decides.
$as_root apt-get update >"$log" 2>&1 || true
if ! $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q \
    --no-install-recommends $missing >>"$log" 2>&1; then
    tail -n 15 "$log" >&2
    give_up "apt-get failed (its last lines are above)"
fi
