/* layers: measure */
/*
 * Two models on one text: every figure against a slow reference that computes it from whole rows of
 * logits in long double, the exact zero of a model against itself, percentiles, vocabularies.
 */
#include "cli_support.h"

#include <math.h>

#include "measure/compare.h"
#include "test_run.h"

enum { CONTEXT = 40, MAX_PREDICTIONS = 400 };

typedef struct rig {
    test_run run; /* run.model: the model under test */
    pico_model *reference;
    pico_tokenizer *tokenizer;
    pico_eval_params params;
    char path[2][64];
} rig;

static int never(void *ctx) {
    (void)ctx;
    return 0;
}

static void no_progress(void *ctx, const char *what, uint64_t done, uint64_t total) {
    (void)ctx;
    (void)what;
    assert_true(done <= total);
}

static pico_model *open_model(rig *r, const char *path) {
    pico_error err = {0};
    pico_model_file *file = NULL;
    pico_model *model;
    test_check(pico_model_file_open(path, NULL, &file, &err), &err);
    test_run_open_model(&r->run, file);
    model = r->run.model;
    r->run.model = NULL;
    return model;
}

/* A model of two layers, and one of n_layer as its reference; all weights are random, and those of
 * equal shape are equal. */
static void rig_open(rig *r, uint32_t n_layer) {
    static unsigned serial;
    pico_error err = {0};
    *r = (rig){0};
    for (uint32_t i = 0; i < 2; i++) {
        pico_layer_desc layer[2];
        pico_model_desc desc = cli_tiny_desc(layer, i == 0 ? 2 : n_layer);
        desc.n_ctx_train = CONTEXT + 30 * i; /* the shorter one counts */
        (void)snprintf(r->path[i], sizeof r->path[i], "/tmp/pico-compare-%ld-%u.gguf",
                       (long)getpid(), serial++);
        cli_make_model(r->path[i], &desc, NULL);
    }
    test_run_open_plugins(&r->run, "");
    r->run.host.progress = no_progress;
    r->run.host.should_stop = never;
    r->reference = open_model(r, r->path[1]);
    r->run.model = open_model(r, r->path[0]);
    test_check(pico_tokenizer_open(&r->run.model->file->vocab, &r->tokenizer, &err), &err);
    r->params = (pico_eval_params){.host = &r->run.host, .ubatch = 16};
}

static void rig_close(rig *r) {
    pico_tokenizer_close(r->tokenizer);
    pico_model_close(r->reference);
    test_run_close(&r->run);
    (void)unlink(r->path[0]);
    (void)unlink(r->path[1]);
}

#define DOCUMENT(text)                                                                             \
    { text, sizeof text - 1 }
static const pico_document documents[] = {
    DOCUMENT("Once upon a time there was a bird."), DOCUMENT("x"),
    DOCUMENT("A document that is longer than the context of either of the two."),
    DOCUMENT("The end \xc3\xa9.")};
enum { N_DOCUMENTS = sizeof documents / sizeof *documents };

static pico_comparison compare(rig *r, pico_model *reference) {
    pico_error err = {0};
    pico_comparison out;
    test_check(pico_compare_documents(r->run.model, reference, r->tokenizer, &r->params, documents,
                                      N_DOCUMENTS, &out, &err),
               &err);
    return out;
}

/* ---- the slow reference ---- */

typedef struct slow {
    uint32_t n;
    long double nll_model[MAX_PREDICTIONS], nll_reference[MAX_PREDICTIONS], kl[MAX_PREDICTIONS],
        difference[MAX_PREDICTIONS], p_diff[MAX_PREDICTIONS], squared[MAX_PREDICTIONS],
        same[MAX_PREDICTIONS];
} slow;

/* All logits of a text, (n, TINY_VOCAB); to be freed. */
static float *logits_of(rig *r, pico_model *model, const int32_t *ids, size_t n) {
    char path[64], *data = NULL;
    uint64_t bytes = 0;
    pico_error err = {0};
    (void)snprintf(path, sizeof path, "/tmp/pico-compare-%ld.logits", (long)getpid());
    test_check(pico_eval_logits(model, &r->params, ids, n, path, &err), &err);
    test_check(pico_file_read(path, 1 << 24, &data, &bytes, &err), &err);
    assert_int_equal(bytes, n * TINY_VOCAB * sizeof(float));
    (void)unlink(path);
    return (float *)(void *)data;
}

static void probabilities(const float *logits, long double p[TINY_VOCAB]) {
    long double sum = 0.0L;
    for (int i = 0; i < TINY_VOCAB; i++) {
        p[i] = expl((long double)logits[i]);
        sum += p[i];
    }
    for (int i = 0; i < TINY_VOCAB; i++) {
        p[i] /= sum;
    }
}

static void add_slow(slow *s, const float *model, const float *reference, int32_t target) {
    long double p[TINY_VOCAB], q[TINY_VOCAB], kl = 0.0L;
    int best_p = 0, best_q = 0;
    uint32_t at = s->n++;
    assert_true(at < MAX_PREDICTIONS);
    probabilities(reference, p);
    probabilities(model, q);
    for (int i = 0; i < TINY_VOCAB; i++) {
        kl += p[i] * logl(p[i] / q[i]);
        best_p = p[i] > p[best_p] ? i : best_p;
        best_q = q[i] > q[best_q] ? i : best_q;
    }
    s->kl[at] = kl;
    s->nll_model[at] = -logl(q[target]);
    s->nll_reference[at] = -logl(p[target]);
    s->difference[at] = s->nll_model[at] - s->nll_reference[at];
    s->p_diff[at] = q[target] - p[target];
    s->squared[at] = s->p_diff[at] * s->p_diff[at];
    s->same[at] = best_p == best_q;
}

static void run_slow(rig *r, slow *s) {
    pico_error err = {0};
    s->n = 0;
    for (uint32_t d = 0; d < N_DOCUMENTS; d++) {
        int32_t *ids = NULL;
        size_t n = 0;
        test_check(pico_tokenizer_encode(r->tokenizer, documents[d].text, documents[d].n,
                                         PICO_ENCODE_BOS, &ids, &n, &err),
                   &err);
        n = n < CONTEXT ? n : CONTEXT;
        float *model = logits_of(r, r->run.model, ids, n);
        float *reference = logits_of(r, r->reference, ids, n);
        for (size_t i = 0; i + 1 < n; i++) {
            add_slow(s, model + i * TINY_VOCAB, reference + i * TINY_VOCAB, ids[i + 1]);
        }
        free(model);
        free(reference);
        free(ids);
    }
}

static long double mean(const long double *values, uint32_t n) {
    long double sum = 0.0L;
    for (uint32_t i = 0; i < n; i++) {
        sum += values[i];
    }
    return sum / n;
}

static long double error_of(const long double *values, uint32_t n) {
    long double centre = mean(values, n), sum = 0.0L;
    for (uint32_t i = 0; i < n; i++) {
        sum += (values[i] - centre) * (values[i] - centre);
    }
    return sqrtl(sum / (n - 1) / n);
}

/* The error of ln(ppl / ppl of the reference) from both variances and the covariance, the way it is
 * usually written down; error_of(difference) is the same. */
static long double error_of_ratio(const slow *s) {
    long double a = mean(s->nll_model, s->n), b = mean(s->nll_reference, s->n), cov = 0.0L;
    long double one = error_of(s->nll_model, s->n), two = error_of(s->nll_reference, s->n);
    for (uint32_t i = 0; i < s->n; i++) {
        cov += (s->nll_model[i] - a) * (s->nll_reference[i] - b);
    }
    return sqrtl(one * one + two * two - 2.0L * cov / (s->n - 1) / s->n);
}

static int ascending(const void *a, const void *b) {
    long double x = *(const long double *)a, y = *(const long double *)b;
    return (x > y) - (x < y);
}

static void near(double got, long double want, double limit) {
    if (!(fabs(got - (double)want) <= limit * fmax(1.0, fabs((double)want)))) {
        fail_msg("%.15g, expected %.15g", got, (double)want);
    }
}

/* Every figure, over documents that are cut and documents of several chunks. */
static void figures_equal_the_slow_reference(void **state) {
    (void)state;
    rig r;
    static slow s;
    rig_open(&r, 1);
    run_slow(&r, &s);
    pico_comparison c = compare(&r, r.reference);
    assert_int_equal(c.model.documents, N_DOCUMENTS);
    assert_int_equal(c.model.n_cut, 1);
    assert_int_equal(c.model.predictions, s.n);
    assert_int_equal(c.reference.predictions, s.n);
    near(c.model.nll_mean, mean(s.nll_model, s.n), 1e-12);
    near(c.reference.nll_mean, mean(s.nll_reference, s.n), 1e-12);
    near(c.model.nll_se, error_of(s.nll_model, s.n), 1e-12);
    near(c.reference.ppl, expl(mean(s.nll_reference, s.n)), 1e-12);
    near(c.ln_ratio, mean(s.difference, s.n), 1e-12);
    near(c.ln_ratio_se, error_of_ratio(&s), 1e-12);
    near(c.ratio, c.model.ppl / c.reference.ppl, 1e-12);
    near(c.ratio_se, c.ratio * c.ln_ratio_se, 1e-12);
    near(c.kl_mean, mean(s.kl, s.n), 1e-12);
    near(c.kl_se, error_of(s.kl, s.n), 1e-12);
    near(c.p_diff_mean, mean(s.p_diff, s.n), 1e-12);
    near(c.p_diff_mean_se, error_of(s.p_diff, s.n), 1e-12);
    near(c.p_diff_rms, sqrtl(mean(s.squared, s.n)), 1e-12);
    near(c.p_diff_rms_se, error_of(s.squared, s.n) / 2.0L / sqrtl(mean(s.squared, s.n)), 1e-12);
    near(c.same_top, mean(s.same, s.n), 1e-12);
    near(c.same_top_se, error_of(s.same, s.n), 1e-12);
    qsort(s.kl, s.n, sizeof *s.kl, ascending);
    near(c.kl_max, s.kl[s.n - 1], 1e-6); /* kept as float */
    near(c.kl_median, (s.kl[(s.n - 1) / 2] + s.kl[s.n / 2]) / 2.0L, 1e-6);
    assert_true(c.kl_median <= c.kl_p99 && c.kl_p99 <= c.kl_p999 && c.kl_p999 <= c.kl_max);
    /* Models that say something different, or all this would show little. */
    assert_true(c.kl_mean > 1e-3 && c.same_top > 0.0 && c.same_top < 1.0 && c.ln_ratio_se > 0.0);
    /* The same whatever the chunks, and the same likelihood as without a reference. */
    r.params.ubatch = 1;
    pico_comparison single = compare(&r, r.reference);
    near(single.kl_mean, c.kl_mean, 1e-6);
    r.params.ubatch = 16;
    pico_eval_result alone;
    pico_error err = {0};
    r.params.context = CONTEXT;
    test_check(pico_eval_documents(r.run.model, r.tokenizer, &r.params, documents, N_DOCUMENTS,
                                   &alone, &err),
               &err);
    assert_memory_equal(&alone, &c.model, sizeof alone);
    rig_close(&r);
}

/* Nothing is lost where nothing changed: as one model on both sides, and as two of the same file. */
static void a_model_equals_itself(void **state) {
    (void)state;
    rig r;
    rig_open(&r, 2);
    for (int twice = 0; twice < 2; twice++) {
        pico_comparison c = compare(&r, twice ? r.reference : r.run.model);
        assert_true(c.model.nll_sum == c.reference.nll_sum && c.model.nll_sum > 0.0);
        assert_true(c.ratio == 1.0 && c.ratio_se == 0.0 && c.ln_ratio == 0.0);
        assert_true(c.kl_mean == 0.0 && c.kl_se == 0.0 && c.kl_max == 0.0 && c.kl_p99 == 0.0);
        assert_true(c.same_top == 1.0 && c.same_top_se == 0.0);
        assert_true(c.p_diff_rms == 0.0 && c.p_diff_rms_se == 0.0 && c.p_diff_mean == 0.0);
    }
    rig_close(&r);
}

/* One row by hand, where exp() of a logit would overflow, and with ties. */
static void rows_are_compared(void **state) {
    (void)state;
    const float one[] = {1000.0f, 1000.0f}, two[] = {-500.0f, -500.0f};
    const float skewed[] = {0.0f, 1.0986123f}; /* 1/4, 3/4 */
    pico_comparison_row row;
    pico_compare_row(one, two, 2, 1, &row);
    assert_true(row.kl == 0.0 && row.same_top == 1);
    near(row.nll_model, logl(2.0L), 1e-12);
    near(row.p_diff, 0.0L, 1e-12);
    pico_compare_row(one, skewed, 2, 1, &row); /* KL(1/4, 3/4 || 1/2, 1/2) */
    near(row.kl, 0.25L * logl(0.5L) + 0.75L * logl(1.5L), 1e-7);
    near(row.p_diff, -0.25L, 1e-7);
    assert_int_equal(row.same_top, 0);
    pico_compare_row(skewed, one, 2, 0, &row); /* and the other way round */
    near(row.kl, 0.5L * logl(2.0L) + 0.5L * logl(2.0L / 3.0L), 1e-7);
    near(row.p_diff, -0.25L, 1e-7);
    const float bad[] = {0.0f, INFINITY};
    pico_compare_row(bad, one, 2, 0, &row);
    assert_false(isfinite(row.nll_model) && isfinite(row.kl));
}

static void percentiles_are_exact(void **state) {
    (void)state;
    const float values[] = {1.0f, 2.0f, 3.0f, 4.0f, 9.0f};
    assert_true(pico_compare_percentile(values, 5, 0.0) == 1.0);
    assert_true(pico_compare_percentile(values, 5, 0.5) == 3.0);
    assert_true(pico_compare_percentile(values, 5, 0.875) == 6.5);
    assert_true(pico_compare_percentile(values, 5, 1.0) == 9.0);
    assert_true(pico_compare_percentile(values, 4, 0.5) == 2.5);
    assert_true(pico_compare_percentile(values, 1, 0.99) == 1.0);
}

static int stop(void *ctx) {
    (void)ctx;
    return 1;
}

static void failures_are_reported(void **state) {
    (void)state;
    const pico_document nothing = {"", 0};
    pico_error err = {0};
    pico_comparison c;
    rig r;
    rig_open(&r, 1);
    assert_int_equal(pico_compare_documents(r.run.model, r.reference, r.tokenizer, &r.params,
                                            &nothing, 1, &c, &err),
                     PICO_E_INVALID);
    assert_non_null(strstr(err.message, "no prediction"));
    r.run.host.should_stop = stop;
    assert_int_equal(pico_compare_documents(r.run.model, r.reference, r.tokenizer, &r.params,
                                            documents, N_DOCUMENTS, &c, &err),
                     PICO_E_CANCELLED);
    rig_close(&r);
}

/* ---- vocabularies ---- */

static pico_status same_vocabulary(rig *r, pico_error *err) {
    return pico_compare_vocabularies(r->run.model, r->tokenizer, r->reference, err);
}

/* The reference's vocabulary is changed behind its back, token by token. */
static void vocabularies_are_compared(void **state) {
    (void)state;
    pico_error err = {0};
    pico_piece piece[TINY_VOCAB];
    rig r;
    rig_open(&r, 1);
    pico_vocab *vocab = &r.reference->file->vocab;
    test_check(same_vocabulary(&r, &err), &err);
    memcpy(piece, vocab->piece, sizeof piece);
    vocab->piece = piece;
    piece[260].text = "<|other|>";
    piece[260].n = 9;
    assert_int_equal(same_vocabulary(&r, &err), PICO_E_INVALID);
    assert_non_null(
        strstr(err.message, "token 260 is \"<|im_end|>\" in the model, \"<|other|>\" in"));
    piece[260].type = PICO_PIECE_NORMAL;
    assert_int_equal(same_vocabulary(&r, &err), PICO_E_INVALID);
    assert_non_null(strstr(err.message, "control token \"<|im_end|>\" in the model, text \"<|oth"));
    piece[20].type = PICO_PIECE_NORMAL; /* the byte 0x11; the first difference is the one shown */
    static const char longer[] = "\xe2\x96\x81the \"long\" one of more bytes than are shown";
    piece[20].text = longer;
    piece[20].n = sizeof longer - 1;
    assert_int_equal(same_vocabulary(&r, &err), PICO_E_INVALID);
    assert_non_null(strstr(err.message, "token 20 is \"\\x11\" in the model, \" the \\x22long"));
    assert_non_null(strstr(err.message, "\"... in the reference"));
    vocab->kind = PICO_VOCAB_NONE; /* then only the number counts */
    test_check(same_vocabulary(&r, &err), &err);
    r.reference->desc.n_vocab--;
    assert_int_equal(same_vocabulary(&r, &err), PICO_E_INVALID);
    assert_non_null(strstr(err.message, "the model has 261 tokens, the reference 260"));
    rig_close(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(figures_equal_the_slow_reference),
        cmocka_unit_test(a_model_equals_itself),
        cmocka_unit_test(rows_are_compared),
        cmocka_unit_test(percentiles_are_exact),
        cmocka_unit_test(failures_are_reported),
        cmocka_unit_test(vocabularies_are_compared),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
