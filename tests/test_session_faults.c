/* layers: transform */
/*
 * Sessions under failure: a call that is refused, or whose n-th device operation fails, leaves
 * every timeline as it was, and the next call gives the bits it would have given anyway. Opening
 * that fails at the n-th allocation cleans up.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "session_kit.h"

/* ---- refused calls ---- */

/* Expects a forward to be refused with a message and nothing to change. */
static void refused(kit *k, const pico_row *rows, uint32_t n, pico_status want, const char *part) {
    uint32_t before[3];
    pico_error err = {0};
    pico_forward_out out;
    for (uint32_t s = 0; s < 3; s++) {
        before[s] = pico_session_length(k->session, s);
    }
    assert_int_equal(pico_session_forward(k->session, rows, n, &out, &err), want);
    if (strstr(err.message, part) == NULL) {
        fail_msg("'%s' does not say '%s'", err.message, part);
    }
    for (uint32_t s = 0; s < 3; s++) {
        assert_int_equal(pico_session_length(k->session, s), before[s]);
    }
}

static void bad_rows_are_refused(void **state) {
    kit k;
    kit_open(&k, *state, 0, &(kit_options){.n_slots = 3, .max_rows = 64, .max_positions = 100});
    uint32_t vocab = k.n_vocab;
    float *want = kit_floats(100 * vocab), *got = kit_floats(100 * vocab);
    pico_row rows[80];
    kit_tokens(&k, 100);
    kit_chunks(&k, 0, 100, 1, 32, want);
    kit_empty(&k, 0);
    kit_run(&k, 0, 0, 20, got);
    kit_run(&k, 1, 0, 7, got);
    kit_chain(&k, rows, 0, 0, 20, 10);
    refused(&k, rows, 0, PICO_E_LIMIT, "0 rows");
    kit_chain(&k, rows, 0, 0, 20, 65);
    refused(&k, rows, 65, PICO_E_LIMIT, "65 rows");
    kit_chain(&k, rows, 0, 0, 20, 10);
    rows[3].token = (int32_t)vocab;
    refused(&k, rows, 10, PICO_E_INVALID, "row 3");
    rows[3].token = -1;
    refused(&k, rows, 10, PICO_E_INVALID, "row 3");
    kit_chain(&k, rows, 0, 0, 20, 10);
    rows[9].slot = 3;
    refused(&k, rows, 10, PICO_E_INVALID, "row 9");
    rows[9].slot = 1; /* the parent is of another slot */
    refused(&k, rows, 10, PICO_E_INVALID, "row 9");
    kit_chain(&k, rows, 0, 0, 20, 10);
    rows[5].pos = 7;
    refused(&k, rows, 10, PICO_E_INVALID, "row 5");
    kit_chain(&k, rows, 0, 0, 20, 10);
    rows[4].parent = 4;
    refused(&k, rows, 10, PICO_E_INVALID, "row 4");
    kit_chain(&k, rows, 0, 0, 21, 10); /* a gap */
    refused(&k, rows, 10, PICO_E_INVALID, "row 0");
    kit_chain(&k, rows, 0, 0, 20, 40);
    rows[39].parent = 30; /* a tree of 40 */
    rows[39].pos = 51;
    refused(&k, rows, 40, PICO_E_LIMIT, "tree of 40");
    kit_run(&k, 0, 20, 10, got); /* and nothing of all that left a trace */
    kit_same(want + (size_t)20 * vocab, got, (size_t)10 * vocab);
    for (uint32_t at = 30; at < 100; at += 10) {
        kit_run(&k, 0, at, 10, got);
        kit_same(want + (size_t)at * vocab, got, (size_t)10 * vocab);
    }
    kit_chain(&k, rows, 0, 0, 99, 1);
    rows[0].pos = 100;
    refused(&k, rows, 1, PICO_E_LIMIT, "full");
    free(want), free(got);
    kit_close(&k);
}

/* Only paths of the last tree of that slot may be kept, parents first. */
static void bad_paths_are_refused(void **state) {
    kit k;
    kit_open(&k, *state, 0, &(kit_options){.n_slots = 3, .max_rows = 64});
    float *got = kit_floats(64 * k.n_vocab);
    pico_row rows[64];
    kit_tokens(&k, 40);
    kit_run(&k, 0, 0, 10, got);
    kit_run(&k, 1, 0, 10, got);
    for (uint32_t i = 0; i < 2; i++) { /* rows 6i..: 0-1-2, 0-3-4, 0-5 below each timeline */
        const int32_t parent[6] = {-1, 0, 1, 0, 3, 0}, depth[6] = {0, 1, 2, 1, 2, 1};
        for (uint32_t j = 0; j < 6; j++) {
            rows[6 * i + j] =
                (pico_row){.token = (int32_t)j,
                           .prev = parent[j] < 0 ? k.token[9] : parent[j],
                           .slot = i,
                           .pos = 10 + depth[j],
                           .parent = parent[j] < 0 ? -1 : parent[j] + (int32_t)(6 * i),
                           .want = PICO_ROW_LOGITS};
        }
    }
    const struct {
        const char *what;
        uint32_t slot, n, path[3];
    } bad[] = {
        {"a slot that does not exist", 3, 1, {0}}, {"a path that begins below its root", 0, 1, {1}},
        {"a row that is not there", 0, 1, {63}},   {"a row far outside", 0, 1, {1000000}},
        {"children before parents", 0, 2, {1, 0}}, {"the rows of another slot", 0, 2, {6, 7}},
        {"a row of another slot", 0, 2, {0, 7}},   {"a child of another branch", 0, 3, {0, 1, 4}},
        {"a slot without a tree", 2, 1, {0}},
    };
    kit_forward(&k, rows, 12, got);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        pico_error err = {0};
        if (pico_session_commit(k.session, bad[i].slot, bad[i].path, bad[i].n, &err) == PICO_OK) {
            fail_msg("a commit of %s was accepted", bad[i].what);
        }
        assert_true(err.message[0] != '\0');
        assert_int_equal(pico_session_length(k.session, 0), 10);
    }
    const uint32_t good[3] = {0, 3, 4}, good1[2] = {6, 11};
    assert_int_equal(pico_session_commit(k.session, 0, good, 3, NULL), PICO_OK);
    assert_int_equal(pico_session_commit(k.session, 1, good1, 2, NULL), PICO_OK);
    assert_int_equal(pico_session_length(k.session, 0), 13);
    assert_int_equal(pico_session_length(k.session, 1), 12);
    assert_int_not_equal(pico_session_commit(k.session, 0, good, 3, NULL), PICO_OK); /* once */
    free(got);
    kit_close(&k);
}

/* Rows of an earlier, longer call are no rows of the last tree. */
static void paths_of_an_earlier_call_are_refused(void **state) {
    kit k;
    kit_open(&k, *state, 0, &(kit_options){.n_slots = 2, .max_rows = 32});
    float *got = kit_floats(32 * k.n_vocab);
    pico_row rows[8];
    kit_tokens(&k, 10);
    kit_run(&k, 0, 0, 5, got);
    kit_run(&k, 1, 0, 5, got);
    for (uint32_t i = 0; i < 8; i++) { /* three roots of slot 1, five of slot 0 */
        rows[i] = (pico_row){.token = (int32_t)i,
                             .prev = k.token[4],
                             .slot = i < 3,
                             .pos = 5,
                             .parent = -1,
                             .want = PICO_ROW_LOGITS};
    }
    kit_forward(&k, rows, 8, got);
    kit_forward(&k, rows + 3, 3, got);
    const uint32_t stale = 5, good = 2;
    if (pico_session_commit(k.session, 0, &stale, 1, NULL) == PICO_OK) {
        fail_msg("row 5 of a call with 3 rows was committed");
    }
    assert_int_equal(pico_session_commit(k.session, 0, &good, 1, NULL), PICO_OK);
    free(got);
    kit_close(&k);
}

static void bad_truncations_and_copies_are_refused(void **state) {
    kit k;
    kit_open(&k, *state, 0, &(kit_options){.n_slots = 2, .max_rows = 32});
    float *got = kit_floats(32 * k.n_vocab);
    kit_tokens(&k, 10);
    kit_run(&k, 0, 0, 5, got);
    pico_error err = {0};
    assert_int_equal(pico_session_truncate(k.session, 0, 6, &err), PICO_E_INVALID);
    assert_int_equal(pico_session_truncate(k.session, 2, 0, &err), PICO_E_INVALID);
    assert_int_equal(pico_session_copy(k.session, 0, 0, &err), PICO_E_INVALID);
    assert_int_equal(pico_session_copy(k.session, 0, 2, &err), PICO_E_INVALID);
    assert_int_equal(pico_session_copy(k.session, 2, 0, &err), PICO_E_INVALID);
    assert_int_equal(pico_session_length(k.session, 0), 5);
    free(got);
    kit_close(&k);
}

/* ---- a device that fails ---- */

/* Reads nothing; runs rows and tells how it went. */
static pico_status try_forward(kit *k, const pico_row *rows, uint32_t n) {
    pico_forward_out out;
    pico_error err = {0};
    pico_status status = pico_session_forward(k->session, rows, n, &out, &err);
    assert_true(status == PICO_OK || err.message[0] != '\0');
    return status;
}

/* The n-th op or write of a forward fails, for every n: a chain in one slot, a tree in another, and
 * a page that is shared with a third and must be copied first. */
static void every_failing_op_leaves_the_timelines(void **state) {
    kit k;
    const uint32_t kinds[] = {FAULT_OP, FAULT_WRITE};
    for (uint32_t turn = 0; turn < 4; turn++) {
        kit_options options = {.n_slots = 4, .max_rows = 64, .max_positions = 300};
        if (turn >= 2) {
            options.window[0] = 20;
            options.window[1] = 200;
        }
        kit_open(&k, *state, turn % 2 == 0 ? 0 : 2, &options);
        uint32_t vocab = k.n_vocab;
        float *want = kit_floats(300 * vocab), *got = kit_floats(64 * vocab);
        kit_tokens(&k, 300);
        kit_chunks(&k, 0, 300, 1, 32, want);
        kit_empty(&k, 0);
        kit_run(&k, 0, 0, 30, got);
        kit_run(&k, 0, 30, 30, got);
        kit_run(&k, 0, 60, 30, got);
        uint32_t at = 90;
        for (uint32_t i = 0; i < 2; i++) {
            int more = 1;
            for (int64_t n = 0; more; n++) {
                pico_row rows[64];
                /* slot 1 shares its pages with slot 0 and stops in the middle of a full one */
                assert_int_equal(pico_session_copy(k.session, 0, 1, NULL), PICO_OK);
                assert_int_equal(pico_session_truncate(k.session, 1, at - 28, NULL), PICO_OK);
                assert_int_equal(pico_session_copy(k.session, 0, 2, NULL), PICO_OK);
                uint32_t count = kit_chain(&k, rows, 0, 1, at - 28, 5);
                count = kit_chain(&k, rows, count, 2, at, 4);
                rows[count - 1].parent = (int32_t)count - 3; /* a tree */
                rows[count - 1].pos--;
                fault_arm(&k.rig.fault, kinds[i], n);
                more = try_forward(&k, rows, count) != PICO_OK;
                fault_arm(&k.rig.fault, 0, -1);
                assert_int_equal(pico_session_length(k.session, 0), at);
                assert_int_equal(pico_session_length(k.session, 1), at - 28 + (more ? 0 : 5));
                assert_int_equal(pico_session_length(k.session, 2), at);
                if (more) { /* the same call now works, and gives what it should */
                    kit_forward(&k, rows, count, got);
                    kit_same(want + (size_t)(at - 28) * vocab, got, (size_t)5 * vocab);
                }
                kit_run(&k, 0, at, 1, got); /* and so does the slot that was not part of it */
                kit_same(want + (size_t)at * vocab, got, vocab);
                assert_int_equal(pico_session_truncate(k.session, 0, at, NULL), PICO_OK);
            }
        }
        free(want), free(got);
        kit_close(&k);
    }
}

/* The copy of a shared page fails: the timeline keeps its page, the other one is untouched. */
static void a_failing_page_copy_leaves_the_timelines(void **state) {
    kit k;
    kit_open(&k, *state, 0, &(kit_options){.n_slots = 2, .max_rows = 32});
    uint32_t vocab = k.n_vocab;
    float *want = kit_floats(90 * vocab), *got = kit_floats(32 * vocab);
    pico_row rows[8];
    kit_tokens(&k, 90);
    kit_chunks(&k, 0, 90, 1, 32, want);
    for (uint32_t layer = 0; layer < 2; layer++) {
        assert_int_equal(pico_session_copy(k.session, 0, 1, NULL), PICO_OK);
        assert_int_equal(pico_session_truncate(k.session, 1, 40, NULL), PICO_OK);
        kit_chain(&k, rows, 0, 1, 40, 3);
        fault_arm(&k.rig.fault, FAULT_KV_COPY, layer);
        assert_int_not_equal(try_forward(&k, rows, 3), PICO_OK);
        assert_int_equal(k.rig.fault.n_failed, layer + 1);
        assert_int_equal(pico_session_length(k.session, 1), 40);
        kit_forward(&k, rows, 3, got);
        kit_same(want + (size_t)40 * vocab, got, (size_t)3 * vocab);
    }
    fault_arm(&k.rig.fault, FAULT_KV_COPY, 0);
    assert_int_not_equal(pico_session_copy(k.session, 0, 1, NULL), PICO_OK);
    assert_int_equal(pico_session_length(k.session, 0), 90);
    assert_int_equal(pico_session_truncate(k.session, 0, 89, NULL), PICO_OK);
    kit_run(&k, 0, 89, 1, got);
    kit_same(want + (size_t)89 * vocab, got, vocab);
    free(want), free(got);
    kit_close(&k);
}

/* Keeping an accepted path fails at its copy: the tree is still there and can be kept again. */
static void a_failing_commit_leaves_the_timeline(void **state) {
    kit k;
    kit_open(&k, *state, 0, &(kit_options){.n_slots = 1, .max_rows = 32});
    uint32_t vocab = k.n_vocab;
    float *want = kit_floats(80 * vocab), *got = kit_floats(32 * vocab);
    pico_row rows[4];
    kit_tokens(&k, 80);
    kit_chunks(&k, 0, 80, 1, 32, want);
    assert_int_equal(pico_session_truncate(k.session, 0, 62, NULL), PICO_OK);
    kit_chain(&k, rows, 0, 0, 62, 4); /* across a page */
    rows[3] =
        rows[2]; /* 0-1-3 and 0-2; what begins with the first row and its first child is kept */
    rows[2] =
        rows[1]; /* without a copy, what branches off, here behind the page's end, needs one */
    rows[1].token = (rows[1].token + 1) % (int32_t)vocab;
    rows[3].prev = rows[2].token;
    rows[3].parent = 2;
    kit_forward(&k, rows, 4, got);
    for (int64_t n = 0; n < 2; n++) {
        const uint32_t path[3] = {0, 2, 3};
        fault_arm(&k.rig.fault, FAULT_KV_COPY, n);
        assert_int_not_equal(pico_session_commit(k.session, 0, path, 3, NULL), PICO_OK);
        assert_int_equal(pico_session_length(k.session, 0), 62);
        if (n == 1) {
            assert_int_equal(pico_session_commit(k.session, 0, path, 3, NULL), PICO_OK);
        }
    }
    assert_int_equal(pico_session_length(k.session, 0), 65);
    kit_run(&k, 0, 65, 1, got);
    kit_same(want + (size_t)65 * vocab, got, vocab);
    free(want), free(got);
    kit_close(&k);
}

/* Opening a model and a session fails at every allocation in turn; a sanitizer sees the leaks. */
static void opening_fails_cleanly_at_every_allocation(void **state) {
    kit k;
    kit_open(&k, *state, 2, &(kit_options){.n_slots = 1, .max_rows = 8});
    tiny_model tiny = kit_model(2);
    pico_session_params params = {
        .n_slots = 1, .max_rows = 4, .max_logit_rows = 4, .max_positions = 70};
    int done = 0;
    for (int64_t n = 0; !done; n++) {
        pico_model *model = NULL;
        pico_session *session = NULL;
        pico_error err = {0};
        fault_arm(&k.rig.fault, FAULT_ALLOC | FAULT_WRITE, n);
        pico_status status = tiny_model_open(&k.rig, &tiny, PICO_DTYPE_F32, &model, &err);
        if (status == PICO_OK) {
            status = pico_session_open(model, &params, &session, &err);
        }
        done = status == PICO_OK;
        assert_true(done || err.message[0] != '\0');
        assert_true(done || k.rig.fault.n_calls == (uint64_t)n + 1);
        fault_arm(&k.rig.fault, 0, -1);
        pico_session_close(session);
        pico_model_close(model);
        assert_true(n < 1000);
    }
    kit_close(&k);
}

static void impossible_sessions_are_refused(void **state) {
    kit k;
    kit_open(&k, *state, 2, &(kit_options){.n_slots = 1, .max_rows = 8}); /* gpt2, 380 positions */
    const struct {
        pico_session_params params;
        const char *part;
    } bad[] = {
        {{.n_slots = 0, .max_rows = 1, .max_logit_rows = 1}, "slot"},
        {{.n_slots = 1, .max_rows = 0, .max_logit_rows = 1}, "row"},
        {{.n_slots = 1, .max_rows = 1, .max_logit_rows = 0}, "row"},
        {{.n_slots = 1, .max_rows = 1, .max_logit_rows = 1, .max_positions = 381}, "380"},
        {{.n_slots = 1, .max_rows = 1, .max_logit_rows = 1, .max_positions = UINT32_MAX}, ""},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        pico_session *session = NULL;
        pico_error err = {0};
        assert_int_not_equal(pico_session_open(k.model, &bad[i].params, &session, &err), PICO_OK);
        assert_null(session);
        assert_true(err.message[0] != '\0');
        assert_non_null(strstr(err.message, bad[i].part));
    }
    kit_close(&k);
}

int main(void) {
    struct CMUnitTest tests[] = {
        cmocka_unit_test(bad_rows_are_refused),
        cmocka_unit_test(bad_paths_are_refused),
        cmocka_unit_test(paths_of_an_earlier_call_are_refused),
        cmocka_unit_test(bad_truncations_and_copies_are_refused),
        cmocka_unit_test(every_failing_op_leaves_the_timelines),
        cmocka_unit_test(a_failing_page_copy_leaves_the_timelines),
        cmocka_unit_test(a_failing_commit_leaves_the_timeline),
        cmocka_unit_test(opening_fails_cleanly_at_every_allocation),
        cmocka_unit_test(impossible_sessions_are_refused),
    };
    return KIT_RUN("session_faults", tests);
}
