/*
 * Writes a model as GGUF v3: header and infos are put together in memory, tensor data is streamed
 * behind them, and the file appears under its name only when it is complete. A model whose tensors
 * do not fit its description, or whose weights are incomplete, is refused.
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "formats/expect.h"
#include "formats/gguf.h"
#include "util/checked.h"

/* Tensors lie at the format's default alignment, which every tool handles; a filler key brings the
 * first one to a cache line, and with the usual widths the others follow. */
enum { ALIGNMENT = 32, DATA_ALIGNMENT = 64, MAX_PARTS = 8, PIECE_BYTES = 1 << 24 };

/* One tensor of the file; a weight may need several. */
typedef struct part {
    const char *suffix;
    uint32_t type; /* PICO_GGML_x */
    uint32_t rank;
    int64_t shape[4]; /* outermost first */
    const void *data;
    uint64_t bytes;
} part;

static uint32_t ggml_type_of(uint32_t dtype) {
    switch (dtype) {
    case PICO_DTYPE_F16:
        return PICO_GGML_F16;
    case PICO_DTYPE_BF16:
        return PICO_GGML_BF16;
    case PICO_DTYPE_Q8_0:
        return PICO_GGML_Q8_0;
    case PICO_DTYPE_Q4_0:
        return PICO_GGML_Q4_0;
    case PICO_DTYPE_I8:
    case PICO_DTYPE_NF4:
        return PICO_GGML_I8;
    default:
        return PICO_GGML_F32;
    }
}

static int is_split(uint32_t dtype) {
    return dtype == PICO_DTYPE_I8 || dtype == PICO_DTYPE_NF4;
}

static void add_part(part *parts, uint32_t *n, const char *suffix, uint32_t type, int64_t rows,
                     int64_t cols, const void *data, uint64_t element_bytes) {
    parts[(*n)++] =
        (part){.suffix = suffix,
               .type = type,
               .rank = rows == 0 ? 1 : 2,
               .shape = {rows == 0 ? cols : rows, rows == 0 ? 1 : cols, 1, 1},
               .data = data,
               .bytes = (uint64_t)(rows == 0 ? 1 : rows) * (uint64_t)cols * element_bytes};
}

/* The tensors of the file that stand for one weight; returns how many. */
static uint32_t list_parts(const pico_file_tensor *tensor, part parts[MAX_PARTS]) {
    const pico_weight_desc *w = &tensor->data;
    int split = is_split(w->dtype);
    uint32_t n = 1;
    parts[0] = (part){.suffix = split ? ".codes" : "",
                      .type = ggml_type_of(w->dtype),
                      .rank = tensor->rank,
                      .data = w->codes,
                      .bytes = w->codes_bytes};
    memcpy(parts[0].shape, tensor->shape, sizeof parts[0].shape);
    if (w->dtype == PICO_DTYPE_NF4) {
        parts[0].shape[tensor->rank - 1] = (w->cols + 1) / 2;
    }
    if (split) {
        int f16 = w->scale_dtype == PICO_DTYPE_F16;
        int64_t rows = w->group == 0 ? 0 : w->rows;
        int64_t cols = w->group == 0 ? 1 : (int64_t)w->n_scales / w->rows;
        add_part(parts, &n, ".scales", f16 ? PICO_GGML_F16 : PICO_GGML_F32, rows, cols, w->scales,
                 f16 ? 2 : 4);
    }
    if (w->dtype == PICO_DTYPE_NF4) {
        add_part(parts, &n, ".codebook", PICO_GGML_F32, 0, 16, w->codebook, 4);
    }
    if (w->input_scale != NULL) {
        add_part(parts, &n, ".input_scale", PICO_GGML_F32, 0, w->cols, w->input_scale, 4);
    }
    if (w->input_perm != NULL) {
        add_part(parts, &n, ".input_perm", PICO_GGML_I32, 0, w->cols, w->input_perm, 4);
    }
    if (w->n_outlier != 0) {
        add_part(parts, &n, ".outlier_col", PICO_GGML_I32, 0, w->n_outlier, w->outlier_col, 4);
        add_part(parts, &n, ".outlier_value", PICO_GGML_F16, w->rows, w->n_outlier,
                 w->outlier_value, 2);
    }
    assert(n <= MAX_PARTS);
    return n;
}

/* ---- keys ---- */

/* llama.cpp's number for the layout of most weights; -1: it has none. */
static int file_type(const pico_model_file *file) {
    uint64_t n_value[PICO_DTYPE_NF4 + 1] = {0};
    uint32_t dtype = PICO_DTYPE_F32;
    for (uint32_t i = 0; i < file->n_tensor; i++) {
        const pico_weight_desc *w = &file->tensor[i].data;
        n_value[w->dtype] += (uint64_t)w->rows * (uint64_t)w->cols;
    }
    for (uint32_t i = 0; i <= PICO_DTYPE_NF4; i++) {
        dtype = n_value[i] > n_value[dtype] ? i : dtype;
    }
    switch (dtype) {
    case PICO_DTYPE_F32:
        return 0;
    case PICO_DTYPE_F16:
        return 1;
    case PICO_DTYPE_Q4_0:
        return 2;
    case PICO_DTYPE_Q8_0:
        return 7;
    case PICO_DTYPE_BF16:
        return 32;
    default:
        return -1;
    }
}

static int has_blocks(const pico_model_file *file) {
    for (uint32_t i = 0; i < file->n_tensor; i++) {
        uint32_t dtype = file->tensor[i].data.dtype;
        if (dtype == PICO_DTYPE_Q8_0 || dtype == PICO_DTYPE_Q4_0) {
            return 1;
        }
    }
    return 0;
}

static void write_general(pico_gguf_build *build, const pico_model_file *file) {
    static const char prefix[] = "general.";
    int type = file_type(file), has_model = file->desc.n_layer != 0;
    const char *architecture = file->desc.family; /* of a vocabulary: whose it is */
    if (has_model) {
        architecture = pico_gguf_desc_is_llama(&file->desc) ? "llama" : "picochat";
    }
    pico_gguf_key_text(build, prefix, "architecture",
                       architecture[0] == '\0' ? "picochat" : architecture);
    if (file->name != NULL) {
        pico_gguf_key_text(build, prefix, "name", file->name);
    }
    if (has_model && type >= 0) {
        pico_gguf_key_u32(build, prefix, "file_type", (uint32_t)type);
    }
    if (has_blocks(file)) {
        pico_gguf_key_u32(build, prefix, "quantization_version", 2);
    }
}

static void write_quant_keys(pico_gguf_build *build, const pico_model_file *file) {
    char key[128];
    for (uint32_t i = 0; i < file->n_tensor; i++) {
        const pico_file_tensor *tensor = &file->tensor[i];
        uint32_t dtype = tensor->data.dtype, input = tensor->data.input_quant;
        if (input != PICO_INPUT_AUTO) {
            (void)snprintf(key, sizeof key, "%s.input", tensor->name);
            pico_gguf_key_text(build, "picochat.quant.", key, pico_gguf_input_names[input]);
        }
        if (!is_split(dtype)) {
            continue;
        }
        (void)snprintf(key, sizeof key, "%s.layout", tensor->name);
        pico_gguf_key_text(build, "picochat.quant.", key, dtype == PICO_DTYPE_I8 ? "i8" : "nf4");
        (void)snprintf(key, sizeof key, "%s.group", tensor->name);
        pico_gguf_key_u32(build, "picochat.quant.", key, (uint32_t)tensor->data.group);
        if (dtype == PICO_DTYPE_NF4) {
            (void)snprintf(key, sizeof key, "%s.cols", tensor->name);
            pico_gguf_key_u32(build, "picochat.quant.", key, (uint32_t)tensor->data.cols);
        }
    }
}

/* The last key: as many spaces as make the header, `others` bytes beside the keys, end on a cache
 * line. */
static void write_filler(pico_gguf_build *build, uint64_t others) {
    static const char spaces[DATA_ALIGNMENT + 1] =
        "                                                                ";
    enum { KEY_BYTES = 8 + sizeof PICO_GGUF_FILLER - 1 + 4 + 8 };
    uint64_t end = others + build->size + KEY_BYTES;
    uint64_t n = (DATA_ALIGNMENT - end % DATA_ALIGNMENT) % DATA_ALIGNMENT;
    pico_gguf_key_text(build, "", PICO_GGUF_FILLER, spaces + DATA_ALIGNMENT - n);
}

/* ---- tensors ---- */

static uint64_t aligned(uint64_t n) {
    return (n + ALIGNMENT - 1) & ~(uint64_t)(ALIGNMENT - 1);
}

static uint64_t write_infos(pico_gguf_build *build, const pico_model_file *file) {
    uint64_t n_info = 0, offset = 0;
    part parts[MAX_PARTS];
    for (uint32_t i = 0; i < file->n_tensor; i++) {
        uint32_t n = list_parts(&file->tensor[i], parts);
        for (uint32_t j = 0; j < n; j++) {
            const part *p = &parts[j];
            size_t base = strlen(file->tensor[i].name), tail = strlen(p->suffix);
            pico_gguf_put_u64(build, base + tail);
            pico_gguf_put(build, file->tensor[i].name, base);
            pico_gguf_put(build, p->suffix, tail);
            pico_gguf_put_u32(build, p->rank);
            for (uint32_t k = p->rank; k > 0; k--) {
                pico_gguf_put_u64(build, (uint64_t)p->shape[k - 1]);
            }
            pico_gguf_put_u32(build, p->type);
            pico_gguf_put_u64(build, offset);
            offset = aligned(offset + p->bytes);
            n_info++;
        }
    }
    return n_info;
}

/* Tensor data in pieces, between which hooks are asked. */
typedef struct data_sink {
    pico_writer *writer;
    const pico_write_hooks *hooks;
    uint64_t done, total;
} data_sink;

static pico_status write_part(data_sink *sink, const part *p, pico_error *err) {
    const pico_write_hooks *hooks = sink->hooks;
    pico_status status = PICO_OK;
    for (uint64_t at = 0; status == PICO_OK && at < p->bytes;) {
        uint64_t n = p->bytes - at < PIECE_BYTES ? p->bytes - at : (uint64_t)PIECE_BYTES;
        if (hooks->should_stop != NULL && hooks->should_stop(hooks->arg)) {
            return pico_fail(err, PICO_E_CANCELLED, "interrupted");
        }
        status = pico_writer_write(sink->writer, (const unsigned char *)p->data + at, n, err);
        at += n;
        sink->done += n;
        if (status == PICO_OK && hooks->progress != NULL) {
            hooks->progress(hooks->arg, sink->done, sink->total);
        }
    }
    return status;
}

static uint64_t data_bytes(const pico_model_file *file) {
    part parts[MAX_PARTS];
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < file->n_tensor; i++) {
        uint32_t n = list_parts(&file->tensor[i], parts);
        for (uint32_t j = 0; j < n; j++) {
            bytes += parts[j].bytes;
        }
    }
    return bytes;
}

static pico_status write_data(pico_writer *writer, const pico_model_file *file, uint64_t position,
                              const pico_write_hooks *hooks, pico_error *err) {
    data_sink sink = {.writer = writer, .hooks = hooks, .total = data_bytes(file)};
    static const unsigned char zeros[ALIGNMENT] = {0};
    part parts[MAX_PARTS];
    pico_status status = PICO_OK;
    for (uint32_t i = 0; status == PICO_OK && i < file->n_tensor; i++) {
        uint32_t n = list_parts(&file->tensor[i], parts);
        for (uint32_t j = 0; status == PICO_OK && j < n; j++) {
            status = pico_writer_write(writer, zeros, aligned(position) - position, err);
            if (status == PICO_OK) {
                status = write_part(&sink, &parts[j], err);
            }
            position = aligned(position) + parts[j].bytes;
        }
    }
    if (status == PICO_OK && file->n_tensor != 0) { /* readers may expect the last one padded */
        status = pico_writer_write(writer, zeros, aligned(position) - position, err);
    }
    return status;
}

/* Header, keys and infos of a checked file, then its data. */
static pico_status write_file(const pico_model_file *file, const char *path,
                              const pico_write_hooks *hooks, pico_error *err) {
    pico_gguf_build build = {0}, infos = {0};
    pico_writer writer = {0};
    pico_status status = PICO_OK;
    static const uint32_t version = 3;
    uint64_t n_info = write_infos(&infos, file);
    write_general(&build, file);
    if (file->desc.n_layer != 0) {
        pico_gguf_write_desc(&build, &file->desc);
    }
    pico_gguf_write_vocab(&build, &file->vocab);
    write_quant_keys(&build, file);
    write_filler(&build, 4 + sizeof version + sizeof n_info + sizeof build.n_value + infos.size);
    if (build.failed || infos.failed) {
        status = pico_fail(err, PICO_E_NOMEM, "%s: out of memory for the header", path);
        goto cleanup;
    }
    const struct {
        const void *data;
        uint64_t bytes;
    } pieces[] = {
        {"GGUF", 4},
        {&version, sizeof version},
        {&n_info, sizeof n_info},
        {&build.n_value, sizeof build.n_value},
        {build.data, build.size},
        {infos.data, infos.size},
    };
    uint64_t position = 0;
    status = pico_writer_open(&writer, path, err);
    for (size_t i = 0; status == PICO_OK && i < sizeof pieces / sizeof *pieces; i++) {
        status = pico_writer_write(&writer, pieces[i].data, pieces[i].bytes, err);
        position += pieces[i].bytes;
    }
    if (status == PICO_OK) {
        status = write_data(&writer, file, position, hooks, err);
    }
    if (status == PICO_OK) {
        status = pico_writer_commit(&writer, err);
    }
cleanup:
    pico_writer_close(&writer);
    free(infos.data);
    free(build.data);
    return status;
}

pico_status pico_gguf_write(const pico_model_file *file, const char *path, pico_error *err) {
    return pico_gguf_write_with(file, path, NULL, err);
}

pico_status pico_gguf_write_with(const pico_model_file *file, const char *path,
                                 const pico_write_hooks *hooks, pico_error *err) {
    static const pico_write_hooks none = {0};
    pico_model_file ordered = *file; /* only its table of tensors is replaced */
    pico_error inner = {0};
    ordered.arena = (pico_arena){0};
    pico_status status = PICO_OK;
    if (file->desc.n_layer != 0) {
        status = pico_desc_check(&file->desc, &inner);
    } else if (file->n_tensor != 0) {
        status = pico_fail(&inner, PICO_E_INVALID, "tensors without a model description");
    }
    if (status == PICO_OK && file->desc.n_layer != 0) {
        status = pico_expect_match(&ordered, &inner);
    }
    if (status == PICO_OK) {
        status = pico_gguf_check_vocab(file, &inner);
    }
    for (uint32_t i = 0; status == PICO_OK && i < ordered.n_tensor; i++) {
        status = pico_gguf_check_weight(&ordered.tensor[i], &inner);
    }
    if (status == PICO_OK) {
        status = write_file(&ordered, path, hooks == NULL ? &none : hooks, err);
    } else {
        (void)pico_fail(err, status, "cannot write %s: %s", path, inner.message);
    }
    pico_arena_free(&ordered.arena);
    return status;
}
