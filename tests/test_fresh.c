/* layers: train */
/*
 * Models that are yet to be trained: the rules that complete a shape, against parameter counts of
 * nanochat's own models; what is refused; and the values that training begins with, generation by
 * generation.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "formats/expect.h"
#include "model/fresh.h"
#include "test_run.h"

/* ---- shapes ---- */

static pico_status count(void *arg, const pico_expected *e) {
    *(uint64_t *)arg += (uint64_t)(e->shape[0] * e->shape[1]);
    return PICO_OK;
}

static uint64_t n_parameters(const pico_fresh *fresh) {
    pico_arena arena = {0};
    pico_error err = {0};
    pico_model_desc desc;
    uint64_t n = 0;
    test_check(pico_fresh_describe(fresh, &arena, &desc, &err), &err);
    test_check(pico_expect_each(&desc, count, &n), &err);
    pico_arena_free(&arena);
    return n;
}

/* What the published models have. */
static void depth_gives_nanochats_models(void **state) {
    (void)state;
    const struct {
        uint32_t generation, n_layer, n_vocab, n_kv_head, n_mtp, n_draft;
        uint64_t n;
    } known[] = {
        {PICO_GENERATION_G0, 12, 65536, 0, 0, 0, 185597952},
        {PICO_GENERATION_G0, 20, 65536, 0, 0, 0, 560988160},
        {PICO_GENERATION_G0, 34, 65536, 0, 0, 0, 2217082880},
        {PICO_GENERATION_G2, 12, 65536, 1, 3, 0, 375128280},
        {PICO_GENERATION_G2, 12, 65536, 1, 3, 4, 476086488},
        {PICO_GENERATION_AUTO, 12, 32768, 0, 0, 0, 286261730},
        {PICO_GENERATION_G4, 20, 32768, 0, 0, 0, 896533746},
        {PICO_GENERATION_G4, 32, 32768, 0, 0, 0, 2818575450},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        const pico_fresh fresh = {.family = "nanochat",
                                  .generation = known[i].generation,
                                  .n_layer = known[i].n_layer,
                                  .n_vocab = known[i].n_vocab,
                                  .n_ctx = 2048,
                                  .n_kv_head = known[i].n_kv_head,
                                  .n_mtp_head = known[i].n_mtp,
                                  .n_draft = known[i].n_draft};
        assert_int_equal(n_parameters(&fresh), known[i].n);
    }
}

static void the_rest_follows_from_few_numbers(void **state) {
    (void)state;
    pico_arena arena = {0};
    pico_error err = {0};
    pico_model_desc desc;
    /* llama2.c's model of 15 million parameters. */
    pico_fresh fresh = {.family = "llama",
                        .n_layer = 6,
                        .n_embd = 288,
                        .n_head = 6,
                        .n_vocab = 32000,
                        .n_ctx = 256};
    fresh.tied = 1;
    test_check(pico_fresh_describe(&fresh, &arena, &desc, &err), &err);
    assert_int_equal(desc.layer[5].n_ff, 768);
    assert_int_equal(desc.layer[0].head_dim, 48);
    assert_int_equal(desc.rope_dim, 48);
    assert_true((desc.flags & PICO_TIED_HEAD) != 0);
    assert_int_equal(n_parameters(&fresh), 15191712);
    /* Widths are rounded up to whole heads, windows repeat, the last layer sees everything. */
    fresh = (pico_fresh){.family = "nanochat",
                         .n_layer = 5,
                         .n_vocab = 500,
                         .n_ctx = 1024,
                         .n_draft = 2,
                         .windows = "SL"};
    test_check(pico_fresh_describe(&fresh, &arena, &desc, &err), &err);
    assert_int_equal(desc.n_embd, 384);
    assert_int_equal(desc.layer[0].n_head, 3);
    assert_int_equal(desc.n_vocab_rows, 512);
    assert_int_equal(desc.draft_hidden, 192);
    const int32_t window[] = {256, 1024, 256, 1024, 1024};
    for (uint32_t i = 0; i < 5; i++) {
        assert_int_equal(desc.layer[i].window, window[i]);
        assert_int_equal(desc.layer[i].n_ff, 4 * 384);
        assert_int_equal(desc.layer[i].has_value_embed, i % 2 == 0);
    }
    assert_int_equal(desc.draft_flags, 0);
    fresh.draft_flags = PICO_DRAFT_SHARED_OUTPUT | PICO_DRAFT_READS_TOKEN;
    test_check(pico_fresh_describe(&fresh, &arena, &desc, &err), &err);
    assert_int_equal(desc.draft_flags, PICO_DRAFT_SHARED_OUTPUT | PICO_DRAFT_READS_TOKEN);
    fresh.n_draft = 0; /* nothing to share with */
    test_check(pico_fresh_describe(&fresh, &arena, &desc, &err), &err);
    assert_int_equal(desc.draft_flags, 0);
    fresh = (pico_fresh){.family = "gpt2", .n_layer = 12, .n_vocab = 50257, .n_ctx = 1024};
    fresh.tied = 1;
    assert_int_equal(n_parameters(&fresh), 124439808);
    pico_arena_free(&arena);
}

static void what_does_not_fit_is_named(void **state) {
    (void)state;
    const struct {
        pico_fresh fresh;
        const char *said;
    } bad[] = {
        {{.family = "llama", .n_layer = 2, .n_vocab = 300, .n_ctx = 64, .n_embd = 100}, "n_head"},
        {{.family = "llama", .n_layer = 2, .n_vocab = 300, .n_ctx = 64, .n_embd = 100, .n_head = 3},
         "3 heads"},
        {{.family = "llama", .n_layer = 2, .n_vocab = 300, .n_ctx = 64, .n_kv_head = 3},
         "KV heads"},
        {{.family = "llama", .n_layer = 2, .n_vocab = 300, .n_ctx = 64, .windows = "S"},
         "nanochat"},
        {{.family = "nanochat", .n_layer = 2, .n_vocab = 300, .n_ctx = 64, .windows = "SX"}, "SX"},
        {{.family = "nanochat", .n_layer = 2, .n_vocab = 300, .n_ctx = 64, .n_draft = 65}, "draft"},
        {{.family = "nanochat",
          .n_layer = 2,
          .n_vocab = 300,
          .n_ctx = 64,
          .n_embd = 16,
          .n_head = 2},
         "smear"},
        {{.family = "nanochat", .n_layer = 2000, .n_vocab = 300, .n_ctx = 64}, "2000 layers"},
        {{.family = "nanochat", .n_layer = 2, .n_vocab = 300}, "context 0"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        pico_model_file *file = NULL;
        pico_error err = {0};
        assert_int_equal(pico_model_fresh(&bad[i].fresh, &file, &err), PICO_E_INVALID);
        assert_null(file);
        if (strstr(err.message, bad[i].said) == NULL) {
            fail_msg("expected \"%s\" in: %s", bad[i].said, err.message);
        }
    }
}

/* ---- first values ---- */

typedef struct moments {
    double mean, deviation, low, high;
    const float *value;
    int64_t n;
} moments;

static moments of(const pico_model_file *file, const char *name) {
    const pico_file_tensor *tensor = pico_model_file_find(file, name);
    if (tensor == NULL) {
        fail_msg("no tensor %s", name);
        return (moments){0};
    }
    moments m = {.low = INFINITY,
                 .high = -INFINITY,
                 .value = tensor->data.codes,
                 .n = tensor->data.rows * tensor->data.cols};
    for (int64_t i = 0; i < m.n; i++) {
        const double x = (double)m.value[i];
        m.mean += x / (double)m.n;
        m.deviation += x * x / (double)m.n;
        m.low = x < m.low ? x : m.low;
        m.high = x > m.high ? x : m.high;
    }
    m.deviation = sqrt(m.deviation - m.mean * m.mean);
    return m;
}

static void assert_normal(const pico_model_file *file, const char *name, double deviation) {
    const moments m = of(file, name);
    assert_true(fabs(m.mean) < 5 * deviation / sqrt((double)m.n));
    assert_true(fabs(m.deviation / deviation - 1) < 5 / sqrt((double)m.n));
}

static void assert_uniform(const pico_model_file *file, const char *name, double low, double high) {
    const moments m = of(file, name);
    const double width = high - low;
    assert_true(m.low >= low && m.high <= high);
    assert_true(m.low < low + 20 * width / (double)m.n && m.high > high - 20 * width / (double)m.n);
    assert_true(fabs(m.deviation / (width / sqrt(12)) - 1) < 5 / sqrt((double)m.n));
}

static void assert_constant(const pico_model_file *file, const char *name, double value) {
    const moments m = of(file, name);
    assert_true(fabs(m.low - value) < 1e-7 && fabs(m.high - value) < 1e-7);
}

static void assert_ramp(const pico_model_file *file, const char *name, double first, double last) {
    const moments m = of(file, name);
    for (int64_t i = 0; i < m.n; i++) {
        const double expected = first + (last - first) * (double)i / (double)(m.n - 1);
        assert_true(fabs((double)m.value[i] - expected) < 1e-6);
    }
}

/* Draws the values of a fresh model and reads them back from a file. */
static pico_model_file *first_values(const pico_fresh *fresh) {
    test_run run;
    pico_error err = {0};
    pico_train *train = NULL;
    pico_model_file *file = NULL, *read = NULL;
    char path[] = "/tmp/pico-fresh-XXXXXX";
    const pico_train_params params = {
        .struct_size = sizeof params, .max_rows = 8, .max_length = 8, .max_logit_rows = 8};
    const int fd = mkstemp(path);
    assert_true(fd >= 0);
    test_run_open_plugins(&run, "");
    test_check(pico_model_fresh(fresh, &file, &err), &err);
    test_run_open_model(&run, file);
    test_check(pico_train_table.open(run.model, &params, &train, &err), &err);
    test_check(pico_train_reset(train, 7, &err), &err);
    test_check(pico_train_write(train, path, &err), &err);
    test_check(pico_model_file_open(path, NULL, &read, &err), &err);
    pico_train_table.close(train);
    test_run_close(&run);
    (void)close(fd);
    (void)unlink(path);
    return read;
}

/* What both generations share. */
static void check_common(const pico_model_file *file, double s) {
    assert_uniform(file, "blk.0.attn_q.weight", -s, s);
    assert_uniform(file, "blk.2.value_embd.weight", -s, s);
    assert_constant(file, "blk.1.attn_output.weight", 0);
    assert_constant(file, "blk.1.ffn_down.weight", 0);
    assert_normal(file, "output.weight", 0.001);
    assert_normal(file, "mtp.1.weight", 0.001);
    assert_normal(file, "draft_fc1.weight", s / sqrt(3));
    assert_normal(file, "draft_token.weight", s / sqrt(3));
    assert_constant(file, "draft_fc2.weight", 0);
}

static void values_begin_as_in_nanochat(void **state) {
    (void)state;
    pico_fresh fresh = {.family = "nanochat",
                        .generation = PICO_GENERATION_G2,
                        .n_layer = 3,
                        .n_embd = 64,
                        .n_head = 2,
                        .n_vocab = 300,
                        .n_ctx = 64,
                        .n_mtp_head = 2,
                        .n_draft = 2,
                        .draft_flags = PICO_DRAFT_READS_TOKEN};
    const double s = sqrt(3) / 8;
    pico_model_file *file = first_values(&fresh);
    check_common(file, s);
    assert_normal(file, "token_embd.weight", 1);
    assert_uniform(file, "blk.0.ffn_up.weight", -s, s);
    assert_constant(file, "blk.2.value_gate.weight", 0);
    assert_constant(file, "resid_lambdas.weight", 1);
    assert_constant(file, "x0_lambdas.weight", 0);
    pico_model_file_close(file);
    fresh.generation = PICO_GENERATION_G4;
    file = first_values(&fresh);
    check_common(file, s);
    assert_normal(file, "token_embd.weight", 0.8);
    assert_uniform(file, "blk.0.ffn_up.weight", -0.4 * s, 0.4 * s);
    assert_uniform(file, "blk.2.value_gate.weight", 0, 0.02);
    assert_uniform(file, "smear_gate.weight", 0, 0.02);
    assert_constant(file, "smear_lambda.weight", 0);
    assert_constant(file, "backout_lambda.weight", 0.2);
    assert_ramp(file, "resid_lambdas.weight", 1.15, 1.05);
    assert_ramp(file, "x0_lambdas.weight", 0.2, 0.05);
    pico_model_file_close(file);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(depth_gives_nanochats_models),
        cmocka_unit_test(the_rest_follows_from_few_numbers),
        cmocka_unit_test(what_does_not_fit_is_named),
        cmocka_unit_test(values_begin_as_in_nanochat),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
