/* labels: golden */
/*
 * A GPT-2 model that sorts letters, trained elsewhere: every stage that the tap shows agrees with
 * the activations that PyTorch wrote down, for three sequences, and the model sorts. Skipped where
 * the data are not there.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "formats/expect.h"
#include "formats/reader.h"
#include "test_run.h"

#define FOLDER PICO_SHARED_DIR "/data/models/gpt-nano-sort/"

enum { N_LAYER = 3, WIDTH = 48, N_VOCAB = 3, N_CTX = 11, N_SEQUENCE = 3, N_LETTER = 6 };

/* ---- the files: JSON with base64 of float32 ---- */

static int digit_of(char c) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const char *at = c == '\0' ? NULL : strchr(digits, c);
    return at == NULL ? -1 : (int)(at - digits);
}

/* The values of an entry, n of them; malloc-ed. */
static float *values_of(const json_t *root, const char *name, size_t n) {
    const char *text = json_string_value(json_object_get(json_object_get(root, name), "data"));
    assert_non_null(text);
    unsigned char *bytes = malloc(n * 4 + 3);
    size_t used = 0;
    uint32_t bits = 0, n_bits = 0;
    for (; digit_of(*text) >= 0; text++) {
        bits = bits << 6 | (uint32_t)digit_of(*text);
        n_bits += 6;
        if (n_bits >= 8) {
            n_bits -= 8;
            assert_true(used < n * 4);
            bytes[used++] = (unsigned char)(bits >> n_bits);
        }
    }
    assert_int_equal(used, n * 4);
    return (float *)(void *)bytes;
}

static json_t *load(const char *path) {
    json_error_t why;
    if (access(path, R_OK) != 0) {
        print_message("skipped: %s is not there\n", path);
        skip();
    }
    json_t *root = json_load_file(path, 0, &why);
    if (root == NULL) {
        fail_msg("%s: %s", path, why.text);
    }
    return root;
}

/* ---- the model ---- */

/* Rows [begin, begin + rows) of a tensor of the file as a tensor of ours; rows 0: a vector. */
static void put(pico_model_file *file, const json_t *root, const char *from, const char *to,
                size_t begin, size_t rows, size_t cols, size_t all_rows) {
    size_t n = rows == 0 ? cols : rows * cols;
    float *all = values_of(root, from, all_rows * cols);
    float *values = pico_arena_alloc(&file->arena, n, sizeof *values);
    assert_non_null(values);
    memcpy(values, all + begin * cols, n * sizeof *values);
    free(all);
    file->tensor[file->n_tensor++] = (pico_file_tensor){
        .name = pico_arena_strdup(&file->arena, to),
        .rank = rows == 0 ? 1 : 2,
        .shape = {(int64_t)(rows == 0 ? cols : rows), (int64_t)(rows == 0 ? 1 : cols), 1, 1},
        .data = {.codes = values,
                 .codes_bytes = n * 4,
                 .dtype = PICO_DTYPE_F32,
                 .rows = rows == 0 ? 1 : (int64_t)rows,
                 .cols = (int64_t)cols},
        .bytes = n * 4};
}

static void put_layer(pico_model_file *file, const json_t *root, uint32_t i) {
    static const struct {
        const char *from, *to;
        size_t begin, rows, cols, all;
    } parts[] = {
        {"ln_1.weight", "attn_norm.weight", 0, 0, WIDTH, 1},
        {"ln_1.bias", "attn_norm.bias", 0, 0, WIDTH, 1},
        {"attn.c_attn.weight", "attn_q.weight", 0, WIDTH, WIDTH, 3 * WIDTH},
        {"attn.c_attn.weight", "attn_k.weight", WIDTH, WIDTH, WIDTH, 3 * WIDTH},
        {"attn.c_attn.weight", "attn_v.weight", 2 * WIDTH, WIDTH, WIDTH, 3 * WIDTH},
        {"attn.c_attn.bias", "attn_q.bias", 0, 0, WIDTH, 3},
        {"attn.c_attn.bias", "attn_k.bias", 1, 0, WIDTH, 3},
        {"attn.c_attn.bias", "attn_v.bias", 2, 0, WIDTH, 3},
        {"attn.c_proj.weight", "attn_output.weight", 0, WIDTH, WIDTH, WIDTH},
        {"attn.c_proj.bias", "attn_output.bias", 0, 0, WIDTH, 1},
        {"ln_2.weight", "ffn_norm.weight", 0, 0, WIDTH, 1},
        {"ln_2.bias", "ffn_norm.bias", 0, 0, WIDTH, 1},
        {"mlp.c_fc.weight", "ffn_up.weight", 0, 4 * WIDTH, WIDTH, 4 * WIDTH},
        {"mlp.c_fc.bias", "ffn_up.bias", 0, 0, 4 * WIDTH, 1},
        {"mlp.c_proj.weight", "ffn_down.weight", 0, WIDTH, 4 * WIDTH, WIDTH},
        {"mlp.c_proj.bias", "ffn_down.bias", 0, 0, WIDTH, 1},
    };
    for (size_t j = 0; j < sizeof parts / sizeof *parts; j++) {
        char from[64], to[64];
        (void)snprintf(from, sizeof from, "transformer.h.%u.%s", i, parts[j].from);
        (void)snprintf(to, sizeof to, "blk.%u.%s", i, parts[j].to);
        put(file, root, from, to, parts[j].begin, parts[j].rows, parts[j].cols, parts[j].all);
    }
}

static pico_model_file *make_file(void) {
    json_t *root = load(FOLDER "gpt-nano-sort-model.json");
    pico_model_file *file = NULL;
    pico_error err = {0};
    assert_int_equal(pico_model_file_new("gpt-nano-sort", &file, &err), PICO_OK);
    pico_layer_desc *layer = pico_arena_alloc(&file->arena, N_LAYER, sizeof *layer);
    file->tensor = pico_arena_alloc(&file->arena, 64, sizeof *file->tensor);
    assert_true(layer != NULL && file->tensor != NULL);
    for (uint32_t i = 0; i < N_LAYER; i++) {
        layer[i] = (pico_layer_desc){
            .n_head = 3, .n_kv_head = 3, .head_dim = WIDTH / 3, .n_ff = 4 * WIDTH, .window = -1};
        put_layer(file, root, i);
    }
    put(file, root, "transformer.wte.weight", "token_embd.weight", 0, N_VOCAB, WIDTH, N_VOCAB);
    put(file, root, "transformer.wpe.weight", "position_embd.weight", 0, N_CTX, WIDTH, N_CTX);
    put(file, root, "transformer.ln_f.weight", "output_norm.weight", 0, 0, WIDTH, 1);
    put(file, root, "transformer.ln_f.bias", "output_norm.bias", 0, 0, WIDTH, 1);
    put(file, root, "lm_head.weight", "output.weight", 0, N_VOCAB, WIDTH, N_VOCAB);
    json_decref(root);
    file->format = PICO_FORMAT_MEMORY;
    file->format_name = "memory";
    file->desc = (pico_model_desc){.family = "gpt2",
                                   .n_layer = N_LAYER,
                                   .n_embd = WIDTH,
                                   .n_vocab = N_VOCAB,
                                   .n_vocab_rows = N_VOCAB,
                                   .n_ctx_train = N_CTX,
                                   .flags = PICO_BIAS_QKV | PICO_BIAS_OUT | PICO_BIAS_FFN |
                                            PICO_NORM_WEIGHT | PICO_NORM_BIAS,
                                   .norm = PICO_NORM_LAYER,
                                   .norm_eps = 1e-5f,
                                   .pos = PICO_POS_LEARNED,
                                   .act = PICO_ACT_GELU_TANH,
                                   .backout_layer = -1,
                                   .layer = layer};
    if (pico_desc_check(&file->desc, &err) != PICO_OK || pico_expect_match(file, &err) != PICO_OK) {
        fail_msg("%s", err.message);
    }
    return file;
}

static void open_run(test_run *run) {
    pico_model_file *file = make_file();
    test_run_open_plugins(run, "[sampler.standard]\ntemperature = 0\n");
    test_run_open_model(run, file);
}

/* ---- stage by stage ---- */

typedef struct stages {
    const json_t *root;
    uint32_t sequence; /* the one that runs */
    uint32_t n_compared;
    double worst;
} stages;

/* The entry of the file that a stage of the tap must equal; NULL if it has none. */
static const char *entry_of(uint32_t layer, const char *name) {
    static const struct {
        const char *stage, *entry;
        uint32_t layer;
    } known[] = {
        {"embed", "x", 0},      {"attn_norm", "ln1", 0},  {"attended", "y", 0},
        {"ffn_norm", "ln2", 0}, {"ffn_inner", "gelu", 0}, {"out", "block0", 0},
        {"out", "block1", 1},   {"out", "block2", 2},     {"hidden", "ln_f", N_LAYER},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        if (strcmp(known[i].stage, name) == 0 && known[i].layer == layer) {
            return known[i].entry;
        }
    }
    return NULL;
}

static void compare(stages *s, const char *entry, const float *rows, uint32_t n, uint32_t width) {
    float *want = values_of(s->root, entry, (size_t)N_SEQUENCE * N_CTX * width);
    const float *part = want + (size_t)s->sequence * N_CTX * width;
    for (size_t i = 0; i < (size_t)n * width; i++) {
        double d = fabs((double)rows[i] - (double)part[i]);
        s->worst = d > s->worst ? d : s->worst;
        if (!(d < 1e-5)) {
            fail_msg("sequence %u, %s: value %zu is %g, expected %g", s->sequence, entry, i,
                     (double)rows[i], (double)part[i]);
        }
    }
    s->n_compared++;
    free(want);
}

static void see(void *arg, uint32_t layer, const char *name, const float *rows, uint32_t n,
                uint32_t width) {
    const char *entry = entry_of(layer, name);
    if (entry != NULL) {
        compare(arg, entry, rows, n, width);
    }
}

static void stages_match(void **state) {
    (void)state;
    test_run run;
    json_t *root = load(FOLDER "gpt-nano-sort-t0-partials.json");
    stages s = {.root = root};
    float *ids = values_of(root, "idx", (size_t)N_SEQUENCE * N_CTX), logits[N_CTX * N_VOCAB];
    pico_session *session = NULL;
    pico_session_params params = {
        .n_slots = 1, .max_rows = N_CTX, .max_logit_rows = N_CTX, .max_top_k = 1};
    open_run(&run);
    assert_int_equal(pico_session_open(run.model, &params, &session, NULL), PICO_OK);
    assert_int_equal(pico_model_tap(run.model, see, &s), PICO_OK);
    for (s.sequence = 0; s.sequence < N_SEQUENCE; s.sequence++) {
        pico_row rows[N_CTX];
        pico_forward_out out;
        for (int32_t i = 0; i < N_CTX; i++) {
            rows[i] = (pico_row){.token = (int32_t)ids[s.sequence * N_CTX + (uint32_t)i],
                                 .prev = -1,
                                 .pos = i,
                                 .parent = i - 1,
                                 .want = PICO_ROW_LOGITS};
        }
        assert_int_equal(pico_session_forward(session, rows, N_CTX, &out, NULL), PICO_OK);
        assert_int_equal(run.device.ops->buffer_read(run.device.self, out.logits.buffer,
                                                     out.logits.offset, logits, sizeof logits,
                                                     NULL),
                         PICO_OK);
        compare(&s, "lm_head", logits, N_CTX, N_VOCAB);
        assert_int_equal(pico_session_truncate(session, 0, 0, NULL), PICO_OK);
    }
    print_message("compared %u stages, largest difference %.2e\n", s.n_compared, s.worst);
    assert_int_equal(s.n_compared, N_SEQUENCE * 10);
    pico_session_close(session);
    test_run_close(&run);
    free(ids);
    json_decref(root);
}

/* Six letters in, the same six in order out, for all that there are. */
static void it_sorts(void **state) {
    (void)state;
    test_run run;
    open_run(&run);
    pico_decode_params params = {.sampler = &run.sampler.loaded->ops.sampler,
                                 .sampler_self = run.sampler.self,
                                 .decoder = &run.decoder.loaded->ops.decoder,
                                 .decoder_self = run.decoder.self,
                                 .n_slots = 1,
                                 .ubatch = 16,
                                 .repetition = 1};
    pico_decode *decode = NULL;
    assert_int_equal(pico_decode_open(run.model, &params, &decode, NULL), PICO_OK);
    uint32_t n_all = 0, n_right = 0;
    for (uint32_t code = 0; code < 729; code++, n_all++) {
        int32_t letters[N_LETTER], sorted[N_LETTER];
        uint32_t rest = code, count[N_VOCAB] = {0}, at = 0;
        for (uint32_t i = 0; i < N_LETTER; i++, rest /= 3) {
            letters[i] = (int32_t)(rest % 3);
            count[rest % 3]++;
        }
        for (int32_t v = 0; v < N_VOCAB; v++) {
            for (uint32_t i = 0; i < count[v]; i++) {
                sorted[at++] = v;
            }
        }
        pico_request request = {.prompt = letters, .n_prompt = N_LETTER, .max_tokens = N_LETTER};
        assert_int_equal(pico_decode_start(decode, 0, &request, NULL), PICO_OK);
        assert_int_equal(pico_decode_run(decode, NULL, NULL, NULL), PICO_OK);
        pico_slot_state slot = pico_decode_slot(decode, 0);
        assert_int_equal(slot.n_token, 2 * N_LETTER);
        n_right += memcmp(slot.token + N_LETTER, sorted, sizeof sorted) == 0;
    }
    print_message("sorted %u of %u\n", n_right, n_all);
    assert_int_equal(n_right, n_all);
    pico_decode_close(decode);
    test_run_close(&run);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(stages_match), cmocka_unit_test(it_sorts)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
