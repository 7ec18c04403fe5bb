/* layers: transform */
/*
 * Scores from a text: the heads and neurons that stay are those with the largest mean magnitudes, the
 * layers that go are those that turn the residual stream least, as a slow run of the same text, token
 * by token, finds them; over more than one window, in models with shared KV heads, biases, value
 * embeddings and lambdas. The same text gives the same model, and no model is opened in vain.
 */
#include "formats_support.h"

#include "prune_kit.h"

enum { MAX_LAYER = 8, MAX_WIDTH = 64, N_TEXT = 500 };

/* A file of random weights whose layers put out more or less, and rows of the stream get longer from
 * layer to layer. */
static pico_model_file *model_with_text(uint32_t index) {
    static const float factor[MAX_LAYER] = {0.7f, 3.0f, 1.0f, 2.0f, 0.4f, 1.0f, 1.0f, 1.0f};
    pico_model_file *file = prune_model(index);
    prune_unbalance(file);
    for (uint32_t i = 0; i < file->desc.n_layer; i++) {
        const pico_weight_desc *w = &prune_tensor(file, i, "attn_output.weight")->data;
        for (int64_t j = 0; j < w->rows * w->cols; j++) {
            ((float *)(uintptr_t)w->codes)[j] *= factor[i];
        }
    }
    assert_int_equal(tiny_vocab(file->desc.n_vocab, &file->arena, &file->vocab, NULL), PICO_OK);
    return file;
}

/* More tokens than a context has. */
static char *write_text(void) {
    char *path = temporary_path();
    FILE *file = fopen(path, "wb");
    uint64_t random = 5;
    assert_non_null(file);
    for (int i = 0; i < N_TEXT; i++) {
        (void)fprintf(file, "%c%c", 'a', 'b' + (int)rig_below(&random, 20));
    }
    assert_int_equal(fclose(file), 0);
    return path;
}

/* ---- a slow run ---- */

typedef struct seen {
    double attended[MAX_LAYER][MAX_WIDTH], inner[MAX_LAYER][MAX_WIDTH], turn[MAX_LAYER];
    double stream[MAX_WIDTH];
    uint32_t n;
} seen;

static void watch(void *arg, uint32_t layer, const char *name, const float *rows, uint32_t n,
                  uint32_t width) {
    seen *s = arg;
    double dot = 0, from = 0, to = 0;
    assert_int_equal(n, 1);
    for (uint32_t i = 0; i < width && strcmp(name, "attended") == 0; i++) {
        s->attended[layer][i] += fabs((double)rows[i]);
    }
    for (uint32_t i = 0; i < width && strcmp(name, "ffn_inner") == 0; i++) {
        s->inner[layer][i] += fabs((double)rows[i]);
    }
    if (strcmp(name, "embed") != 0 && strcmp(name, "out") != 0) {
        return;
    }
    for (uint32_t i = 0; i < width; i++) {
        dot += s->stream[i] * (double)rows[i];
        from += s->stream[i] * s->stream[i];
        to += (double)rows[i] * (double)rows[i];
        s->stream[i] = (double)rows[i];
    }
    s->turn[layer] += strcmp(name, "out") == 0 ? 1 - dot / sqrt(from * to) : 0;
    s->n += strcmp(name, "embed") == 0;
}

static void watch_text(uint32_t index, const char *path, seen *s) {
    rig r;
    const rig_setup setup = {.search = PICO_BUILD_DIR "/plugins", .n_threads = 1};
    pico_model_file *file = model_with_text(index);
    const uint32_t context = file->desc.n_ctx_train;
    char *text = NULL;
    uint64_t n_text = 0, n = 0;
    int32_t ids[N_TEXT + 8];
    pico_model *model = NULL;
    pico_session *session = NULL;
    memset(s, 0, sizeof *s);
    assert_int_equal(rig_open(&r, &setup, NULL), PICO_OK);
    assert_int_equal(rig_model_open(&r, file, PICO_DTYPE_F32, &model, NULL), PICO_OK);
    assert_int_equal(pico_file_read(path, 4096, &text, &n_text, NULL), PICO_OK);
    assert_int_equal(
        pico_text_table.encode(model, text, n_text, PICO_TEXT_BOS, ids, N_TEXT + 8, &n, NULL),
        PICO_OK);
    assert_true(n > context && n <= N_TEXT + 8);
    assert_int_equal(pico_session_table.open(model, 1, 0, 1, 1, &session, NULL), PICO_OK);
    assert_int_equal(pico_model_tap(model, watch, s), PICO_OK);
    for (uint64_t i = 0; i < n; i++) {
        const int32_t pos = (int32_t)(i % context);
        const pico_row row = {
            .token = ids[i], .prev = pos == 0 ? -1 : ids[i - 1], .pos = pos, .parent = -1};
        pico_forward_out out;
        assert_int_equal(pico_session_table.truncate(session, 0, (uint32_t)pos, NULL), PICO_OK);
        assert_int_equal(pico_session_table.forward(session, &row, 1, &out, NULL), PICO_OK);
    }
    assert_int_equal(s->n, n);
    pico_session_table.close(session);
    pico_model_close(model);
    free(text);
    rig_close(&r);
}

/* Those of [begin, begin + n) that are left are the best, but for what rounding may exchange. */
static void check_best(const double *score, const int *left, uint32_t begin, uint32_t n) {
    double worst_left = INFINITY, best_gone = 0;
    for (uint32_t i = begin; i < begin + n; i++) {
        worst_left = left[i] ? fmin(worst_left, score[i]) : worst_left;
        best_gone = left[i] ? best_gone : fmax(best_gone, score[i]);
    }
    assert_true(best_gone > 0 && worst_left >= best_gone * (1 - 1e-6));
}

/* ---- tests ---- */

static void keeps_what_the_text_makes_large(void **state) {
    static const struct {
        uint32_t model, group;
        const char *heads;
    } cases[] = {{0, 2, "1.prune.heads=0.5"},
                 {2, 3, "1.prune.heads=0.4"},
                 {3, 6, "1.prune.heads=0.4"},
                 {8, 4, "1.prune.heads=0.5"}};
    const char *path = *state;
    char setting[128];
    static seen s;
    (void)snprintf(setting, sizeof setting, "1.prune.calibration=%s", path);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const uint32_t model = cases[i].model;
        pico_model_file *whole = model_with_text(model), *pruned = model_with_text(model);
        pico_model_file *again = model_with_text(model);
        const char *const *set =
            PRUNE_SETTINGS(cases[i].heads, "1.prune.neurons=0.4", "1.prune.score=activation",
                           "1.prune.neurons_multiple=1", setting);
        watch_text(model, path, &s);
        assert_int_equal(prune_ok(pruned, set), 1);
        assert_int_equal(prune_ok(again, set), 1);
        assert_same_tensors(pruned, again);
        for (uint32_t l = 0; l < whole->desc.n_layer; l++) {
            const pico_layer_desc *d = &whole->desc.layer[l];
            int left[PRUNE_UNITS];
            double head[MAX_WIDTH] = {0};
            for (uint32_t j = 0; j < d->n_head * d->head_dim; j++) {
                head[j / d->head_dim] += s.attended[l][j];
            }
            prune_left(&prune_tensor(whole, l, "attn_q.weight")->data,
                       &prune_tensor(pruned, l, "attn_q.weight")->data, d->head_dim, left);
            for (uint32_t g = 0; g < d->n_head; g += cases[i].group) {
                check_best(head, left, g, cases[i].group);
            }
            prune_left(&prune_tensor(whole, l, "ffn_up.weight")->data,
                       &prune_tensor(pruned, l, "ffn_up.weight")->data, 1, left);
            check_best(s.inner[l], left, 0, d->n_ff);
        }
        pico_model_file_close(whole), pico_model_file_close(pruned), pico_model_file_close(again);
    }
}

static void layers_that_turn_least_go(void **state) {
    static const struct {
        uint32_t model, n_able; /* the first that may go */
    } cases[] = {{0, 2}, {1, 4}, {2, 2}, {3, 3}, {7, 4}};
    const char *path = *state;
    char setting[128];
    static seen s;
    (void)snprintf(setting, sizeof setting, "1.prune.calibration=%s", path);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const uint32_t model = cases[i].model;
        pico_model_file *whole = model_with_text(model), *pruned = model_with_text(model);
        int left[MAX_LAYER] = {0};
        uint32_t at = 0;
        watch_text(model, path, &s);
        assert_int_equal(prune_ok(pruned, PRUNE_SETTINGS("1.prune.layers=0.4",
                                                         "1.prune.score=activation", setting)),
                         1);
        for (uint32_t l = 0; l < whole->desc.n_layer; l++) {
            const pico_file_tensor *a = prune_tensor(whole, l, "attn_k.weight");
            const pico_file_tensor *b = prune_tensor(pruned, at, "attn_k.weight");
            left[l] = b != NULL && memcmp(a->data.codes, b->data.codes, a->bytes) == 0;
            at += left[l] != 0;
        }
        assert_int_equal(at, pruned->desc.n_layer);
        assert_true(at < whole->desc.n_layer);
        check_best(s.turn, left, 0, cases[i].n_able);
        pico_model_file_close(whole), pico_model_file_close(pruned);
    }
}

/* Heads and layers: the text is run before the plan and again before the work. Without ratios, with
 * l1, and where only heads are pooled, it is not run at all. */
static void runs_the_text_where_it_must(void **state) {
    char setting[128];
    (void)snprintf(setting, sizeof setting, "1.prune.calibration=%s", (const char *)*state);
    pico_model_file *file = model_with_text(8);
    assert_int_equal(prune_ok(file, PRUNE_SETTINGS("1.prune.layers=0.2", "1.prune.heads=0.5",
                                                   "1.prune.score=activation", setting)),
                     2);
    assert_int_equal(file->desc.n_layer, 4);
    assert_int_equal(prune_ok(file, PRUNE_SETTINGS("1.prune.score=activation", setting)), 0);
    assert_int_equal(
        prune_ok(file, PRUNE_SETTINGS("1.prune.score=activation", setting, "1.prune.convert=mean")),
        0);
    pico_model_file_close(file);
    /* A model without a tokenizer. */
    file = prune_model(0);
    prune_fails(file, PICO_E_UNSUPPORTED, "[compress.1] prune: ",
                PRUNE_SETTINGS("1.prune.heads=0.5", "1.prune.score=activation", setting));
    pico_model_file_close(file);
}

static int make_text(void **state) {
    *state = write_text();
    return 0;
}

static int remove_text(void **state) {
    (void)unlink(*state);
    free(*state);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(keeps_what_the_text_makes_large),
        cmocka_unit_test(layers_that_turn_least_go),
        cmocka_unit_test(runs_the_text_where_it_must),
    };
    return cmocka_run_group_tests(tests, make_text, remove_text);
}
