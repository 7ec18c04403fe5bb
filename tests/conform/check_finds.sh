#!/bin/sh
# The conformance kit finds what is broken, and nothing in what is not.
#
# usage: check_finds.sh BUILD_DIR [sanitized]
set -u
build=$1
conform=$build/picochat-conform
plugins=$build/tests/plugins
failed=0

# expect NAME_OF_TEST PLUGIN ARGS...: this test must fail; "none": all must pass.
expect() {
    test=$1
    shift
    filter=
    [ "$test" = none ] || filter="--filter $test"
    output=$("$conform" "$@" $filter 2>&1)
    code=$?
    if [ "$test" = none ]; then
        [ $code -eq 0 ] && return
    elif [ $code -ne 0 ] && [ $code -lt 126 ] &&
        printf '%s\n' "$output" | grep -q "^not ok .* $test\$"; then
        return
    fi
    echo "conform $*: exit code $code, expected $test to fail; it says:"
    printf '%s\n' "$output" | grep -v '^ok'
    failed=1
}

sampler=$plugins/sample_faulty.so
expect none "$sampler"
expect sampler/rows_give_distributions "$sampler" --set fault=sum
expect sampler/rows_give_distributions "$sampler" --set fault=twice
expect sampler/rows_give_distributions "$sampler" --set fault=range
expect sampler/hostile_rows "$sampler" --set fault=nan
expect sampler/rows_give_distributions "$sampler" --set fault=memory
expect sampler/state_decides_alone "$sampler" --set fault=state
expect sampler/state_decides_alone "$sampler" --set fault=bytes
expect sampler/hostile_rows "$sampler" --set fault=crash
# A sanitizer replaces malloc, and its own check for leaks is the better one.
if [ "${2:-}" != sanitized ]; then
    expect common/lives_leave_nothing_behind "$sampler" --set fault=leak
    expect trainer/lives_end_as_they_began "$plugins/train_toy.so" --set fault=leak
fi

compressor=$plugins/compress_toy.so
expect none "$compressor"
expect compressor/plans_are_kept "$compressor" --set lie=plan
expect compressor/plans_are_kept "$compressor" --set lie=touch
expect compressor/plans_are_kept "$compressor" --set lie=mood

trainer=$plugins/train_toy.so
expect none "$trainer"
expect trainer/steps_say_what_they_were "$trainer" --set fault=count
expect trainer/steps_say_what_they_were "$trainer" --set fault=finish
expect trainer/steps_say_what_they_were "$trainer" --set fault=still
expect trainer/a_saved_state_goes_on "$trainer" --set fault=forget
expect trainer/a_saved_state_goes_on "$trainer" --set fault=overrun
expect trainer/wrong_bytes_change_nothing "$trainer" --set fault=trust
expect trainer/no_number_updates_nothing "$trainer" --set fault=nan
expect trainer/failing_data_changes_nothing "$trainer" --set fault=hurry
expect trainer/lives_end_as_they_began "$trainer" --set fault=keep
expect none "$plugins/decode_scripted.so"
expect none "$plugins/decode_older.so"

backend="$plugins/backend_deferred.so --set inner=$build/plugins/backend_cpu.so"
expect none $backend --filter backend/activation
expect backend/linear_f32 $backend --set spoil=value
expect backend/activation $backend --set spoil=guard
expect backend/rows_do_not_depend_on_company $backend --set spoil=company
expect backend/attend $backend --set spoil=drift

# What is no plugin, and what is not asked for rightly.
"$conform" /dev/null >/dev/null 2>&1
[ $? -eq 126 ] || { echo "a file that is no plugin: expected exit code 126"; failed=1; }
"$conform" >/dev/null 2>&1
[ $? -eq 127 ] || { echo "no arguments: expected exit code 127"; failed=1; }
"$conform" "$sampler" --set nonsense >/dev/null 2>&1
[ $? -eq 127 ] || { echo "--set without a value: expected exit code 127"; failed=1; }
exit $failed
