/*
 * Models with random weights, for measuring speed and for tests: any shape that a description can
 * say. The weights are a pure function of seed, tensor, row and column, made straight in the layout
 * that was asked for. It promises finite activations and logits that differ from token to token,
 * not sense.
 *
 * All tensors lie in one anonymous mapping, which the file owns as it would own a mapped file.
 */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "formats/expect.h"
#include "host/host.h"
#include "model/model.h"
#include "util/checked.h"
#include "util/half.h"

/* ---- random numbers ---- */

/* Standard normal values to choose from: a weight is one of them times the tensor's deviation. One
 * table and one cheap hash per weight make gigabytes of weights a matter of seconds. */
enum { N_NORMAL = 4096 };

static void fill_normals(uint64_t seed, float normal[N_NORMAL]) {
    const pico_random_key key = {.seed = seed, .purpose = PICO_RANDOM_PLUGIN};
    double sum = 0.0;
    for (uint32_t i = 0; i < N_NORMAL; i += 2) { /* +x and -x: the mean is exactly 0 */
        double radius = sqrt(-2.0 * log(pico_random_uniform(&key, i)));
        double x = radius * cos(2.0 * 3.14159265358979323846 * pico_random_uniform(&key, i + 1));
        normal[i] = (float)x;
        normal[i + 1] = -normal[i];
        sum += 2.0 * x * x;
    }
    double scale = sqrt(N_NORMAL / sum);
    for (uint32_t i = 0; i < N_NORMAL; i++) {
        normal[i] *= (float)scale;
    }
}

static uint64_t mix64(uint64_t x) {
    x = (x ^ (x >> 32)) * 0xd6e8feb86659fd93u;
    x = (x ^ (x >> 32)) * 0xd6e8feb86659fd93u;
    return x ^ (x >> 32);
}

/* One row of weights: two values from each 64-bit hash of (key, column pair). */
static void random_row(uint64_t key, const float table[N_NORMAL], int64_t cols, float *out) {
    for (int64_t j = 0; j < cols; j += 2) {
        uint64_t x = (key + (uint64_t)j) * 0x9e3779b97f4a7c15u;
        x = (x ^ (x >> 32)) * 0xd6e8feb86659fd93u;
        out[j] = table[x >> 52];
        if (j + 1 < cols) {
            out[j + 1] = table[(x >> 40) & (N_NORMAL - 1)];
        }
    }
}

/* ---- layouts ---- */

static float largest(const float *x, int64_t n) {
    float most = 0.0f;
    for (int64_t j = 0; j < n; j++) {
        float magnitude = fabsf(x[j]);
        most = magnitude > most ? magnitude : most;
    }
    return most;
}

static int round_to_int(float x) {
    return (int)(x + (x < 0.0f ? -0.5f : 0.5f));
}

/* Codes -127 .. 127; returns the scale. */
static float encode_i8(const float *x, int64_t n, int8_t *codes) {
    float scale = largest(x, n) / 127.0f;
    float inverse = scale > 0.0f ? 1.0f / scale : 0.0f;
    for (int64_t j = 0; j < n; j++) {
        codes[j] = (int8_t)round_to_int(x[j] * inverse);
    }
    return scale;
}

static void encode_q8_0(const float *x, int64_t cols, unsigned char *out) {
    for (int64_t j = 0; j < cols; j += 32, out += 34) {
        int8_t codes[32];
        uint16_t half = pico_f16_of_f32(encode_i8(x + j, 32, codes));
        memcpy(out, &half, sizeof half);
        memcpy(out + 2, codes, sizeof codes);
    }
}

/* As ggml: the value of largest magnitude gets code 0, which stands for -8. */
static void encode_q4_0(const float *x, int64_t cols, unsigned char *out) {
    for (int64_t j = 0; j < cols; j += 32, out += 18) {
        float most = 0.0f;
        for (int64_t i = j; i < j + 32; i++) {
            most = fabsf(x[i]) > fabsf(most) ? x[i] : most;
        }
        float scale = most / -8.0f, inverse = scale != 0.0f ? 1.0f / scale : 0.0f;
        uint16_t half = pico_f16_of_f32(scale);
        memcpy(out, &half, sizeof half);
        for (int64_t i = 0; i < 16; i++) {
            int low = (int)(x[j + i] * inverse + 8.5f),
                high = (int)(x[j + i + 16] * inverse + 8.5f);
            low = low > 15 ? 15 : low;
            high = high > 15 ? 15 : high;
            out[2 + i] = (unsigned char)(low | high << 4);
        }
    }
}

static void encode_16(uint32_t dtype, const float *x, int64_t cols, unsigned char *out) {
    for (int64_t j = 0; j < cols; j++) {
        uint16_t half = dtype == PICO_DTYPE_F16 ? pico_f16_of_f32(x[j]) : pico_bf16_of_f32(x[j]);
        memcpy(out + 2 * j, &half, sizeof half);
    }
}

/* ---- tensors ---- */

typedef struct builder {
    pico_model_file *file;
    uint32_t dtype; /* of the matrices */
    uint64_t seed;
    uint64_t bytes; /* of the mapping, used so far */
    uint32_t n;     /* tensors so far */
    int64_t max_cols;
    pico_error *err;
    float *row;    /* (max_cols) */
    float *table;  /* (N_NORMAL) times the deviation of the tensor */
    float *normal; /* (N_NORMAL) */
} builder;

static int ends_with(const char *name, const char *tail) {
    size_t n = strlen(name), m = strlen(tail);
    return n >= m && strcmp(name + n - m, tail) == 0;
}

static uint32_t dtype_of(const builder *build, const pico_expected *e) {
    /* Vectors and the table of positions are small and looked up, not multiplied. */
    int small = e->rank == 1 || strcmp(e->name, "position_embd.weight") == 0;
    return small ? (uint32_t)PICO_DTYPE_F32 : build->dtype;
}

static pico_status count_tensor(void *arg, const pico_expected *e) {
    builder *build = arg;
    (void)e;
    build->n++;
    return PICO_OK;
}

/* Reserves a tensor's place in the mapping: offsets now, pointers when the mapping exists. */
static pico_status plan_tensor(void *arg, const pico_expected *e) {
    builder *build = arg;
    pico_file_tensor *tensor = &build->file->tensor[build->n++];
    pico_weight_desc *data = &tensor->data;
    data->dtype = dtype_of(build, e);
    data->rows = e->rank == 1 ? 1 : e->shape[0];
    data->cols = e->rank == 1 ? e->shape[0] : e->shape[1];
    data->codes_bytes = pico_weight_codes_bytes(data->dtype, data->rows, data->cols);
    if (data->codes_bytes == 0) {
        return pico_fail(build->err, PICO_E_INVALID,
                         "tensor %s has rows of %lld values, which %s cannot store (it needs a "
                         "multiple of 32); choose I8, which takes any width",
                         e->name, (long long)data->cols, pico_dtype_name(data->dtype));
    }
    if (data->dtype == PICO_DTYPE_I8) {
        data->group = data->cols;
        data->scale_dtype = PICO_DTYPE_F32;
        data->n_scales = (uint64_t)data->rows;
    }
    tensor->name = pico_arena_strdup(&build->file->arena, e->name);
    tensor->rank = e->rank;
    memcpy(tensor->shape, e->shape, sizeof tensor->shape);
    tensor->bytes = data->codes_bytes + 4 * data->n_scales;
    build->max_cols = data->cols > build->max_cols ? data->cols : build->max_cols;
    uint64_t end;
    if (tensor->name == NULL || !pico_checked_add(build->bytes, tensor->bytes + 4, &end) ||
        !pico_checked_align(end, 64, &build->bytes)) {
        return pico_fail(build->err, PICO_E_NOMEM, "a synthetic model of this size does not fit");
    }
    return PICO_OK;
}

/* Deviation of a tensor's values. Products keep the size of their input; the two that are added to
 * the residual stream share the growth among the layers. */
static double deviation_of(const pico_model_file *file, const pico_file_tensor *tensor) {
    double scale = 1.0 / sqrt((double)tensor->data.cols);
    if (tensor->rank == 1) {
        return 0.02;
    }
    if (ends_with(tensor->name, "attn_output.weight") ||
        ends_with(tensor->name, "ffn_down.weight")) {
        scale /= sqrt(2.0 * file->desc.n_layer);
    }
    return scale;
}

/* What a vector's values scatter around. */
static float centre_of(const pico_file_tensor *tensor) {
    int around_one =
        ends_with(tensor->name, "norm.weight") || strcmp(tensor->name, "resid_lambdas.weight") == 0;
    return around_one ? 1.0f : 0.0f;
}

static void fill_tensor(builder *build, uint32_t index, unsigned char *at) {
    pico_file_tensor *tensor = &build->file->tensor[index];
    pico_weight_desc *data = &tensor->data;
    uint64_t row_bytes = data->codes_bytes / (uint64_t)data->rows;
    unsigned char *scales = at + ((data->codes_bytes + 3) & ~(uint64_t)3);
    float deviation = (float)deviation_of(build->file, tensor), centre = centre_of(tensor);
    data->codes = at;
    data->scales = data->n_scales == 0 ? NULL : scales;
    for (uint32_t i = 0; i < N_NORMAL; i++) {
        build->table[i] = centre + deviation * build->normal[i];
    }
    uint64_t key = mix64(build->seed ^ mix64(index + 1));
    for (int64_t r = 0; r < data->rows; r++) {
        unsigned char *out = at + (uint64_t)r * row_bytes;
        int plain = data->dtype == PICO_DTYPE_F32;
        float *row = plain ? (float *)(void *)out : build->row;
        random_row(mix64(key + (uint64_t)r), build->table, data->cols, row);
        if (data->dtype == PICO_DTYPE_F16 || data->dtype == PICO_DTYPE_BF16) {
            encode_16(data->dtype, row, data->cols, out);
        } else if (data->dtype == PICO_DTYPE_Q8_0) {
            encode_q8_0(row, data->cols, out);
        } else if (data->dtype == PICO_DTYPE_Q4_0) {
            encode_q4_0(row, data->cols, out);
        } else if (data->dtype == PICO_DTYPE_I8) {
            float scale = encode_i8(row, data->cols, (int8_t *)out);
            memcpy(scales + 4 * r, &scale, sizeof scale);
        }
    }
}

/* ---- the model ---- */

static int dtype_is_known(uint32_t dtype) {
    return dtype == PICO_DTYPE_F32 || dtype == PICO_DTYPE_F16 || dtype == PICO_DTYPE_BF16 ||
           dtype == PICO_DTYPE_Q8_0 || dtype == PICO_DTYPE_Q4_0 || dtype == PICO_DTYPE_I8;
}

static pico_status copy_description(pico_model_file *file, const pico_model_desc *desc,
                                    pico_error *err) {
    pico_layer_desc *layer = pico_arena_alloc(&file->arena, desc->n_layer, sizeof *layer);
    if (layer == NULL) {
        return pico_fail(err, PICO_E_NOMEM, "out of memory");
    }
    int32_t *draft_vocab = pico_arena_alloc(&file->arena, desc->n_draft_vocab, sizeof *draft_vocab);
    if (draft_vocab == NULL) {
        return pico_fail(err, PICO_E_NOMEM, "out of memory");
    }
    memcpy(layer, desc->layer, desc->n_layer * sizeof *layer);
    for (uint32_t i = 0; i < desc->n_draft_vocab; i++) {
        draft_vocab[i] = desc->draft_vocab[i];
    }
    file->desc = *desc;
    file->desc.layer = layer;
    file->desc.draft_vocab = draft_vocab;
    file->format = PICO_FORMAT_MEMORY;
    file->format_name = "synthetic";
    file->path = "(synthetic)";
    file->vocab = (pico_vocab){
        .kind = PICO_VOCAB_NONE, .bos = -1, .eos = -1, .unk = -1, .pad = -1, .eot = -1};
    return PICO_OK;
}

static pico_status plan_tensors(builder *build, const pico_model_desc *desc) {
    pico_status status = pico_expect_each(desc, count_tensor, build);
    build->file->n_tensor = build->n;
    build->file->tensor =
        pico_arena_alloc(&build->file->arena, build->n, sizeof *build->file->tensor);
    if (build->file->tensor == NULL) {
        return pico_fail(build->err, PICO_E_NOMEM, "out of memory");
    }
    build->n = 0;
    return status == PICO_OK ? pico_expect_each(desc, plan_tensor, build) : status;
}

static pico_status fill_tensors(builder *build) {
    pico_model_file *file = build->file;
    pico_status status = PICO_OK;
    build->row = malloc((size_t)build->max_cols * sizeof *build->row);
    build->table = malloc(N_NORMAL * sizeof *build->table);
    build->normal = malloc(N_NORMAL * sizeof *build->normal);
    if (build->row == NULL || build->table == NULL || build->normal == NULL) {
        status = pico_fail(build->err, PICO_E_NOMEM, "out of memory");
        goto cleanup;
    }
    /* Populated at once: a page fault for each 4 KB would take longer than the weights themselves.
     */
    uint64_t memory = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
    unsigned char *at = MAP_FAILED;
    errno = ENOMEM;
    if (build->bytes <= memory) {
        at = mmap(NULL, (size_t)build->bytes, PROT_READ | PROT_WRITE,
                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    }
    if (at == MAP_FAILED) {
        status = pico_fail(build->err, PICO_E_NOMEM, "no %llu bytes of memory for the weights: %s",
                           (unsigned long long)build->bytes, strerror(errno));
        goto cleanup;
    }
    file->map = (pico_map){.data = at, .size = build->bytes};
    fill_normals(build->seed, build->normal);
    for (uint32_t i = 0; i < file->n_tensor; i++) {
        fill_tensor(build, i, at);
        at += (file->tensor[i].bytes + 4 + 63) & ~(uint64_t)63;
    }
    /* Read-only from here on, as a mapped file is. */
    (void)mprotect((void *)(uintptr_t)file->map.data, (size_t)file->map.size, PROT_READ);
cleanup:
    free(build->normal);
    free(build->table);
    free(build->row);
    return status;
}

pico_status pico_model_synthetic_from(const pico_model_desc *desc, uint32_t dtype, uint64_t seed,
                                      pico_model_file **out, pico_error *err) {
    *out = NULL;
    if (!dtype_is_known(dtype)) {
        return pico_fail(err, PICO_E_INVALID,
                         "synthetic weights are made as F32, F16, BF16, Q8_0, Q4_0 or I8, not %s",
                         pico_dtype_name(dtype));
    }
    pico_status status = pico_desc_check(desc, err);
    if (status != PICO_OK) {
        return status;
    }
    pico_model_file *file = calloc(1, sizeof *file);
    if (file == NULL) {
        return pico_fail(err, PICO_E_NOMEM, "out of memory");
    }
    builder build = {.file = file, .dtype = dtype, .seed = seed, .err = err};
    status = copy_description(file, desc, err);
    if (status == PICO_OK) {
        status = plan_tensors(&build, desc);
    }
    if (status == PICO_OK) {
        status = fill_tensors(&build);
    }
    if (status != PICO_OK) {
        pico_model_file_close(file);
        return status;
    }
    *out = file;
    return PICO_OK;
}
