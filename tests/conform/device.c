/* Guarded tensors, random weights and comparisons; see device.h. */
#include "conform/device.h"

#include <math.h>

void dev_open(conform *c, dev *d) {
    memset(d, 0, sizeof *d);
    d->c = c;
    const char *set[CONFORM_SETTINGS + 1] = {0};
    pico_error err = {0};
    memcpy(set, c->set, sizeof set);
    rig_setup setup = {.backend = c->path, .attention = "", .set = set, .n_threads = 2};
    pico_status status = rig_open(&d->r, &setup, &err);
    if (status == PICO_E_UNSUPPORTED || status == PICO_E_DEVICE) {
        conform_skip(c, "%s", err.message);
    }
    CHECK(c, status == PICO_OK, "%s", err.message);
    d->ops = &d->r.backend.loaded->ops.backend;
    d->self = d->r.backend.self;
    d->caps = d->r.device.caps.flags;
}

void dev_reserve(dev *d, uint32_t widest) {
    d->widest = widest;
    d->ran = 0;
    pico_reserve need = {.max_rows = 400,
                         .max_in = widest,
                         .max_out = widest,
                         .max_head = 8,
                         .max_head_dim = 128,
                         .max_positions = 1024,
                         .max_logit_rows = 64,
                         .max_top_k = 64,
                         .max_edits = 256};
    CHECK_OK(d->c, d->ops->reserve(d->self, &need, error), "reserve");
}

/* Nothing may be allocated behind the first op, so the kit reserves again, with nothing queued. */
void dev_before_allocation(dev *d) {
    if (d->ran) {
        dev_sync(d);
        dev_reserve(d, d->widest);
    }
}

/* ---- tensors ---- */

static void write_words(dev *d, pico_buffer *buffer, const void *words, uint64_t n) {
    dev_ok(d, d->ops->buffer_write(d->self, buffer, 0, words, n * 4), "buffer_write");
}

pico_tensor dev_tensor(dev *d, uint32_t dtype, const void *values, int64_t rows, int64_t cols,
                       int64_t gap) {
    CHECK(d->c, d->n_made < DEV_TENSORS, "the kit makes too many tensors");
    uint64_t words = 2 * DEV_GUARD + (uint64_t)(rows * (cols + gap));
    uint32_t *all = conform_alloc(d->c, words, sizeof *all);
    for (uint64_t i = 0; i < words; i++) {
        all[i] = DEV_SENTINEL;
    }
    for (int64_t r = 0; values != NULL && r < rows; r++) {
        memcpy(all + DEV_GUARD + r * (cols + gap), (const uint32_t *)values + r * cols,
               (size_t)cols * sizeof *all);
    }
    pico_buffer *buffer = NULL;
    dev_before_allocation(d);
    CHECK_OK(d->c, d->ops->buffer_alloc(d->self, words * 4, &buffer, error), "buffer_alloc");
    CHECK(d->c, buffer != NULL, "buffer_alloc gives no buffer");
    write_words(d, buffer, all, words);
    free(all);
    pico_tensor tensor = {.buffer = buffer,
                          .offset = DEV_GUARD * 4,
                          .dtype = dtype,
                          .rank = 2,
                          .shape = {rows, cols, 1, 1},
                          .stride = {cols + gap, 1, 1, 1}};
    d->made[d->n_made].words = words;
    d->made[d->n_made++].tensor = tensor;
    return tensor;
}

pico_tensor dev_vector(dev *d, uint32_t dtype, const void *values, int64_t n) {
    pico_tensor tensor = dev_tensor(d, dtype, values, 1, n, 0);
    tensor.rank = 1;
    tensor.shape[0] = n;
    tensor.shape[1] = tensor.stride[0] = 1;
    return tensor;
}

pico_tensor dev_heads(const pico_tensor *matrix, int64_t heads) {
    pico_tensor tensor = *matrix;
    tensor.rank = 3;
    tensor.shape[1] = heads;
    tensor.shape[2] = matrix->shape[1] / heads;
    tensor.stride[1] = tensor.shape[2];
    tensor.stride[2] = 1;
    return tensor;
}

pico_tensor dev_rows(const pico_tensor *tensor, int64_t begin, int64_t n) {
    pico_tensor rows = *tensor;
    rows.offset += (uint64_t)(begin * tensor->stride[0]) * 4;
    rows.shape[0] = n;
    return rows;
}

static void *get(dev *d, const pico_tensor *tensor) {
    int64_t rows = tensor->rank == 1 ? 1 : tensor->shape[0];
    int64_t cols = tensor->rank == 1   ? tensor->shape[0]
                   : tensor->rank == 2 ? tensor->shape[1]
                                       : tensor->shape[1] * tensor->shape[2];
    uint32_t *out = conform_alloc(d->c, (size_t)(rows * cols), sizeof *out);
    for (int64_t r = 0; r < rows; r++) {
        CHECK_OK(d->c,
                 d->ops->buffer_read(d->self, tensor->buffer,
                                     tensor->offset + (uint64_t)(r * tensor->stride[0]) * 4,
                                     out + r * cols, (uint64_t)cols * 4, error),
                 "buffer_read");
    }
    return out;
}

float *dev_get(dev *d, const pico_tensor *tensor) {
    return get(d, tensor);
}

int32_t *dev_get_i32(dev *d, const pico_tensor *tensor) {
    return get(d, tensor);
}

void dev_check_guards(dev *d, const char *what) {
    for (uint32_t i = 0; i < d->n_made; i++) {
        const pico_tensor *t = &d->made[i].tensor;
        uint64_t words = d->made[i].words;
        uint32_t *all = conform_alloc(d->c, words, sizeof *all);
        CHECK_OK(d->c, d->ops->buffer_read(d->self, t->buffer, 0, all, words * 4, error),
                 "buffer_read");
        int64_t cols = t->rank == 1 ? t->shape[0] : t->shape[1];
        int64_t step = t->rank == 1 ? cols : t->stride[0];
        for (uint64_t w = 0; w < words; w++) {
            int64_t at = (int64_t)w - DEV_GUARD;
            int inside = at >= 0 && w < words - DEV_GUARD && (step == 0 || at % step < cols);
            CHECK(d->c, inside || all[w] == DEV_SENTINEL,
                  "%s wrote outside its tensors: word %lld of one with rows %lld apart", what,
                  (long long)at, (long long)step);
        }
        free(all);
    }
}

void dev_reset(dev *d) {
    for (uint32_t i = 0; i < d->n_made; i++) {
        d->ops->buffer_free(d->self, d->made[i].tensor.buffer);
    }
    d->n_made = 0;
}

float *dev_random(dev *d, int64_t n, double spread) {
    float *values = conform_alloc(d->c, (size_t)n, sizeof *values);
    for (int64_t i = 0; i < n; i++) {
        values[i] = (float)(spread * (2 * rig_uniform(&d->c->random) - 1));
    }
    return values;
}

/* ---- weights ---- */

const char *dev_dtype(uint32_t dtype) {
    return pico_dtype_name(dtype);
}

double dev_limit(uint32_t dtype) {
    return dtype >= PICO_DTYPE_F32 && dtype <= PICO_DTYPE_BF16 ? 1e-9 : 2e-4;
}

static uint16_t half_of(dev *d, double low, double high) {
    return ref_to_f16(low + (high - low) * rig_uniform(&d->c->random));
}

static void fill_codes(dev *d, uint32_t dtype, uint8_t *codes, uint64_t bytes) {
    for (uint64_t i = 0; i < bytes; i++) {
        codes[i] = (uint8_t)rig_random(&d->c->random);
    }
    uint64_t block = dtype == PICO_DTYPE_Q8_0 ? 34 : 18;
    for (uint64_t i = 0; i < bytes; i += 4) {
        float value = (float)(2 * rig_uniform(&d->c->random) - 1);
        if (dtype == PICO_DTYPE_F32) {
            memcpy(codes + i, &value, 4);
        }
    }
    for (uint64_t i = 0; i < bytes; i += 2) {
        double value = 2 * rig_uniform(&d->c->random) - 1;
        uint16_t bits = dtype == PICO_DTYPE_F16 ? ref_to_f16(value) : ref_to_bf16(value);
        if (dtype == PICO_DTYPE_F16 || dtype == PICO_DTYPE_BF16) {
            memcpy(codes + i, &bits, 2);
        }
    }
    for (uint64_t i = 0; i < bytes; i += block) {
        uint16_t scale = half_of(d, 0.001, 0.02);
        if (dtype == PICO_DTYPE_Q8_0 || dtype == PICO_DTYPE_Q4_0) {
            memcpy(codes + i, &scale, 2);
        }
    }
    for (uint64_t i = 0; dtype == PICO_DTYPE_I8 && i < bytes; i++) {
        codes[i] = codes[i] == 0x80 ? 0x81 : codes[i]; /* -127..127 */
    }
}

pico_weight_desc dev_weight_desc(dev *d, uint32_t dtype, int64_t rows, int64_t cols, int64_t group,
                                 double **exact) {
    pico_weight_desc desc = {.dtype = dtype, .rows = rows, .cols = cols, .group = group};
    desc.codes_bytes = pico_weight_codes_bytes(dtype, rows, cols);
    desc.n_scales = pico_weight_n_scales(dtype, rows, cols, group);
    uint8_t *codes = conform_alloc(d->c, desc.codes_bytes, 1);
    fill_codes(d, dtype, codes, desc.codes_bytes);
    desc.codes = codes;
    if (desc.n_scales != 0) {
        float *scales = conform_alloc(d->c, desc.n_scales, sizeof *scales);
        for (uint64_t i = 0; i < desc.n_scales; i++) {
            scales[i] = (float)(0.001 + 0.02 * rig_uniform(&d->c->random));
        }
        desc.scales = scales;
        desc.scale_dtype = PICO_DTYPE_F32;
    }
    if (dtype == PICO_DTYPE_NF4) {
        float *book = conform_alloc(d->c, 16, sizeof *book);
        for (int i = 0; i < 16; i++) {
            book[i] = (float)(i - 8) / 8.0f + 0.01f * (float)(i * i % 5);
        }
        desc.codebook = book;
    }
    if (exact != NULL) {
        *exact = conform_alloc(d->c, (size_t)(rows * cols), sizeof **exact);
        ref_weight(&desc, *exact);
    }
    return desc;
}

pico_weight *dev_weight(dev *d, const pico_weight_desc *desc, uint32_t uses) {
    pico_weight *weight = NULL;
    dev_before_allocation(d);
    CHECK_OK(d->c, d->ops->weight_create(d->self, desc, uses, 0, &weight, error), "weight_create");
    CHECK(d->c, weight != NULL, "weight_create gives no weight");
    return weight;
}

/* ---- comparisons ---- */

void dev_near(dev *d, const char *what, const float *got, const double *want, int64_t n,
              double limit) {
    double error = ref_nmse(got, want, n);
    if (!(error <= limit)) {
        int64_t worst = 0;
        for (int64_t i = 0; i < n; i++) {
            double e = fabs((double)got[i] - want[i]);
            worst = e > fabs((double)got[worst] - want[worst]) || isnan(e) ? i : worst;
        }
        conform_fail(d->c, "%s: error %.3g (limit %.3g); value %lld is %.9g, expected %.9g", what,
                     error, limit, (long long)worst, (double)got[worst], want[worst]);
    }
}

void dev_same(dev *d, const char *what, const void *got, const void *want, int64_t n) {
    const uint32_t *a = got, *b = want;
    for (int64_t i = 0; i < n; i++) {
        if (a[i] != b[i]) {
            float x, y;
            memcpy(&x, &a[i], 4);
            memcpy(&y, &b[i], 4);
            conform_fail(d->c, "%s: value %lld of %lld is %.9g (bits %08x), expected %.9g (%08x)",
                         what, (long long)i, (long long)n, (double)x, a[i], (double)y, b[i]);
        }
    }
}

void dev_ok(dev *d, pico_status status, const char *op) {
    CHECK(d->c, status == PICO_OK, "%s fails with %d", op, (int)status);
    d->ran |= strncmp(op, "buffer_", 7) != 0;
}

void dev_sync(dev *d) {
    CHECK_OK(d->c, d->ops->sync(d->self, error), "sync");
}
