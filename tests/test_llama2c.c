/* layers: formats */
/* llama2.c checkpoints and tokenizer.bin: what real files say, and that damaged ones are refused.
 */
#include "formats_support.h"

#include <math.h>

#define STORIES SHARED("data/models/stories260K/")
#define BABY SHARED("data/models/babyllama105/")

/* ---- real files ---- */

/* Version 0: description, and tensors at the places that the format's definition gives. */
static void reads_stories_v0(void **state) {
    (void)state;
    skip_without(STORIES "stories260K.bin");
    pico_model_file *file = open_ok(STORIES "stories260K.bin", NULL);
    const pico_model_desc *d = &file->desc;
    assert_int_equal(d->n_embd, 64);
    assert_int_equal(d->n_layer, 5);
    assert_int_equal(d->n_vocab, 512);
    assert_int_equal(d->n_vocab_rows, 512);
    assert_int_equal(d->n_ctx_train, 512);
    assert_int_equal(d->rope_dim, 8);
    assert_int_equal(d->rope_layout, PICO_ROPE_PAIRS);
    assert_int_equal(d->flags, PICO_NORM_WEIGHT | PICO_FFN_GATED | PICO_TIED_HEAD);
    assert_int_equal(d->layer[4].n_head, 8);
    assert_int_equal(d->layer[4].n_kv_head, 4);
    assert_int_equal(d->layer[4].n_ff, 172);
    assert_int_equal(file->vocab.kind, PICO_VOCAB_NONE);
    assert_null(pico_model_file_find(file, "output.weight"));
    const struct {
        const char *name;
        uint64_t float_offset; /* after the header */
    } places[] = {
        {"token_embd.weight", 0},
        {"blk.0.attn_norm.weight", 512 * 64},
        {"blk.1.attn_q.weight", 512 * 64 + 5 * 64 + 64 * 64},
        {"blk.0.attn_k.weight", 512 * 64 + 5 * 64 + 5 * 64 * 64},
        {"blk.0.ffn_gate.weight", 512 * 64 + 10 * 64 + 10 * 64 * 64 + 10 * 32 * 64},
        {"blk.0.ffn_down.weight", 512 * 64 + 10 * 64 + 10 * 64 * 64 + 10 * 32 * 64 + 5 * 172 * 64},
        {"output_norm.weight", 512 * 64 + 10 * 64 + 10 * 64 * 64 + 10 * 32 * 64 + 15 * 172 * 64},
    };
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        const pico_file_tensor *t = pico_model_file_find(file, places[i].name);
        assert_non_null(t);
        assert_ptr_equal(t->data.codes, file->map.data + 28 + 4 * places[i].float_offset);
    }
    pico_model_file_close(file);
}

/* The same weights in versions 0 and 1 give the same model. */
static void versions_0_and_1_agree(void **state) {
    (void)state;
    skip_without(STORIES "stories260K_v1.bin");
    pico_model_file *a = open_ok(STORIES "stories260K.bin", STORIES "tok512.bin");
    pico_model_file *b = open_ok(STORIES "stories260K_v1.bin", STORIES "tok512.bin");
    assert_same_model(a, b);
    pico_model_file_close(a);
    pico_model_file_close(b);
}

/* Version 2: every int8 weight lies within half a step of the float weight of version 0. */
static void version_2_decodes_to_version_0(void **state) {
    (void)state;
    static const char *const pairs[][2] = {
        {SHARED("fixtures/llama2/tied_q80.bin"), SHARED("fixtures/llama2/tied_v0.bin")},
        {SHARED("fixtures/llama2/untied_q80.bin"), SHARED("fixtures/llama2/untied_v0.bin")},
    };
    skip_without(pairs[0][0]);
    float a[1024], b[1024];
    for (size_t p = 0; p < 2; p++) {
        pico_model_file *q = open_ok(pairs[p][0], NULL), *f = open_ok(pairs[p][1], NULL);
        assert_same_desc(&q->desc, &f->desc);
        assert_int_equal(q->n_tensor, f->n_tensor);
        for (uint32_t i = 0; i < q->n_tensor; i++) {
            const pico_weight_desc *w = &q->tensor[i].data;
            const pico_file_tensor *t = pico_model_file_find(f, q->tensor[i].name);
            assert_non_null(t);
            assert_int_equal(w->input_quant, /* as run.c computes */
                             w->dtype == PICO_DTYPE_I8 ? PICO_INPUT_GROUP : PICO_INPUT_AUTO);
            assert_true(w->cols <= 1024 && w->rows == t->data.rows && w->cols == t->data.cols);
            for (int64_t r = 0; r < w->rows; r++) {
                pico_weight_row_f32(w, r, a);
                pico_weight_row_f32(&t->data, r, b);
                for (int64_t j = 0; j < w->cols; j++) {
                    float step = 0.0f;
                    if (w->dtype == PICO_DTYPE_I8) {
                        assert_int_equal(w->group, 32);
                        step = ((const float *)w->scales)[(r * w->cols + j) / 32];
                    }
                    assert_true(fabsf(a[j] - b[j]) <= 0.5001f * step);
                }
            }
        }
        pico_model_file_close(q);
        pico_model_file_close(f);
    }
}

/* Piece types of the two small vocabularies: with and without byte pieces. */
static void reads_tokenizers(void **state) {
    (void)state;
    skip_without(STORIES "tok512.bin");
    pico_model_file *s = open_ok(STORIES "stories260K.bin", STORIES "tok512.bin");
    pico_model_file *b = open_ok(BABY "babyllama105.bin", BABY "tok105.bin");
    const pico_vocab *v = &s->vocab;
    assert_int_equal(v->kind, PICO_VOCAB_SPM);
    assert_int_equal(v->llama2c, 1);
    assert_int_equal(v->n_piece, 512);
    assert_int_equal(v->bos, 1);
    assert_int_equal(v->eos, 2);
    assert_int_equal(v->add_bos, 1);
    assert_int_equal(v->add_space_prefix, 1);
    for (uint32_t i = 0; i < 512; i++) {
        uint32_t type = i == 0    ? PICO_PIECE_UNKNOWN
                        : i < 3   ? PICO_PIECE_CONTROL
                        : i < 259 ? PICO_PIECE_BYTE
                                  : PICO_PIECE_NORMAL;
        assert_int_equal(v->piece[i].type, type);
    }
    assert_int_equal(v->piece[1].n, 5);
    assert_memory_equal(v->piece[1].text, "\n<s>\n", 5);
    assert_int_equal(b->vocab.piece[3].type, PICO_PIECE_NORMAL);
    assert_memory_equal(b->vocab.piece[3].text, " ", 1);
    pico_model_file_close(s);
    pico_model_file_close(b);
}

/* ---- files made here ---- */

typedef struct image {
    unsigned char data[1 << 16];
    size_t size;
} image;

static void append(image *to, const void *data, size_t n) {
    assert_true(n <= sizeof to->data - to->size);
    memcpy(to->data + to->size, data, n);
    to->size += n;
}

static void append_zeros(image *to, size_t n) {
    assert_true(n <= sizeof to->data - to->size);
    memset(to->data + to->size, 0, n);
    to->size += n;
}

/* dim 8, hidden 16, 1 layer, 2 heads, 1 KV head, 6 tokens, 4 positions; all weights 0. */
static image *make(int version, int tied, int32_t group) {
    image *out = calloc(1, sizeof *out);
    assert_non_null(out);
    const int32_t sizes[7] = {8, 16, 1, 2, 1, version == 0 && !tied ? -6 : 6, 4};
    const uint32_t magic[2] = {0x616b3432, (uint32_t)version};
    const unsigned char shared = (unsigned char)tied;
    size_t norms = 3 * 8, weights = 6 * 8 + 2 * 8 * 8 + 2 * 4 * 8 + 3 * 8 * 16;
    weights += tied ? 0 : 6 * 8;
    if (version != 0) {
        append(out, magic, sizeof magic);
    }
    append(out, sizes, sizeof sizes);
    if (version != 0) {
        append(out, &shared, 1);
        append(out, &group, 4);
        append_zeros(out, 256 - out->size);
    }
    append_zeros(out, norms * 4);
    if (version == 2) {
        append_zeros(out, weights + weights / (size_t)group * 4);
    } else {
        append_zeros(out, weights * 4 + (version == 0 ? 4 * 4 * 4 : 0));
    }
    return out;
}

static void put_i32(image *in, size_t offset, int32_t x) {
    memcpy(in->data + offset, &x, sizeof x);
}

static const struct {
    int version, tied;
    int32_t group;
} kinds[] = {{0, 1, 0}, {0, 0, 0}, {1, 1, 0}, {1, 0, 0}, {2, 1, 8}, {2, 0, 4}};
enum { N_KIND = sizeof kinds / sizeof *kinds };

/* The size must be exact: any truncation and any extra byte is refused, with both sizes named. */
static void size_must_be_exact(void **state) {
    (void)state;
    pico_error err = {0};
    for (size_t k = 0; k < N_KIND; k++) {
        image *in = make(kinds[k].version, kinds[k].tied, kinds[k].group);
        assert_int_equal(parse_bytes(in->data, in->size, &err), PICO_OK);
        for (size_t n = 0; n < in->size; n += n < 300 ? 1 : 13) {
            assert_int_not_equal(parse_bytes(in->data, n, &err), PICO_OK);
        }
        assert_int_equal(parse_bytes(in->data, in->size + 1, &err), PICO_E_CORRUPT);
        char expected[32], found[32];
        (void)snprintf(expected, sizeof expected, "has %zu bytes", in->size);
        (void)snprintf(found, sizeof found, "this file has %zu", in->size + 1);
        assert_non_null(strstr(err.message, expected));
        assert_non_null(strstr(err.message, found));
        free(in);
    }
}

/* No bit of the header can be flipped to anything worse than an error. */
static void survives_bit_flips(void **state) {
    (void)state;
    for (size_t k = 0; k < N_KIND; k++) {
        image *in = make(kinds[k].version, kinds[k].tied, kinds[k].group);
        for (size_t bit = 0; bit < 8 * 48; bit++) {
            in->data[bit / 8] ^= (unsigned char)(1u << bit % 8);
            (void)parse_bytes(in->data, in->size, NULL);
            in->data[bit / 8] ^= (unsigned char)(1u << bit % 8);
        }
        assert_int_equal(parse_bytes(in->data, in->size, NULL), PICO_OK);
        free(in);
    }
}

/* Hostile numbers in each field of the header are refused by name. */
static void refuses_hostile_headers(void **state) {
    (void)state;
    static const int32_t hostile[] = {0, -1, INT32_MIN, INT32_MAX, 1 << 30};
    pico_error err = {0};
    for (size_t field = 0; field < 7; field++) {
        for (size_t i = 0; i < sizeof hostile / sizeof *hostile; i++) {
            image *in = make(1, 1, 0);
            put_i32(in, 8 + 4 * field, hostile[i]);
            assert_int_equal(parse_bytes(in->data, in->size, &err), PICO_E_CORRUPT);
            assert_non_null(strstr(err.message, "header: "));
            free(in);
        }
    }
    const struct {
        size_t offset;
        int32_t value;
        pico_status status;
        const char *says;
    } cases[] = {
        {4, 3, PICO_E_UNSUPPORTED, "version 3"},
        {8 + 12, 3, PICO_E_CORRUPT, "n_heads 3"},
        {36, 2, PICO_E_CORRUPT, "shared_classifier is 2"},
        {37, 16, PICO_E_UNSUPPORTED, "group size 16"},
        {37, 0, PICO_E_UNSUPPORTED, "group size 0"},
        {37, -8, PICO_E_UNSUPPORTED, "group size -8"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        image *in = make(2, 1, 8);
        put_i32(in, cases[i].offset, cases[i].value);
        assert_int_equal(parse_bytes(in->data, in->size, &err), cases[i].status);
        assert_non_null(strstr(err.message, cases[i].says));
        free(in);
    }
}

/* A scale that is no number would make a whole group of weights meaningless. */
static void refuses_infinite_scales(void **state) {
    (void)state;
    pico_error err = {0};
    image *in = make(2, 1, 8);
    put_i32(in, in->size - 4, 0x7f800000); /* the last scale of the last matrix */
    assert_int_equal(parse_bytes(in->data, in->size, &err), PICO_E_CORRUPT);
    assert_non_null(strstr(err.message, "tensor blk.0.ffn_up.weight: scale 15 is inf"));
    free(in);
}

/* ---- tokenizer.bin ---- */

static void append_piece(image *to, float score, int32_t n, const char *text) {
    append(to, &score, 4);
    append(to, &n, 4);
    append(to, text, strlen(text));
}

static pico_status parse_vocab(const image *in, size_t size, uint32_t n_vocab, pico_vocab *vocab,
                               pico_arena *arena, pico_error *err) {
    unsigned char *copy = malloc(size == 0 ? 1 : size);
    assert_non_null(copy);
    memcpy(copy, in->data, size);
    pico_map map = {.data = copy, .size = size};
    pico_status status = pico_llama2c_read_vocab(&map, n_vocab, arena, vocab, err);
    free(copy); /* the pieces are copies */
    return status;
}

static void tokenizer_files(void **state) {
    (void)state;
    static const int32_t longest = 6;
    pico_error err = {0};
    pico_arena arena = {0};
    pico_vocab vocab;
    image *in = calloc(1, sizeof *in);
    assert_non_null(in);
    append(in, &longest, 4);
    append_piece(in, 0.0f, 5, "<unk>");
    append_piece(in, 0.0f, 5, "\n<s>\n");
    append_piece(in, 0.0f, 6, "\n</s>\n");
    append_piece(in, 0.0f, 6, "<0x0a>");
    append_piece(in, -1.0f, 0, "");
    append_piece(in, -2.0f, 6, "<0xzz>");
    assert_int_equal(parse_vocab(in, in->size, 6, &vocab, &arena, &err), PICO_OK);
    assert_int_equal(vocab.piece[3].type, PICO_PIECE_BYTE);
    assert_int_equal(vocab.piece[4].n, 0);
    assert_int_equal(vocab.piece[5].type, PICO_PIECE_NORMAL);
    assert_memory_equal(vocab.piece[2].text, "\n</s>\n", 6);
    for (size_t n = 0; n < in->size; n++) {
        assert_int_equal(parse_vocab(in, n, 6, &vocab, &arena, &err), PICO_E_CORRUPT);
    }
    assert_int_equal(parse_vocab(in, in->size, 5, &vocab, &arena, &err), PICO_E_CORRUPT);
    assert_non_null(strstr(err.message, "14 bytes are left over after the 5 pieces"));
    assert_int_equal(parse_vocab(in, in->size, 7, &vocab, &arena, &err), PICO_E_CORRUPT);
    assert_int_equal(parse_vocab(in, in->size, UINT32_MAX, &vocab, &arena, &err), PICO_E_CORRUPT);
    assert_int_equal(parse_vocab(in, in->size, 0, &vocab, &arena, &err), PICO_E_INVALID);
    const struct {
        size_t offset;
        int32_t value;
        const char *says;
    } cases[] = {
        {0, 0, "max_token_length is 0"},
        {0, -1, "max_token_length is -1"},
        {0, 5, "piece 2"},
        {0, INT32_MAX, "max_token_length"},
        {8, -5, "piece 0 at offset 4 has -5"},
        {8, INT32_MAX, "piece 0"},
        {4, 0x7fc00000, "piece 0"} /* NaN */,
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        image *bad = malloc(sizeof *bad);
        assert_non_null(bad);
        *bad = *in;
        put_i32(bad, cases[i].offset, cases[i].value);
        assert_int_equal(parse_vocab(bad, bad->size, 6, &vocab, &arena, &err), PICO_E_CORRUPT);
        assert_non_null(strstr(err.message, cases[i].says));
        free(bad);
    }
    free(in);
    pico_arena_free(&arena);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_stories_v0),
        cmocka_unit_test(versions_0_and_1_agree),
        cmocka_unit_test(version_2_decodes_to_version_0),
        cmocka_unit_test(reads_tokenizers),
        cmocka_unit_test(size_must_be_exact),
        cmocka_unit_test(survives_bit_flips),
        cmocka_unit_test(refuses_hostile_headers),
        cmocka_unit_test(refuses_infinite_scales),
        cmocka_unit_test(tokenizer_files),
    };
    return cmocka_run_group_tests_name("llama2c", tests, NULL, NULL);
}
