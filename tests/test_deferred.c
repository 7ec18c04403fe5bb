/* layers: transform */
/*
 * The core on a device far away: ops wait until something is read, memory cannot be looked at, a
 * failure shows itself late. A decode step is a fixed list of ops: recorded once and replayed with
 * new data on the device, it gives what the eager step gives.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "decode_kit.h"
#include "shim/record.h"

static const deferred_record *record_of(const rig *r, void **self) {
    const pico_backend_ops *ops = &r->backend.loaded->ops.backend;
    *self = r->backend.self;
    const deferred_record *record =
        ops->extension == NULL ? NULL : ops->extension(*self, "test.record/1");
    assert_non_null(record);
    return record;
}

/* ---- the shim itself ---- */

static void ops_wait_until_something_is_read(void **state) {
    kit k;
    void *self;
    kit_open(&k, *state, 0, &(kit_options){.n_slots = 1, .max_rows = 8});
    const deferred_record *record = record_of(&k.rig, &self);
    pico_row rows[8];
    pico_forward_out out;
    float z;
    kit_tokens(&k, 8);
    kit_chain(&k, rows, 0, 0, 0, 8);
    assert_int_equal(pico_session_forward(k.session, rows, 8, &out, NULL), PICO_OK);
    assert_true(record->n_queued(self) > 20);
    assert_int_equal(rig_read(&k.rig, &out.logits, &z, 1), PICO_OK);
    assert_int_equal(record->n_queued(self), 0);
    assert_null(k.rig.device.ops->buffer_host);
    kit_close(&k);
}

static void nothing_is_allocated_behind_an_op(void **state) {
    kit k;
    kit_open(&k, *state, 0, &(kit_options){.n_slots = 1, .max_rows = 8});
    const pico_backend_ops *ops = k.rig.device.ops;
    void *self = k.rig.device.self;
    float *z = kit_floats(k.n_vocab), one = 1;
    pico_buffer *buffer = NULL;
    pico_weight *weight = NULL;
    pico_error err = {0};
    const pico_weight_desc desc = {
        .codes = &one, .codes_bytes = 4, .dtype = PICO_DTYPE_F32, .rows = 1, .cols = 1};
    kit_tokens(&k, 1);
    kit_run(&k, 0, 0, 1, z);
    assert_int_equal(ops->buffer_alloc(self, 64, &buffer, &err), PICO_E_LIMIT);
    assert_null(buffer);
    assert_non_null(strstr(err.message, "allocation"));
    assert_int_equal(ops->weight_create(self, &desc, PICO_USE_PRODUCT, 0, &weight, &err),
                     PICO_E_LIMIT);
    pico_reserve need = k.rig.device.reserved;
    assert_int_equal(ops->reserve(self, &need, &err), PICO_OK);
    assert_int_equal(ops->buffer_alloc(self, 64, &buffer, &err), PICO_OK);
    ops->buffer_free(self, buffer);
    free(z);
    kit_close(&k);
}

static void a_failure_shows_itself_late_and_once(void **state) {
    kit k;
    void *self;
    kit_open(&k, *state, 0, &(kit_options){.n_slots = 1, .max_rows = 8});
    const deferred_record *record = record_of(&k.rig, &self);
    float *want = kit_floats(8 * k.n_vocab), *got = kit_floats(8 * k.n_vocab);
    pico_row rows[8];
    pico_forward_out out;
    kit_tokens(&k, 8);
    kit_run(&k, 0, 0, 8, want);
    for (int64_t n = 0; n < 20; n += 3) {
        kit_empty(&k, 0);
        kit_chain(&k, rows, 0, 0, 0, 8);
        record->fail_op(self, n);
        assert_int_equal(pico_session_forward(k.session, rows, 8, &out, NULL), PICO_OK);
        assert_int_equal(rig_read(&k.rig, &out.logits, got, k.n_vocab), PICO_E_DEVICE);
        assert_int_equal(rig_read(&k.rig, &out.logits, got, k.n_vocab), PICO_OK);
        kit_empty(&k, 0);
        kit_run(&k, 0, 0, 8, got);
        kit_same(want, got, (size_t)8 * k.n_vocab);
    }
    record->fail_op(self, -1);
    free(want), free(got);
    kit_close(&k);
}

/* ---- replay ---- */

/* One step is recorded; the following ones write their data, drop their ops, and replay. */
static void a_recorded_step_replays(void **state) {
    for (uint32_t m = 0; m < KIT_MODELS; m++) {
        for (uint32_t rows_a_step = 1; rows_a_step <= 4; rows_a_step += 3) {
            kit eager, k;
            void *self;
            const kit_options options = {.n_slots = 2, .max_rows = 64, .window = {-1, 70, -1, -1}};
            kit_open(&eager, *state, m, &options);
            kit_open(&k, *state, m, &options);
            const deferred_record *record = record_of(&k.rig, &self);
            uint32_t vocab = k.n_vocab, n_ops = 0, n = rows_a_step;
            float *want = kit_floats(64 * vocab), *got = kit_floats(64 * vocab);
            kit_tokens(&eager, 128);
            memcpy(k.token, eager.token, sizeof k.token);
            kit_run(&eager, 1, 0, 50, want);
            kit_run(&k, 1, 0, 50, got);
            kit_run(&eager, 0, 0, 64, want);
            kit_run(&k, 0, 0, 64, got);
            for (uint32_t at = 64; at + n <= 124; at += n) { /* all of them in the second page */
                pico_row rows[4];
                pico_forward_out out;
                uint32_t slot = at == 80 ? 1 : 0; /* and once for the other timeline */
                uint32_t begin = slot == 1 ? 50 : at;
                kit_run(&eager, slot, begin, n, want);
                kit_chain(&k, rows, 0, slot, begin, n);
                if (at == 64) {
                    assert_int_equal(record->begin(self), PICO_OK);
                } else {
                    assert_int_equal(record->swallow(self, 1), PICO_OK);
                }
                assert_int_equal(pico_session_forward(k.session, rows, n, &out, NULL), PICO_OK);
                if (at == 64) {
                    assert_int_equal(record->end(self, &n_ops), PICO_OK);
                    assert_true(n_ops > 20);
                } else {
                    assert_int_equal(record->n_queued(self), 0);
                    assert_int_equal(record->swallow(self, 0), PICO_OK);
                    assert_int_equal(record->replay(self), PICO_OK);
                    assert_int_equal(record->n_queued(self), n_ops);
                }
                assert_int_equal(rig_read(&k.rig, &out.logits, got, (size_t)n * vocab), PICO_OK);
                kit_same(want, got, (size_t)n * vocab);
                if (slot == 1) { /* slot 0 takes the step that the other one had */
                    kit_run(&eager, 0, at, n, want);
                    kit_run(&k, 0, at, n, got);
                }
            }
            free(want), free(got);
            kit_close(&eager);
            kit_close(&k);
        }
    }
}

/* The session records each shape of small steps at its second sight, launches it from then on, and
 * records it again after a reserve; the bits are those of a backend that cannot record. Timelines
 * grow, take turns, and drafts come as chains and trees. */
static void the_session_launches_recordings(void **state) {
    for (uint32_t m = 0; m < KIT_MODELS; m++) {
        kit eager, k;
        void *self;
        kit_variant plain = *(const kit_variant *)*state;
        plain.hide_optional = 1; /* extensions too */
        const kit_options options = {.n_slots = 2, .max_rows = 64, .window = {-1, 70, -1, -1}};
        kit_open(&eager, &plain, m, &options);
        kit_open(&k, *state, m, &options);
        const deferred_record *record = record_of(&k.rig, &self);
        uint32_t vocab = k.n_vocab, at[2] = {0, 0}, n_small = 0;
        float *want = kit_floats(64 * vocab), *got = kit_floats(64 * vocab);
        kit_tokens(&eager, 256);
        memcpy(k.token, eager.token, sizeof k.token);
        for (uint32_t turn = 0; turn < 60; turn++) {
            uint32_t slot = turn % 5 == 4, n = turn == 0 ? 50 : 1 + turn % 3;
            pico_row rows[64];
            kit_chain(&k, rows, 0, slot, at[slot], n);
            int tree = n == 3;
            if (tree) { /* two that follow the same token */
                rows[2].parent = 0;
                rows[2].pos = rows[1].pos;
                rows[2].prev = rows[1].prev;
            }
            kit_forward(&eager, rows, n, want);
            kit_forward(&k, rows, n, got);
            kit_same(want, got, (size_t)n * vocab);
            const uint32_t path[2] = {0, 2};
            if (tree) {
                assert_int_equal(pico_session_commit(eager.session, slot, path, 2, NULL), PICO_OK);
                assert_int_equal(pico_session_commit(k.session, slot, path, 2, NULL), PICO_OK);
                k.token[at[slot] + 1] = eager.token[at[slot] + 1] = rows[2].token;
            }
            at[slot] += tree ? 2 : n;
            n_small += turn != 0;
            if (turn == 30) {
                pico_reserve need = k.rig.device.reserved;
                assert_int_equal(pico_device_reserve(&k.rig.device, &need, NULL), PICO_OK);
            }
        }
        if (record->n_launched(self) < n_small / 2 || record->n_launched(self) >= n_small) {
            fail_msg("%u of %u small steps were launched", record->n_launched(self), n_small);
        }
        free(want), free(got);
        kit_close(&eager);
        kit_close(&k);
    }
}

/* Logit edits are device data too: new rows, tokens and values for the same op. */
static void recorded_edits_replay(void **state) {
    enum { N = 3, VOCAB = 40 };
    kit k;
    void *self;
    kit_open(&k, *state, 0, &(kit_options){.n_slots = 1, .max_rows = 8});
    const deferred_record *record = record_of(&k.rig, &self);
    const pico_backend_ops *ops = k.rig.device.ops;
    void *device = k.rig.device.self;
    pico_buffer *buffer = NULL;
    float z[2 * VOCAB], want[2 * VOCAB], got[2 * VOCAB];
    uint32_t words[5 * N], n_ops = 0;
    assert_int_equal(ops->buffer_alloc(device, sizeof z + sizeof words, &buffer, NULL), PICO_OK);
    pico_logit_edit_args args = {
        .logits = pico_view(buffer, 0, PICO_DTYPE_F32, 2, VOCAB),
        .row = pico_view_vector(buffer, sizeof z, PICO_DTYPE_I32, N),
        .token = pico_view_vector(buffer, sizeof z + 4 * N, PICO_DTYPE_I32, N),
        .sub = pico_view_vector(buffer, sizeof z + 8 * N, PICO_DTYPE_F32, N),
        .rep = pico_view_vector(buffer, sizeof z + 12 * N, PICO_DTYPE_F32, N),
        .bias = pico_view_vector(buffer, sizeof z + 16 * N, PICO_DTYPE_F32, N)};
    for (uint32_t turn = 0; turn < 5; turn++) {
        for (uint32_t i = 0; i < 2 * VOCAB; i++) {
            want[i] = z[i] = (float)(i % 7) - 2.5f + (float)turn;
        }
        for (uint32_t i = 0; i < N; i++) {
            uint32_t row = (i + turn) % 2, token = 5 * i + turn;
            float sub = 0.5f, rep = 2.0f, bias = (float)turn;
            words[i] = row;
            words[N + i] = token;
            memcpy(&words[2 * N + i], &sub, 4);
            memcpy(&words[3 * N + i], &rep, 4);
            memcpy(&words[4 * N + i], &bias, 4);
            float x = z[row * VOCAB + token] - sub;
            want[row * VOCAB + token] = (x > 0 ? x / rep : x * rep) + bias;
        }
        assert_int_equal(ops->buffer_write(device, buffer, 0, z, sizeof z), PICO_OK);
        assert_int_equal(ops->buffer_write(device, buffer, sizeof z, words, sizeof words), PICO_OK);
        if (turn == 0) {
            assert_int_equal(record->begin(self), PICO_OK);
            assert_int_equal(ops->logit_edit(device, &args), PICO_OK);
            assert_int_equal(record->end(self, &n_ops), PICO_OK);
            assert_int_equal(n_ops, 1);
            memset(&args, 0xee, sizeof args); /* the arguments are borrowed for the call */
        } else {
            assert_int_equal(record->replay(self), PICO_OK);
        }
        memset(words, 0xee, sizeof words); /* and so is what was written */
        assert_int_equal(ops->buffer_read(device, buffer, 0, got, sizeof got, NULL), PICO_OK);
        kit_same(want, got, 2 * VOCAB);
    }
    ops->buffer_free(device, buffer);
    kit_close(&k);
}

/* ---- late failures under the decode loop ---- */

/* The n-th op fails when it runs, perhaps long after the call that queued it, in a round that read
 * nothing. Whoever goes on after the error gets the plain answer all the same. */
static void late_failures_do_not_spoil_the_answer(void **state) {
    static dk_result plain, got;
    char path[64], script[128];
    int32_t prompt[120];
    const uint32_t accept_tree[2] = {0, 1};
    dk d;
    dk_script_name(path, script);
    dk_options options = {.model = 0, .params = {.ubatch = 33, .max_positions = 200}};
    dk_open(&d, *state, &options);
    dk_prompt(4, d.n_vocab, 120, prompt);
    pico_request request = {.prompt = prompt, .n_prompt = 120, .max_tokens = 12, .seed = 6};
    dk_start(&d, 0, &request);
    dk_run(&d);
    dk_take(&d, 0, &plain);
    dk_close(&d);
    dk_write_script(path, &plain, 1);
    for (uint32_t shape = 0; shape < 2; shape++) {
        uint32_t n_error = 1;
        for (int64_t n = 0; n_error != 0; n += 5) {
            void *self;
            uint32_t live = 1;
            dk_options fast = options;
            fast.decoder = DK_SCRIPTED;
            fast.set[0] = script;
            fast.set[1] =
                accept_tree[shape] ? "decoder.scripted.shape=tree" : "decoder.scripted.shape=chain";
            dk_open(&d, *state, &fast);
            const deferred_record *record = record_of(&d.rig, &self);
            dk_start(&d, 0, &request);
            record->fail_op(self, n);
            for (n_error = 0; live != 0;) {
                pico_error err = {0};
                if (pico_decode_round(d.decode, &live, &err) != PICO_OK) {
                    n_error++;
                    live = 1;
                }
                if (n_error > 1) {
                    fail_msg("a failure of op %lld is reported twice: %s", (long long)n,
                             err.message);
                }
            }
            char what[64];
            (void)snprintf(what, sizeof what, "op %lld fails late", (long long)n);
            dk_take(&d, 0, &got);
            dk_same(&plain, &got, what);
            dk_close(&d);
        }
    }
    assert_int_equal(remove(path), 0);
}

int main(void) {
    kit_variant variants[KIT_VARIANTS];
    if (kit_variants(variants) < KIT_VARIANTS) {
        return 0;
    }
    kit_variant *v = &variants[2];
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_prestate(ops_wait_until_something_is_read, v),
        cmocka_unit_test_prestate(nothing_is_allocated_behind_an_op, v),
        cmocka_unit_test_prestate(a_failure_shows_itself_late_and_once, v),
        cmocka_unit_test_prestate(a_recorded_step_replays, v),
        cmocka_unit_test_prestate(the_session_launches_recordings, v),
        cmocka_unit_test_prestate(recorded_edits_replay, v),
        cmocka_unit_test_prestate(late_failures_do_not_spoil_the_answer, v),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
