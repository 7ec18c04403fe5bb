/*
 * What the tests of the file formats share: comparing two models completely, models made in memory
 * from a description, reading from memory, temporary files.
 */
#ifndef PICO_TESTS_FORMATS_SUPPORT_H
#define PICO_TESTS_FORMATS_SUPPORT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "formats/expect.h"
#include "formats/model_file.h"
#include "formats/reader.h"
#include "llama_kit.h"

#define SHARED(path) PICO_SHARED_DIR "/" path

static inline void skip_without(const char *path) {
    if (access(path, R_OK) != 0) {
        print_message("skipped: %s is not there\n", path);
        skip();
    }
}

/* A fixture, from the folder PICOCHAT_FIXTURES (then it must be there), tests/golden or the shared
 * data; skips the test where it is in none. */
typedef struct fixture_path {
    char text[512];
} fixture_path;

static inline const char *find_fixture(fixture_path *out, const char *name) {
    const char *named = getenv("PICOCHAT_FIXTURES");
    const char *const folders[] = {named != NULL ? named : PICO_SOURCE_DIR "/tests/golden",
                                   SHARED("fixtures")};
    for (size_t i = 0; i < (named != NULL ? 1u : 2u); i++) {
        (void)snprintf(out->text, sizeof out->text, "%s/%s", folders[i], name);
        if (access(out->text, R_OK) == 0) {
            return out->text;
        }
    }
    if (named != NULL) {
        fail_msg("%s is not there", out->text);
    }
    skip_without(out->text);
    return out->text;
}

static inline pico_model_file *open_ok(const char *path, const char *tokenizer) {
    pico_error err = {0};
    pico_model_file *file = NULL;
    pico_status status = pico_model_file_open(path, tokenizer, &file, &err);
    if (status != PICO_OK) {
        fail_msg("%s", err.message);
    }
    return file;
}

/* Parses bytes from an exactly sized heap block, so that ASan sees every step beyond the end. */
static inline pico_status parse_bytes(const void *data, size_t size, pico_error *err) {
    pico_model_file *file = NULL;
    unsigned char *copy = malloc(size == 0 ? 1 : size);
    assert_non_null(copy);
    memcpy(copy, data, size);
    pico_source source = {.path = "bytes", .map = {.data = size == 0 ? NULL : copy, .size = size}};
    pico_status status = pico_model_file_parse(&source, NULL, &file, err);
    if (status == PICO_OK) { /* consistent: every tensor can be read to its end */
        for (uint32_t i = 0; i < file->n_tensor; i++) {
            const pico_weight_desc *w = &file->tensor[i].data;
            float *row = malloc((size_t)w->cols * sizeof *row);
            assert_non_null(row);
            pico_weight_row_f32(w, 0, row);
            pico_weight_row_f32(w, w->rows - 1, row);
            free(row);
        }
    }
    pico_model_file_close(file);
    free(copy);
    return status;
}

static inline void assert_same_desc(const pico_model_desc *a, const pico_model_desc *b) {
    assert_string_equal(a->family, b->family);
#define SAME(field) assert_memory_equal(&a->field, &b->field, sizeof a->field)
    SAME(n_layer), SAME(n_embd), SAME(n_vocab), SAME(n_vocab_rows), SAME(n_ctx_train), SAME(flags);
    SAME(norm), SAME(norm_eps), SAME(pos), SAME(rope_layout), SAME(rope_dim), SAME(rope_table);
    SAME(rope_base), SAME(act), SAME(attn_scale), SAME(qk_scale), SAME(logit_softcap);
    SAME(smear_width), SAME(ve_width), SAME(ve_scale), SAME(backout_layer), SAME(n_mtp_head);
    SAME(n_draft), SAME(draft_hidden), SAME(draft_flags), SAME(n_draft_vocab);
#undef SAME
    for (uint32_t i = 0; i < a->n_draft_vocab; i++) {
        assert_int_equal(a->draft_vocab[i], b->draft_vocab[i]);
    }
    for (uint32_t i = 0; i < a->n_layer; i++) { /* no padding in pico_layer_desc */
        assert_memory_equal(&a->layer[i], &b->layer[i], sizeof a->layer[i]);
    }
}

static inline void assert_same_text(const char *a, const char *b) {
    assert_int_equal(a == NULL, b == NULL);
    if (a != NULL) {
        assert_string_equal(a, b);
    }
}

static inline void assert_same_vocab(const pico_vocab *a, const pico_vocab *b) {
    assert_int_equal(a->kind, b->kind);
    assert_int_equal(a->n_piece, b->n_piece);
    assert_int_equal(a->n_merge, b->n_merge);
    for (uint32_t i = 0; i < a->n_piece; i++) {
        assert_int_equal(a->piece[i].n, b->piece[i].n);
        assert_memory_equal(a->piece[i].text, b->piece[i].text, a->piece[i].n);
        assert_int_equal(a->piece[i].type, b->piece[i].type);
        assert_memory_equal(&a->piece[i].score, &b->piece[i].score, sizeof(float));
    }
    for (uint32_t i = 0; i < a->n_merge; i++) {
        assert_int_equal(a->merge[i].n, b->merge[i].n);
        assert_memory_equal(a->merge[i].text, b->merge[i].text, a->merge[i].n);
    }
    assert_same_text(a->pre, b->pre);
    assert_same_text(a->chat_template, b->chat_template);
    const int32_t ids[2][5] = {{a->bos, a->eos, a->unk, a->pad, a->eot},
                               {b->bos, b->eos, b->unk, b->pad, b->eot}};
    assert_memory_equal(ids[0], ids[1], sizeof ids[0]);
    assert_int_equal(a->add_bos, b->add_bos);
    assert_int_equal(a->add_eos, b->add_eos);
    assert_int_equal(a->add_space_prefix, b->add_space_prefix);
    assert_int_equal(a->llama2c, b->llama2c);
}

static inline void assert_same_bytes(const void *a, const void *b, uint64_t n) {
    assert_int_equal(a == NULL, b == NULL);
    if (a != NULL) {
        assert_memory_equal(a, b, (size_t)n);
    }
}

/* Names, shapes, layout and every byte; the order may differ. */
static inline void assert_same_tensors(const pico_model_file *a, const pico_model_file *b) {
    assert_int_equal(a->n_tensor, b->n_tensor);
    for (uint32_t i = 0; i < a->n_tensor; i++) {
        const pico_file_tensor *s = &a->tensor[i], *t = pico_model_file_find(b, s->name);
        assert_non_null(t);
        assert_int_equal(s->rank, t->rank);
        assert_memory_equal(s->shape, t->shape, sizeof s->shape);
        assert_int_equal(s->bytes, t->bytes);
        const pico_weight_desc *v = &s->data, *w = &t->data;
        assert_int_equal(v->dtype, w->dtype);
        assert_int_equal(v->rows, w->rows);
        assert_int_equal(v->cols, w->cols);
        assert_int_equal(v->group, w->group);
        assert_int_equal(v->n_scales, w->n_scales);
        assert_int_equal(v->scale_dtype, w->scale_dtype);
        assert_int_equal(v->n_outlier, w->n_outlier);
        assert_int_equal(v->input_quant, w->input_quant);
        assert_int_equal(v->codes_bytes, w->codes_bytes);
        uint64_t cols = (uint64_t)v->cols, outliers = (uint64_t)v->n_outlier;
        assert_same_bytes(v->codes, w->codes, v->codes_bytes);
        assert_same_bytes(v->scales, w->scales,
                          v->n_scales * (v->scale_dtype == PICO_DTYPE_F16 ? 2u : 4u));
        assert_same_bytes(v->codebook, w->codebook, 64);
        assert_same_bytes(v->input_scale, w->input_scale, 4 * cols);
        assert_same_bytes(v->input_perm, w->input_perm, 4 * cols);
        assert_same_bytes(v->outlier_col, w->outlier_col, 4 * outliers);
        assert_same_bytes(v->outlier_value, w->outlier_value, 2 * outliers * (uint64_t)v->rows);
    }
}

static inline void assert_same_model(const pico_model_file *a, const pico_model_file *b) {
    assert_same_desc(&a->desc, &b->desc);
    assert_same_vocab(&a->vocab, &b->vocab);
    assert_same_tensors(a, b);
    assert_same_text(a->name, b->name);
}

/* A path for a file that does not exist yet; the test removes it. */
static inline char *temporary_path(void) {
    char *path = strdup("/tmp/picochat-test-XXXXXX");
    assert_non_null(path);
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    (void)close(fd);
    return path;
}

/* Writes file as GGUF, reads it back and compares; *out (may be NULL) gets the result. */
static inline void assert_survives_gguf(const pico_model_file *file, pico_model_file **out) {
    pico_error err = {0};
    char *path = temporary_path();
    if (pico_gguf_write(file, path, &err) != PICO_OK) {
        fail_msg("%s", err.message);
    }
    pico_model_file *back = open_ok(path, NULL);
    assert_same_model(file, back);
    assert_string_equal(back->format_name, "GGUF v3");
    (void)unlink(path);
    free(path);
    if (out != NULL) {
        *out = back;
    } else {
        pico_model_file_close(back);
    }
}

static inline pico_status count_tensor(void *arg, const pico_expected *e) {
    (void)e;
    ++*(uint32_t *)arg;
    return PICO_OK;
}

static inline pico_status make_tensor(void *arg, const pico_expected *e) {
    pico_model_file *file = arg;
    pico_file_tensor *t = &file->tensor[file->n_tensor++];
    int64_t rows = e->rank == 1 ? 1 : e->shape[0], cols = e->shape[e->rank - 1];
    float *values = pico_arena_alloc(&file->arena, (size_t)(rows * cols), sizeof *values);
    assert_non_null(values);
    for (int64_t i = 0; i < rows * cols; i++) {
        values[i] = (float)((i * 7 + file->n_tensor) % 31) / 16.0f - 1.0f;
    }
    *t = (pico_file_tensor){.name = pico_arena_strdup(&file->arena, e->name),
                            .rank = e->rank,
                            .data = {.codes = values,
                                     .codes_bytes = (uint64_t)(rows * cols) * 4,
                                     .dtype = PICO_DTYPE_F32,
                                     .rows = rows,
                                     .cols = cols},
                            .bytes = (uint64_t)(rows * cols) * 4};
    memcpy(t->shape, e->shape, sizeof t->shape);
    return PICO_OK;
}

/* A model in memory with all tensors that desc demands, in F32. */
static inline pico_model_file *model_in_memory(const pico_model_desc *desc) {
    pico_model_file *file = calloc(1, sizeof *file);
    assert_non_null(file);
    uint32_t n = 0;
    assert_int_equal(pico_desc_check(desc, NULL), PICO_OK);
    assert_int_equal(pico_expect_each(desc, count_tensor, &n), PICO_OK);
    file->format = PICO_FORMAT_MEMORY;
    file->desc = *desc;
    file->vocab = (pico_vocab){.bos = -1, .eos = -1, .unk = -1, .pad = -1, .eot = -1};
    file->tensor = pico_arena_alloc(&file->arena, n, sizeof *file->tensor);
    assert_non_null(file->tensor);
    assert_int_equal(pico_expect_each(desc, make_tensor, file), PICO_OK);
    assert_int_equal(file->n_tensor, n);
    return file;
}

/* CRC-32 as zip has it, of what comes after what `crc` is of. */
static inline uint32_t crc32_of(uint32_t crc, const void *data, uint64_t n) {
    const unsigned char *bytes = data;
    crc = ~crc;
    for (uint64_t i = 0; i < n; i++) {
        crc ^= bytes[i];
        for (int bit = 0; bit < 8; bit++) {
            crc = crc >> 1 ^ (0xedb88320u & (0u - (crc & 1)));
        }
    }
    return ~crc;
}

#endif
