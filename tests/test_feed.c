/* layers: transform */
/*
 * Text through a model: windows of its beginning and pieces that are spread over it show a tap what
 * forward passes one by one show, each part from an empty timeline, in as many rows at a time as were
 * asked for; texts that cannot be cut so are refused, and a run can be stopped.
 */
#include "cli_support.h"

#include "conform/rig.h"

enum { CONTEXT = 40, TEXT = 101, MAX_ROWS = 4096 };

typedef struct seen {
    float sum[MAX_ROWS]; /* of row i of layer 1's output */
    int32_t token[MAX_ROWS];
    uint32_t n, n_hidden, largest;
    uint32_t n_layer;
} seen;

typedef struct context {
    rig r;
    char *folder, text[96], model_path[96];
    pico_model_file *file;
    pico_model *model;
    int32_t id[TEXT]; /* of the text */
    seen fed, run;
} context;

/* The first column of the embedding is the token's number. */
static void look(void *arg, uint32_t layer, const char *name, const float *rows, uint32_t n,
                 uint32_t width) {
    seen *s = arg;
    for (uint32_t i = 0; i < n; i++) {
        const float *row = rows + (size_t)i * width;
        if (layer == 0 && strcmp(name, "embed") == 0) {
            assert_true(s->n + i < MAX_ROWS);
            s->token[s->n + i] = (int32_t)row[0];
        } else if (layer + 1 == s->n_layer && strcmp(name, "out") == 0) {
            s->sum[s->n + i] = row[1] + 3 * row[2] + 7 * row[width - 1];
        }
    }
    if (strcmp(name, "hidden") == 0) {
        s->n_hidden += n;
    } else if (layer + 1 == s->n_layer && strcmp(name, "out") == 0) {
        s->n += n;
        s->largest = n > s->largest ? n : s->largest;
    }
}

static int open_context(void **state) {
    context *c = calloc(1, sizeof *c);
    pico_layer_desc layer[2];
    pico_model_desc desc = cli_tiny_desc(layer, 2);
    const rig_setup setup = {.search = PICO_BUILD_DIR "/plugins"};
    pico_error err = {0};
    char text[TEXT + 1];
    assert_non_null(c);
    desc.n_ctx_train = CONTEXT;
    c->folder = cli_folder();
    (void)snprintf(c->text, sizeof c->text, "%s/text", c->folder);
    (void)snprintf(c->model_path, sizeof c->model_path, "%s/model.gguf", c->folder);
    cli_make_model(c->model_path, &desc, NULL);
    for (size_t i = 0; i < TEXT; i++) {
        text[i] = (char)('!' + i * i % 89);
    }
    cli_write(c->text, text, TEXT);
    assert_int_equal(rig_open(&c->r, &setup, &err), PICO_OK);
    assert_int_equal(pico_model_file_open(c->model_path, NULL, &c->file, &err), PICO_OK);
    for (uint32_t t = 0; t < c->file->n_tensor; t++) {
        pico_file_tensor *tensor = &c->file->tensor[t];
        if (strcmp(tensor->name, "token_embd.weight") == 0) {
            float *w = pico_arena_alloc(&c->file->arena, tensor->bytes, 1);
            assert_non_null(w);
            memcpy(w, tensor->data.codes, tensor->bytes);
            for (int64_t row = 0; row < tensor->data.rows; row++) {
                w[row * tensor->data.cols] = (float)row;
            }
            tensor->data.codes = w;
        }
    }
    const pico_model_params params = {.attention = &c->r.attention.loaded->ops.attention,
                                      .attention_self = c->r.attention.self,
                                      .kv_dtype = PICO_DTYPE_F32};
    if (pico_model_open(&c->r.device, &params, c->file, &c->model, &err) != PICO_OK) {
        fail_msg("%s", err.message);
    }
    uint64_t n = 0;
    assert_int_equal(pico_text_table.encode(c->model, text, TEXT, 0, c->id, TEXT, &n, &err),
                     PICO_OK);
    assert_int_equal(n, TEXT);
    c->fed.n_layer = c->run.n_layer = 2;
    *state = c;
    return 0;
}

static int close_context(void **state) {
    context *c = *state;
    pico_model_close(c->model);
    rig_close(&c->r);
    cli_remove(c->folder);
    free(c->folder);
    free(c);
    return 0;
}

/* One timeline from position 0 on, `rows` at a time. */
static void run_part(context *c, const int32_t *id, uint32_t n, uint32_t rows, uint32_t want) {
    pico_session *session = NULL;
    pico_forward_out out;
    pico_row row[CONTEXT];
    pico_error err = {0};
    assert_int_equal(pico_session_table.open(c->model, 1, 0, CONTEXT, CONTEXT, &session, &err),
                     PICO_OK);
    assert_int_equal(pico_model_tap(c->model, look, &c->run), PICO_OK);
    for (uint32_t at = 0; at < n; at += rows) {
        const uint32_t k = n - at < rows ? n - at : rows;
        for (uint32_t i = 0; i < k; i++) {
            row[i] = (pico_row){.token = id[at + i],
                                .prev = at + i == 0 ? -1 : id[at + i - 1],
                                .pos = (int32_t)(at + i),
                                .parent = (int32_t)i - 1,
                                .want = want};
        }
        assert_int_equal(pico_session_table.forward(session, row, k, &out, &err), PICO_OK);
    }
    (void)pico_model_tap(c->model, NULL, NULL);
    pico_session_table.close(session);
}

static void feed(context *c, const pico_feed *asked) {
    pico_error err = {0};
    if (pico_session_feed(&c->r.host, c->model, asked, &err) != PICO_OK) {
        fail_msg("%s", err.message);
    }
}

static void expect_same(const context *c, uint32_t n) {
    assert_int_equal(c->fed.n, n);
    assert_int_equal(c->run.n, n);
    assert_int_equal(c->fed.n_hidden, c->run.n_hidden);
    assert_memory_equal(c->fed.token, c->run.token, n * sizeof *c->fed.token);
    assert_memory_equal(c->fed.sum, c->run.sum, n * sizeof *c->fed.sum);
}

/* The beginning of the text behind its begin-of-text token, in windows of the trained length; also
 * for a plugin that knows nothing of pieces. */
static void windows_follow_each_other(void **state) {
    context *c = *state;
    int32_t all[TEXT + 1] = {1};
    memcpy(all + 1, c->id, sizeof c->id);
    const pico_feed asked = {.struct_size = offsetof(pico_feed, piece),
                             .path = c->text,
                             .max_tokens = 90,
                             .what = "test",
                             .tap = look,
                             .arg = &c->fed,
                             .piece = 7,
                             .max_rows = 3};
    feed(c, &asked);
    for (uint32_t at = 0; at < 90; at += CONTEXT) {
        run_part(c, all + at, 90 - at < CONTEXT ? 90 - at : (uint32_t)CONTEXT, CONTEXT, 0);
    }
    expect_same(c, 90);
    assert_int_equal(c->fed.largest, CONTEXT);
}

/* Pieces begin evenly over the text, each at position 0 behind the begin-of-text token. */
static void pieces_are_even(void **state) {
    static const struct {
        uint32_t piece, n_piece, max_rows, want, expected;
    } cases[] = {{11, 4, 5, 0, 4},
                 {11, 1, 512, PICO_ROW_HIDDEN, 1},
                 {40, 0, 0, PICO_ROW_HIDDEN, 2},
                 {2, 0, 512, 0, TEXT}};
    context *c = *state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const uint32_t n = cases[i].piece, fresh = n - 1, pieces = cases[i].expected;
        const pico_feed asked = {.struct_size = sizeof asked,
                                 .path = c->text,
                                 .what = "test",
                                 .tap = look,
                                 .arg = &c->fed,
                                 .want = cases[i].want,
                                 .piece = n,
                                 .n_piece = cases[i].n_piece,
                                 .max_rows = cases[i].max_rows};
        c->fed = c->run = (seen){.n_layer = 2};
        feed(c, &asked);
        for (uint32_t p = 0; p < pieces; p++) {
            int32_t id[CONTEXT] = {1};
            memcpy(id + 1, c->id + (pieces < 2 ? 0 : p * (TEXT - fresh) / (pieces - 1)),
                   fresh * sizeof *id);
            run_part(c, id, n, cases[i].max_rows == 0 ? 64 : cases[i].max_rows, cases[i].want);
        }
        expect_same(c, pieces * n);
        assert_int_equal(c->fed.n_hidden, cases[i].want == 0 ? 0 : pieces * n);
        assert_true(c->fed.largest <= (cases[i].max_rows == 0 ? 64u : cases[i].max_rows));
    }
}

static void texts_are_checked(void **state) {
    static const struct {
        const char *path; /* NULL: the text */
        uint32_t piece, n_piece, max_tokens;
        pico_status status;
        const char *says;
    } cases[] = {
        {NULL, 41, 0, 0, PICO_E_INVALID, "trained with 40 positions"},
        {NULL, 11, 11, 0, PICO_E_INVALID,
         "101 tokens, enough for 10 pieces of 10, expected 11; ask for fewer"},
        {NULL, 1, 0, 0, PICO_E_INVALID, "enough for 0 pieces"},
        {NULL, 0, 0, 1, PICO_E_INVALID, "has no text"},
        {"/dev/null", 11, 0, 0, PICO_E_INVALID, "0 tokens"},
        {"/nowhere/text", 11, 0, 0, PICO_E_NOT_FOUND, "/nowhere/text: cannot open: No such file"},
        {"/nowhere/text", 0, 0, 5, PICO_E_NOT_FOUND, "/nowhere/text: cannot open: No such file"},
        {"/tmp", 11, 0, 0, PICO_E_IO, "/tmp"},
    };
    context *c = *state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        pico_error err = {0};
        const pico_feed asked = {.struct_size = sizeof asked,
                                 .path = cases[i].path == NULL ? c->text : cases[i].path,
                                 .max_tokens = cases[i].max_tokens,
                                 .what = "test",
                                 .tap = look,
                                 .arg = &c->fed,
                                 .piece = cases[i].piece,
                                 .n_piece = cases[i].n_piece};
        assert_int_equal(pico_session_feed(&c->r.host, c->model, &asked, &err), cases[i].status);
        assert_contains(err.message, cases[i].says);
        assert_int_equal(c->fed.n, 0);
    }
}

static int stops_at_once(void *ctx) {
    (void)ctx;
    return 1;
}

static void it_can_be_stopped(void **state) {
    context *c = *state;
    pico_host host = c->r.host;
    pico_error err = {0};
    host.should_stop = stops_at_once;
    for (uint32_t piece = 0; piece < 12; piece += 11) {
        const pico_feed asked = {.struct_size = sizeof asked,
                                 .path = c->text,
                                 .max_tokens = 50,
                                 .what = "test",
                                 .tap = look,
                                 .arg = &c->fed,
                                 .piece = piece};
        assert_int_equal(pico_session_feed(&host, c->model, &asked, &err), PICO_E_CANCELLED);
        assert_int_equal(c->fed.n, 0);
    }
}

int main(void) {
#define TEST_IN_CONTEXT(name) cmocka_unit_test_setup_teardown(name, open_context, close_context)
    const struct CMUnitTest tests[] = {
        TEST_IN_CONTEXT(windows_follow_each_other),
        TEST_IN_CONTEXT(pieces_are_even),
        TEST_IN_CONTEXT(texts_are_checked),
        TEST_IN_CONTEXT(it_can_be_stopped),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
