/* layers: transform */
/*
 * Sessions: whatever the schedule (one token at a time, chunks, a prompt at once, in company, after
 * truncation, in a copy, as a tree), a row's logits are the same, bit for bit, within its class;
 * and both classes agree with a forward in double precision, windows included.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "ref_model.h"
#include "session_kit.h"

/* ---- one class, any schedule ---- */

/* Decode class: one by one, in chunks of 2 to 32, and beside other timelines. Prefill class: all at
 * once, in chunks of at least 33, and beside decode rows. The two classes are `apart` at most. */
static void check_schedules(kit *k, uint32_t n_turn, float apart) {
    uint32_t n = 150, vocab = k->n_vocab;
    float *single = kit_floats(n * vocab), *whole = kit_floats(n * vocab);
    float *other = kit_floats(n * vocab);
    kit_tokens(k, n);
    for (uint32_t i = 0; i < n; i++) {
        kit_run(k, 0, i, 1, single + (size_t)i * vocab);
    }
    kit_run(k, 1, 0, n, whole);
    kit_close_to(single, whole, (size_t)n * vocab, apart);
    for (uint32_t turn = 0; turn < n_turn; turn++) {
        kit_empty(k, 0);
        kit_chunks(k, 0, n, 1, 32, other);
        kit_same(single, other, (size_t)n * vocab);
        kit_empty(k, 1);
        kit_chunks(k, 1, n, 33, 90, other);
        kit_same(whole, other, (size_t)n * vocab);
    }
    free(single), free(whole), free(other);
}

static void any_schedule_gives_the_same_bits(void **state) {
    kit k;
    const kit_variant *variant = *state;
    for (uint32_t m = 0; m < KIT_MODELS; m++) {
        kit_open(&k, variant, m, &(kit_options){.n_slots = 3, .max_rows = 256});
        check_schedules(&k, 4, 1e-4f);
        kit_close(&k);
    }
}

/* Three timelines at different places share every call; each row is as it would be alone. */
static void company_changes_nothing(void **state) {
    kit k;
    const kit_variant *variant = *state;
    for (uint32_t m = 0; m < KIT_MODELS; m++) {
        kit_open(&k, variant, m, &(kit_options){.n_slots = 4, .max_rows = 256});
        uint32_t n = 140, vocab = k.n_vocab, at[3] = {0, 0, 0};
        float *alone = kit_floats(n * vocab), *prompt = kit_floats(n * vocab);
        float *got = kit_floats(256 * vocab);
        kit_tokens(&k, n);
        kit_chunks(&k, 3, n, 1, 32, alone);
        kit_empty(&k, 3);
        kit_chunks(&k, 3, n, 33, 60, prompt);
        while (at[0] < n || at[1] < n || at[2] < n) {
            pico_row rows[256];
            uint32_t count = 0;
            for (uint32_t i = 0; i < 3; i++) {
                uint32_t s = (i + 1) % 3; /* not in the order of the slots */
                uint32_t most = s == 2 ? 33 + rig_below(&k.random, 40) : rig_below(&k.random, 33);
                uint32_t left = n - at[s], take = most < left ? most : left;
                if (s == 2 && left - take < 33) {
                    take = left; /* so that slot 2 stays in the prefill class */
                }
                count = kit_chain(&k, rows, count, s, at[s], take);
                at[s] += take;
            }
            if (count == 0) {
                continue;
            }
            kit_forward(&k, rows, count, got);
            for (uint32_t i = 0; i < count; i++) {
                const float *want = rows[i].slot == 2 ? prompt : alone;
                kit_same(want + (size_t)rows[i].pos * vocab, got + (size_t)i * vocab, vocab);
            }
        }
        free(alone), free(prompt), free(got);
        kit_close(&k);
    }
}

/* Rows that want nothing, hidden rows only, or logits: the others are not disturbed. */
static void wants_are_independent(void **state) {
    kit k;
    kit_open(&k, *state, 0, &(kit_options){.n_slots = 1, .max_rows = 64});
    uint32_t n = 30, vocab = k.n_vocab;
    float *all = kit_floats(n * vocab), *some = kit_floats(n * vocab);
    pico_row rows[64];
    kit_tokens(&k, n);
    kit_run(&k, 0, 0, n, all);
    for (uint32_t turn = 0; turn < 20; turn++) {
        pico_forward_out out;
        uint32_t n_out = 0;
        kit_empty(&k, 0);
        kit_chain(&k, rows, 0, 0, 0, n);
        for (uint32_t i = 0; i < n; i++) {
            rows[i].want = rig_below(&k.random, 4);
            n_out += rows[i].want != 0;
        }
        assert_int_equal(pico_session_forward(k.session, rows, n, &out, NULL), PICO_OK);
        assert_int_equal(out.n, n_out);
        if (n_out == 0) {
            continue;
        }
        assert_int_equal(rig_read(&k.rig, &out.logits, some, (size_t)n_out * vocab), PICO_OK);
        for (uint32_t i = 0, at = 0; i < n; i++) {
            if (rows[i].want & PICO_ROW_LOGITS) {
                kit_same(all + (size_t)i * vocab, some + (size_t)at * vocab, vocab);
            }
            at += rows[i].want != 0;
        }
    }
    free(all), free(some);
    kit_close(&k);
}

/* ---- truncation ---- */

/* From every length, going back and taking the same token gives the same bits; a detour over other
 * tokens leaves no trace. */
static void truncation_at_every_offset(void **state) {
    kit k;
    const kit_variant *variant = *state;
    for (uint32_t m = 0; m < KIT_MODELS; m++) {
        kit_open(&k, variant, m, &(kit_options){.n_slots = 1, .max_rows = 32});
        uint32_t n = 134, vocab = k.n_vocab;
        float *want = kit_floats(n * vocab), *got = kit_floats(32 * vocab);
        kit_tokens(&k, n);
        kit_chunks(&k, 0, n, 1, 32, want);
        for (uint32_t length = n; length-- > 0;) {
            pico_row rows[8];
            assert_int_equal(pico_session_truncate(k.session, 0, length, NULL), PICO_OK);
            assert_int_equal(pico_session_length(k.session, 0), length);
            if (length % 3 == 0) { /* a detour that is forgotten again */
                uint32_t detour = 1 + rig_below(&k.random, 5);
                kit_chain(&k, rows, 0, 0, length, detour);
                for (uint32_t i = 0; i < detour; i++) {
                    rows[i].token = (int32_t)rig_below(&k.random, vocab);
                }
                kit_forward(&k, rows, detour, got);
                assert_int_equal(pico_session_truncate(k.session, 0, length, NULL), PICO_OK);
            }
            kit_run(&k, 0, length, 1, got);
            kit_same(want + (size_t)length * vocab, got, vocab);
        }
        free(want), free(got);
        kit_close(&k);
    }
}

/* ---- copies, trees, everything at random ---- */

typedef struct timeline {
    int32_t token[400];
    uint32_t n, top; /* top: the longest it was since it was empty */
} timeline;

/* The logits of the last token of a timeline, from an own slot, one token at a time. */
static void oracle(kit *k, uint32_t slot, const timeline *line, float *out) {
    uint32_t common = k->memo_n < line->n - 1 ? k->memo_n : line->n - 1, i = 0;
    while (i < common && k->memo[i] == line->token[i]) {
        i++;
    }
    if (pico_session_truncate(k->session, slot, i, NULL) != PICO_OK) {
        kit_empty(k, slot); /* a window has moved on */
        i = 0;
    }
    for (; i < line->n; i++) {
        pico_row row = {.token = line->token[i],
                        .prev = i == 0 ? -1 : line->token[i - 1],
                        .slot = slot,
                        .pos = (int32_t)i,
                        .parent = -1,
                        .want = PICO_ROW_LOGITS};
        kit_forward(k, &row, 1, out);
        k->memo[i] = line->token[i];
    }
    k->memo_n = line->n;
}

/* Appends n random tokens as a chain and checks the last row. */
static void grow(kit *k, timeline *line, uint32_t slot, uint32_t n, float *got, float *want) {
    pico_row rows[32];
    for (uint32_t i = 0; i < n; i++) {
        line->token[line->n + i] = (int32_t)rig_below(&k->random, k->n_vocab);
        rows[i] = (pico_row){.token = line->token[line->n + i],
                             .prev = line->n + i == 0 ? -1 : line->token[line->n + i - 1],
                             .slot = slot,
                             .pos = (int32_t)(line->n + i),
                             .parent = i == 0 ? -1 : (int32_t)i - 1,
                             .want = PICO_ROW_LOGITS};
    }
    line->n += n;
    line->top = line->n > line->top ? line->n : line->top;
    kit_forward(k, rows, n, got);
    oracle(k, k->n_slots - 1, line, want);
    kit_same(want, got + (size_t)(n - 1) * k->n_vocab, k->n_vocab);
}

/* A random tree below the end of a timeline: every node is as the chain to it would be. Then a
 * random path of it is kept. */
static void branch(kit *k, timeline *line, uint32_t slot, uint32_t n, float *got, float *want) {
    pico_row rows[32];
    uint32_t depth[32], path[32], n_path = 0;
    timeline before = *line;
    for (uint32_t i = 0; i < n; i++) {
        int32_t parent = (int32_t)rig_below(&k->random, i + 1) - 1;
        if (i == 0 || (i == n - 1 && rig_below(&k->random, 2))) {
            parent = -1; /* several roots are allowed */
        }
        depth[i] = parent < 0 ? 0 : depth[parent] + 1;
        rows[i] = (pico_row){.token = (int32_t)rig_below(&k->random, k->n_vocab),
                             .prev = parent >= 0   ? rows[parent].token
                                     : line->n > 0 ? line->token[line->n - 1]
                                                   : -1,
                             .slot = slot,
                             .pos = (int32_t)(line->n + depth[i]),
                             .parent = parent,
                             .want = PICO_ROW_LOGITS};
    }
    int is_chain = 1;
    for (uint32_t i = 0; i < n; i++) {
        is_chain &= rows[i].parent == (int32_t)i - 1;
    }
    kit_forward(k, rows, n, got);
    assert_int_equal(pico_session_length(k->session, slot), line->n + (is_chain ? n : 0));
    uint32_t keep = rig_below(&k->random, n);
    for (int32_t at = (int32_t)keep; at >= 0; at = rows[at].parent) {
        path[depth[at]] = (uint32_t)at;
        line->token[rows[at].pos] = rows[at].token;
        n_path++;
    }
    if (is_chain) {
        assert_int_equal(pico_session_truncate(k->session, slot, line->n + n_path, NULL), PICO_OK);
    } else {
        assert_int_equal(pico_session_commit(k->session, slot, path, n_path, NULL), PICO_OK);
    }
    line->n += n_path;
    uint32_t top = is_chain ? before.n + n : line->n;
    line->top = top > line->top ? top : line->top;
    assert_int_equal(pico_session_length(k->session, slot), line->n);
    timeline to_node = before;
    for (uint32_t i = 0; i < n; i++) {
        to_node.n = before.n + depth[i] + 1;
        for (int32_t at = (int32_t)i; at >= 0; at = rows[at].parent) {
            to_node.token[rows[at].pos] = rows[at].token;
        }
        oracle(k, k->n_slots - 1, &to_node, want);
        kit_same(want, got + (size_t)i * k->n_vocab, k->n_vocab);
    }
}

/* Timelines that grow, branch, shrink, are copied and diverge: all share one pool of pages. */
static void a_random_life(kit *k, uint32_t n_steps, uint32_t limit) {
    static const uint32_t n_line = 3;
    timeline *line = calloc(n_line, sizeof *line);
    float *got = kit_floats(32 * k->n_vocab), *want = kit_floats(k->n_vocab);
    assert_non_null(line);
    for (uint32_t i = 0; i < n_steps; i++) {
        uint32_t s = rig_below(&k->random, n_line), other = rig_below(&k->random, n_line);
        uint32_t what = rig_below(&k->random, 10), most = limit - line[s].n;
        uint32_t n = 1 + rig_below(&k->random, 32);
        n = n < most ? n : most;
        if (what < 4 && n > 0) {
            grow(k, &line[s], s, n, got, want);
        } else if (what < 6 && n > 0) {
            branch(k, &line[s], s, n < 14 ? n : 14, got, want);
        } else if (what < 8 && s != other) {
            assert_int_equal(pico_session_copy(k->session, s, other, NULL), PICO_OK);
            line[other] = line[s];
            assert_int_equal(pico_session_length(k->session, other), line[s].n);
        } else {
            uint32_t to = rig_below(&k->random, line[s].n + 1);
            pico_error err = {0};
            pico_status status = pico_session_truncate(k->session, s, to, &err);
            if (status == PICO_OK) {
                line[s].n = to;
                line[s].top = to == 0 ? 0 : line[s].top;
            } else { /* only a window may refuse, and says so; never the last rows */
                assert_int_equal(status, PICO_E_LIMIT);
                assert_true(line[s].top - to > PICO_DECODE_ROWS_MAX);
                assert_non_null(strstr(err.message, "window"));
            }
            assert_int_equal(pico_session_length(k->session, s), line[s].n);
        }
    }
    free(line), free(got), free(want);
}

static void random_lives_match_fresh_timelines(void **state) {
    kit k;
    const kit_variant *variant = *state;
    for (uint32_t m = 0; m < KIT_MODELS; m++) {
        kit_open(&k, variant, m, &(kit_options){.n_slots = 4, .max_rows = 32});
        a_random_life(&k, 60, 230);
        kit_close(&k);
    }
}

/* The same where layers drop pages: windows of several widths in one model, and a sliding limit. */
static void random_lives_with_windows(void **state) {
    kit k;
    const kit_variant *variant = *state;
    for (uint32_t turn = 0; turn < 2 * KIT_MODELS; turn++) {
        int limited = turn % 2 == 1;
        kit_options options = {.n_slots = 4,
                               .max_rows = 32,
                               .max_positions = 320,
                               .window = {40, 5, 100, limited ? 64 : -1}};
        if (limited) {
            options.window_limit = 50;
        }
        kit_open(&k, variant, turn / 2, &options);
        a_random_life(&k, 60, options.max_positions);
        kit_close(&k);
    }
}

/* KV pages of half precision: other numbers, the same rules. */
static void half_precision_pages_obey_the_same_rules(void **state) {
    kit k;
    const kit_variant *variant = *state;
    const uint32_t dtypes[] = {PICO_DTYPE_F16, PICO_DTYPE_BF16};
    for (uint32_t i = 0; i < 2; i++) {
        kit_open(&k, variant, i,
                 &(kit_options){.n_slots = 4, .max_rows = 32, .kv_dtype = dtypes[i]});
        a_random_life(&k, 40, 200);
        kit_close(&k);
    }
}

/* KV pages of integers, for grouped heads, one KV head, nanochat g4 and heads of two widths: any
 * schedule, branches, copies and truncations give the same bits. A key that two classes round to
 * different integers sets them apart by more than the last bits. */
static void pages_of_integers_obey_the_same_rules(void **state) {
    kit k;
    const kit_variant *variant = *state;
    const uint32_t models[] = {0, 3, 5};
    for (uint32_t i = 0; i < 3; i++) {
        kit_options options = {.n_slots = 4,
                               .max_rows = 256,
                               .kv_dtype = PICO_DTYPE_Q8_0,
                               .head_dim = i == 1 ? 64 : 32};
        kit_open(&k, variant, models[i], &options);
        check_schedules(&k, 1, 0.05f);
        kit_close(&k);
        options.max_rows = 32;
        options.window[0] = i == 0 ? 40 : 0;
        kit_open(&k, variant, models[i], &options);
        a_random_life(&k, 25, 200);
        kit_close(&k);
    }
}

/* Heads that are no whole blocks of 32 are refused, with what to take instead. */
static void broken_blocks_are_refused(void **state) {
    const kit_variant *variant = *state;
    pico_error err = {0};
    rig r;
    pico_model *model = NULL;
    const char *set[3] = {variant->set[0][0] == '\0' ? NULL : variant->set[0], NULL, NULL};
    rig_setup setup = {.search = PICO_BUILD_DIR "/plugins",
                       .backend = variant->backend,
                       .set = set,
                       .n_threads = variant->n_threads};
    tiny_model tiny = kit_model(0);
    tiny.head_dim = 48;
    assert_int_equal(rig_open(&r, &setup, &err), PICO_OK);
    assert_int_equal(tiny_model_open(&r, &tiny, PICO_DTYPE_Q8_0, &model, &err), PICO_E_UNSUPPORTED);
    assert_non_null(strstr(err.message, "q8_0"));
    assert_non_null(strstr(err.message, "48"));
    assert_non_null(strstr(err.message, "f16"));
    rig_close(&r);
}

/* ---- against double precision ---- */

static void check_against_reference(kit *k, uint32_t n, const ref_mask *attention) {
    uint32_t vocab = k->n_vocab;
    float *got = kit_floats(n * vocab);
    double *want = calloc((size_t)n * vocab, sizeof *want);
    assert_non_null(want);
    kit_tokens(k, n);
    assert_true(ref_model_logits(k->model->file, attention, k->token, n, want));
    for (uint32_t turn = 0; turn < 2; turn++) {
        double worst = 0;
        kit_empty(k, 0);
        kit_chunks(k, 0, n, turn == 0 ? 1 : 33, turn == 0 ? 32 : 64, got);
        for (size_t i = 0; i < (size_t)n * vocab; i++) {
            double d = fabs((double)got[i] - want[i]);
            worst = d > worst || isnan(d) ? d : worst;
        }
        if (!(worst < 2e-4)) {
            fail_msg("%s, %s: off by %g", k->what, turn == 0 ? "decode" : "prefill", worst);
        }
    }
    free(got), free(want);
}

static void logits_match_double_precision(void **state) {
    kit k;
    const kit_variant *variant = *state;
    for (uint32_t m = 0; m < KIT_MODELS; m++) {
        kit_open(&k, variant, m, &(kit_options){.n_slots = 1, .max_rows = 128});
        check_against_reference(&k, 100, &(ref_mask){.window_limit = -1});
        kit_close(&k);
    }
}

/* Sliding windows are full attention with a mask: per layer, as a limit over all layers (long after
 * pages were dropped), and with sinks. */
static void windows_match_a_masked_oracle(void **state) {
    kit k;
    const kit_variant *variant = *state;
    for (uint32_t m = 0; m < KIT_MODELS; m++) {
        kit_open(&k, variant, m,
                 &(kit_options){.n_slots = 1, .max_rows = 128, .window = {20, 70, 3, -1}});
        check_against_reference(&k, 220, &(ref_mask){.window_limit = -1});
        kit_close(&k);
        kit_open(&k, variant, m, &(kit_options){.n_slots = 1, .max_rows = 128, .window_limit = 33});
        check_against_reference(&k, 220, &(ref_mask){.window_limit = 32});
        kit_close(&k);
        kit_open(
            &k, variant, m,
            &(kit_options){
                .n_slots = 1, .max_rows = 128, .window_limit = 65, .set = "attention.mha.sinks=4"});
        check_against_reference(&k, 300, &(ref_mask){.window_limit = 64, .n_sink = 4});
        kit_close(&k);
    }
}

/* What a window cannot see takes no memory: the pool is bounded by the window, not the length. */
static void a_sliding_session_is_small(void **state) {
    kit k;
    kit_open(&k, *state, 0, &(kit_options){.n_slots = 1, .max_rows = 16, .max_positions = 1 << 16});
    uint64_t full = pico_session_kv_bytes(k.session);
    kit_close(&k);
    kit_open(&k, *state, 0,
             &(kit_options){
                 .n_slots = 1, .max_rows = 16, .max_positions = 1 << 16, .window_limit = 128});
    assert_true(pico_session_kv_bytes(k.session) < full / 50);
    kit_close(&k);
}

int main(void) {
    struct CMUnitTest tests[] = {
        cmocka_unit_test(any_schedule_gives_the_same_bits),
        cmocka_unit_test(company_changes_nothing),
        cmocka_unit_test(wants_are_independent),
        cmocka_unit_test(truncation_at_every_offset),
        cmocka_unit_test(random_lives_match_fresh_timelines),
        cmocka_unit_test(random_lives_with_windows),
        cmocka_unit_test(half_precision_pages_obey_the_same_rules),
        cmocka_unit_test(pages_of_integers_obey_the_same_rules),
        cmocka_unit_test(broken_blocks_are_refused),
        cmocka_unit_test(logits_match_double_precision),
        cmocka_unit_test(windows_match_a_masked_oracle),
        cmocka_unit_test(a_sliding_session_is_small),
    };
    return KIT_RUN("session", tests) + KIT_RUN_AVX2("session", tests);
}
