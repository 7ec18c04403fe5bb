/*
 * A compressor for tests: rounds the feed-forward matrices to BF16 and leaves the rest alone. With
 * `lie` it breaks its plan in one way, so that tests can show that this is noticed; with `fail` its work
 * fails for that reason.
 */
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "plugin.h"

enum { LIE_NONE = 0, LIE_PLAN = 1, LIE_TOUCH = 2, LIE_MOOD = 3 };

typedef struct toy {
    uint32_t lie, fail;
    uint32_t n_plan;
    const pico_host *host;
} toy;

static const char *const lies[] = {"none", "plan", "touch", "mood", NULL};

static const char *const reasons[] = {"none",    "nomem", "invalid",   "unsupported",
                                      "abi",     "io",    "device",    "cancelled",
                                      "corrupt", "limit", "not_found", NULL};

static const pico_option options[] = {
    {.name = "lie",
     .type = PICO_OPT_ENUM,
     .offset = offsetof(toy, lie),
     .def = "none",
     .choices = lies,
     .help =
         "plan: writes F32 where BF16 was planned; touch: changes what was to stay; mood: plans "
         "differently each time"},
    {.name = "fail",
     .type = PICO_OPT_ENUM,
     .offset = offsetof(toy, fail),
     .def = "none",
     .choices = reasons,
     .help = "the work ends with this status"},
};

static pico_status create(const pico_host *host, const void *bound, void **self, pico_error *err) {
    toy *t = malloc(sizeof *t);
    if (t == NULL) {
        return pico_fail(err, PICO_E_NOMEM, "compress toy: out of memory");
    }
    *t = *(const toy *)bound;
    t->host = host;
    t->n_plan = 0;
    *self = t;
    return PICO_OK;
}

static int is_ffn(const pico_tensor_info *info) {
    return info->rank == 2 && info->dtype == PICO_DTYPE_F32 && strstr(info->name, "ffn_") != NULL;
}

static pico_status plan(void *self, const pico_model_desc *model, const pico_tensor_info *tensors,
                        uint32_t n, pico_tensor_plan *out, pico_layer_desc *layers,
                        pico_error *err) {
    toy *t = self;
    (void)model, (void)layers, (void)err;
    t->n_plan++;
    for (uint32_t i = 0; i < n; i++) {
        out[i].dtype = tensors[i].dtype;
        out[i].bytes = tensors[i].bytes;
        memcpy(out[i].shape, tensors[i].shape, sizeof out[i].shape);
        if (is_ffn(&tensors[i]) && (t->lie != LIE_MOOD || t->n_plan % 2 == 1)) {
            out[i].dtype = PICO_DTYPE_BF16;
            out[i].bytes = tensors[i].bytes / 2;
        }
    }
    return PICO_OK;
}

static uint16_t rounded(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return (uint16_t)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

static pico_status convert(const toy *t, pico_tensors *tensors, uint32_t index,
                           const pico_tensor_info *info, pico_error *err) {
    size_t n = (size_t)(info->shape[0] * info->shape[1]);
    float *values = malloc(n * sizeof *values);
    uint16_t *codes = malloc(n * sizeof *codes);
    pico_status status = values == NULL || codes == NULL
                             ? pico_fail(err, PICO_E_NOMEM, "compress toy: out of memory")
                             : t->host->tensors->read_f32(tensors, index, values, err);
    for (size_t i = 0; status == PICO_OK && i < n; i++) {
        codes[i] = rounded(values[i]);
    }
    int as_planned = t->lie != LIE_PLAN;
    const pico_weight_desc desc = {.codes = as_planned ? (const void *)codes : values,
                                   .codes_bytes = n * (as_planned ? 2 : 4),
                                   .dtype = as_planned ? PICO_DTYPE_BF16 : PICO_DTYPE_F32,
                                   .rows = info->shape[0],
                                   .cols = info->shape[1]};
    if (status == PICO_OK) {
        status = t->host->tensors->replace(tensors, index, &desc, err);
    }
    free(values);
    free(codes);
    return status;
}

/* Adds 1 to the first value of a vector that the plan leaves alone. */
static pico_status touch(const toy *t, pico_tensors *tensors, uint32_t index,
                         const pico_tensor_info *info, pico_error *err) {
    size_t n = (size_t)info->shape[0] * (size_t)(info->rank == 1 ? 1 : info->shape[1]);
    float *values = malloc(n * sizeof *values);
    if (values == NULL) {
        return pico_fail(err, PICO_E_NOMEM, "compress toy: out of memory");
    }
    pico_status status = t->host->tensors->read_f32(tensors, index, values, err);
    values[0] = status == PICO_OK ? values[0] + 1 : 0;
    const pico_weight_desc desc = {.codes = values,
                                   .codes_bytes = n * 4,
                                   .dtype = PICO_DTYPE_F32,
                                   .rows = info->rank == 1 ? 1 : info->shape[0],
                                   .cols = info->rank == 1 ? info->shape[0] : info->shape[1]};
    if (status == PICO_OK) {
        status = t->host->tensors->replace(tensors, index, &desc, err);
    }
    free(values);
    return status;
}

static pico_status apply(void *self, const pico_model_desc *model, pico_tensors *tensors,
                         pico_error *err) {
    const toy *t = self;
    pico_status status = PICO_OK;
    (void)model;
    if (t->fail != 0) { /* the words are in the order of the numbers */
        return pico_fail(err, -(pico_status)t->fail, "as asked: %s", reasons[t->fail]);
    }
    for (uint32_t i = 0; status == PICO_OK && i < t->host->tensors->count(tensors); i++) {
        pico_tensor_info info;
        status = t->host->tensors->info(tensors, i, &info);
        if (status == PICO_OK && is_ffn(&info)) {
            status = convert(t, tensors, i, &info, err);
        } else if (status == PICO_OK && t->lie == LIE_TOUCH && i == 0) {
            status = touch(t, tensors, i, &info, err);
        }
    }
    return status;
}

static const pico_compressor_ops ops = {
    .struct_size = sizeof(pico_compressor_ops), .plan = plan, .apply = apply};

static const pico_plugin plugin = {.magic = PICO_PLUGIN_MAGIC,
                                   .abi_major = PICO_ABI_MAJOR,
                                   .abi_minor = PICO_ABI_MINOR_OLDEST_COMPRESSOR,
                                   .struct_size = sizeof(pico_plugin),
                                   .kind = PICO_KIND_COMPRESSOR,
                                   .name = "toy",
                                   .version = "0.1.0",
                                   .summary = "for tests: feed-forward matrices in BF16",
                                   .options = options,
                                   .n_options = sizeof options / sizeof *options,
                                   .option_size = sizeof(pico_option),
                                   .options_bytes = sizeof(toy),
                                   .create = create,
                                   .destroy = free,
                                   .ops = &ops};

const pico_plugin *pico_plugin_query(uint32_t index) {
    return index == 0 ? &plugin : NULL;
}
