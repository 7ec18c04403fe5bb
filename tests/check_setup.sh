#!/bin/sh
# core/cmake/setup.sh on made-up machines: it installs what is missing and nothing else, calls no
# package manager when nothing is, and says what to do when it may not install. The machine is a
# folder of stand-ins that is the whole PATH.
#
# usage: check_setup.sh SETUP_SH
set -eu
[ $# -eq 1 ] || { echo "usage: $0 SETUP_SH" >&2; exit 2; }
setup=$1
sh=$(command -v sh)
top=$(mktemp -d)
trap 'rm -rf "$top"' EXIT

fail() {
    echo "check_setup.sh: $1" >&2
    [ ! -e "$top/out" ] || sed 's/^/    /' "$top/out" >&2
    exit 1
}

# machine UID COMMANDS MODULES: a machine where the user is UID, the COMMANDS exist and pkg-config
# (if it is one of them) knows the MODULES. apt-get writes its arguments to a file.
machine() {
    rm -rf "$top/bin" "$top/calls" "$top/out"
    mkdir "$top/bin"
    : >"$top/calls"
    for tool in env mktemp rm tail cat; do
        ln -s "$(command -v $tool)" "$top/bin/$tool"
    done
    stand_in true "exit 0"
    stand_in id "echo $1"
    for name in $2; do
        case $name in
        pkg-config) stand_in pkg-config "case \" $3 \" in *\" \$2 \"*) exit 0 ;; esac; exit 1" ;;
        apt-get) stand_in apt-get "echo \"\$@\" >>$top/calls" ;;
        broken-apt) stand_in apt-get "echo \"\$@\" >>$top/calls; echo E: no network; exit 100" ;;
        sudo) stand_in sudo "echo sudo >>$top/calls; [ \"\$1\" != -n ] || shift; exec \"\$@\"" ;;
        sudo-no) stand_in sudo "exit 1" ;;
        *) stand_in "$name" "exit 0" ;;
        esac
    done
}

stand_in() { # NAME BODY
    printf '#!%s\n%s\n' "$sh" "$2" >"$top/bin/$1"
    chmod +x "$top/bin/$1"
}

expect() { # EXIT_CODE INSTALLED TASK...: checks the code and the packages that were installed
    code=$1 installed=$2
    shift 2
    status=0
    env -i PATH="$top/bin" "$sh" "$setup" "$@" >"$top/out" 2>&1 </dev/null || status=$?
    [ "$status" -eq "$code" ] || fail "exit code $status, expected $code"
    got=$(sed -n 's/^install .*--no-install-recommends //p' "$top/calls")
    [ "$got" = "$installed" ] || fail "installed '$got', expected '$installed'"
}

modules="inih jansson libzip gmp libpcre2-8 libedit cmocka"
tools="cc cmake pkg-config apt-get"

machine 0 "$tools" "$modules" # complete: no call, no word
expect 0 "" build test
[ ! -s "$top/calls" ] && [ ! -s "$top/out" ] || fail "it is not quiet when nothing is missing"

machine 0 "cc apt-get" "" # a fresh machine
expect 0 "cmake pkg-config libinih-dev libjansson-dev libzip-dev libgmp-dev libpcre2-dev libcmocka-dev libedit-dev" \
    build test
grep -q '^update' "$top/calls" || fail "the package index was not refreshed"

machine 0 "$tools" "jansson libzip gmp libpcre2-8 libedit" # cmocka only for the tests
expect 0 "libinih-dev" build
machine 0 "$tools" "inih jansson libzip gmp libpcre2-8 libedit"
expect 0 "libcmocka-dev" build test

machine 1000 "$tools sudo" "jansson libzip gmp libpcre2-8 libedit" # through sudo
expect 0 "libinih-dev" build
grep -q '^sudo' "$top/calls" || fail "sudo was not used"

machine 1000 "$tools" "jansson libzip gmp libpcre2-8" # may not install: says what to install, and fails
expect 1 "" build
grep -q 'apt-get install --no-install-recommends libinih-dev libedit-dev' "$top/out" ||
    fail "it does not say what to install"
machine 1000 "$tools sudo-no" "jansson libzip gmp libpcre2-8 libedit"
expect 1 "" build
machine 1000 "$tools" "inih jansson libzip gmp libpcre2-8" # only an optional one is missing: goes on
expect 0 "" build

machine 0 "cc cmake pkg-config broken-apt" "inih jansson libzip gmp libedit" # apt-get fails
expect 1 "libpcre2-dev" build
grep -q 'E: no network' "$top/out" || fail "it hides why apt-get failed"

machine 0 "cc cmake pkg-config" "inih jansson libzip gmp libedit" # not Debian
expect 1 "" build
expect 2 "" nonsense
echo "setup.sh does what it should on 11 machines"
