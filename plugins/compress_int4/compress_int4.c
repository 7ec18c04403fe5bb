/*
 * Matrices in 4 bits: Q4_0 or NF4, rounded to nearest or by what a calibration text says about their
 * inputs (AWQ, GPTQ). The plan is strict: a matrix that cannot have the format, or whose input
 * cannot be observed where the method needs it, is an error; so is a matrix that is quantised
 * already. It never picks another type by itself.
 */
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "int4.h"

static const char *const formats[] = {"q4_0", "nf4", NULL};
static const char *const methods[] = {"rtn", "awq", "gptq", "awq_gptq", NULL};
static const char *const scales[] = {"auto", "max", "search", NULL};

static const pico_option options[] = {
    {.name = "format",
     .type = PICO_OPT_ENUM,
     .offset = offsetof(int4_options, format),
     .def = "q4_0",
     .choices = formats,
     .help = "q4_0: blocks of 32, F16 scales, any GGUF program reads it; nf4: blocks of 64, F32 "
             "scales, rows of any length"},
    {.name = "method",
     .type = PICO_OPT_ENUM,
     .offset = offsetof(int4_options, method),
     .def = "rtn",
     .choices = methods,
     .help = "rtn: round to nearest; awq: scaled inputs; gptq: error feedback; awq_gptq: both; all "
             "but rtn need calibration"},
    {.name = "only",
     .type = PICO_OPT_STRING,
     .offset = offsetof(int4_options, only),
     .def = "*",
     .help = "matrices that this stage is about: patterns with * and ?, between blanks or commas"},
    {.name = "keep",
     .type = PICO_OPT_STRING,
     .offset = offsetof(int4_options, keep),
     .def = int4_keep_default,
     .help = "matrices that stay: patterns as for only; none: embeddings, gates and heads are "
             "quantised too"},
    {.name = "scale",
     .type = PICO_OPT_ENUM,
     .offset = offsetof(int4_options, scale),
     .def = "auto",
     .choices = scales,
     .help =
         "scale of a group: max: from its largest value; search: with the smallest error; auto: "
         "max for rtn, else search"},
    {.name = "calibration",
     .type = PICO_OPT_PATH,
     .offset = offsetof(int4_options, calibration),
     .help = "text that is run through the model, much like what it will read and write"},
    {.name = "samples",
     .type = PICO_OPT_INT,
     .flags = PICO_OPTF_AUTO,
     .offset = offsetof(int4_options, samples),
     .def = "auto",
     .min = 1,
     .max = 65536,
     .unit = "pieces",
     .help = "pieces of the calibration text; auto: as many as it has, at most 128"},
    {.name = "length",
     .type = PICO_OPT_INT,
     .flags = PICO_OPTF_AUTO,
     .offset = offsetof(int4_options, length),
     .def = "auto",
     .min = 2,
     .max = 1 << 20,
     .unit = "tokens",
     .help = "length of each; auto: the trained context, at most 512"},
    {.name = "grid",
     .type = PICO_OPT_INT,
     .offset = offsetof(int4_options, grid),
     .def = "20",
     .min = 1,
     .max = 1000,
     .help = "awq: steps of the exponent from 0 to 1"},
    {.name = "act_order",
     .type = PICO_OPT_BOOL,
     .offset = offsetof(int4_options, act_order),
     .def = "off",
     .help = "gptq: columns in the order of their inputs' size, the largest first"},
    {.name = "damping",
     .type = PICO_OPT_FLOAT,
     .offset = offsetof(int4_options, damping),
     .def = "0.01",
     .min = 0,
     .max = 10,
     .help = "gptq: part of the mean moment that is added to every input's"},
};

static pico_status create(const pico_host *host, const void *bound, void **self, pico_error *err) {
    int4 *s = calloc(1, sizeof *s);
    if (s == NULL) {
        return pico_fail(err, PICO_E_NOMEM, "out of memory");
    }
    s->host = host;
    s->options = *(const int4_options *)bound;
    *self = s;
    return PICO_OK;
}

static void destroy(void *self) {
    if (self != NULL) {
        int4_forget(self);
        free(self);
    }
}

int int4_stopped(const int4 *self) {
    return self->host->should_stop != NULL && self->host->should_stop(self->host->ctx);
}

/* ---- plan ---- */

static int is_float(uint32_t dtype) {
    return dtype == PICO_DTYPE_F32 || dtype == PICO_DTYPE_F16 || dtype == PICO_DTYPE_BF16;
}

int int4_is_target(const int4_options *o, const pico_tensor_info *info) {
    return info->rank == 2 && is_float(info->dtype) && int4_selects(o, info->name);
}

static pico_status plan_one(const int4_options *o, const pico_model_desc *model,
                            const pico_tensor_info *info, pico_tensor_plan *out, pico_error *err) {
    const uint64_t rows = (uint64_t)info->shape[0], cols = (uint64_t)info->shape[1];
    const uint32_t group = int4_group_of(o->format);
    const uint64_t groups = (cols - 1) / group + 1;
    if (!is_float(info->dtype)) {
        return pico_fail(err, PICO_E_UNSUPPORTED,
                         "tensor %s is quantised already; compress the original model, or leave it "
                         "alone with keep = ..., %s",
                         info->name, info->name);
    }
    if (o->format == FORMAT_Q4_0 && cols % group != 0) {
        return pico_fail(
            err, PICO_E_UNSUPPORTED,
            "tensor %s has rows of %llu values, and Q4_0 has blocks of 32; take format "
            "= nf4, which takes rows of any length, or leave it alone with keep = ..., "
            "%s",
            info->name, (unsigned long long)cols, info->name);
    }
    if (o->method != METHOD_RTN && int4_input_of(model, info->name) == INPUT_NONE) {
        return pico_fail(err, PICO_E_UNSUPPORTED,
                         "method = %s observes the input of a matrix, and %s has none that can be "
                         "observed; leave it alone with keep, or give it a stage of its own with "
                         "method = rtn and only = %s",
                         methods[o->method], info->name, info->name);
    }
    if (o->format == FORMAT_Q4_0) {
        out->dtype = PICO_DTYPE_Q4_0;
        out->bytes = rows * groups * (group / 2 + 2);
    } else {
        out->dtype = PICO_DTYPE_NF4;
        out->bytes = rows * ((cols + 1) / 2 + groups * 4);
    }
    return PICO_OK;
}

static pico_status plan(void *self, const pico_model_desc *model, const pico_tensor_info *tensors,
                        uint32_t n, pico_tensor_plan *out, pico_layer_desc *layers,
                        pico_error *err) {
    const int4_options *o = &((const int4 *)self)->options;
    uint32_t n_target = 0;
    (void)layers;
    if (o->method != METHOD_RTN && (o->calibration == NULL || *o->calibration == '\0')) {
        return pico_fail(err, PICO_E_INVALID,
                         "method = %s needs a text: set calibration = FILE, or take method = rtn",
                         methods[o->method]);
    }
    pico_status status = int4_check_patterns(o, tensors, n, err);
    for (uint32_t i = 0; status == PICO_OK && i < n; i++) {
        if (tensors[i].rank == 2 && int4_selects(o, tensors[i].name)) {
            status = plan_one(o, model, &tensors[i], &out[i], err);
            n_target++;
        }
    }
    if (status == PICO_OK && n_target == 0) {
        status = pico_fail(err, PICO_E_INVALID,
                           "only and keep leave no matrix to compress; remove the stage, or keep "
                           "less");
    }
    return status;
}

static pico_status apply(void *self, const pico_model_desc *model, pico_tensors *tensors,
                         pico_error *err) {
    return int4_apply(self, model, tensors, err);
}

static pico_status calibrate(void *self, pico_model *model, pico_error *err) {
    return int4_calibrate(self, model, err);
}

static uint32_t calibrates(const void *self) {
    return ((const int4 *)self)->options.method != METHOD_RTN;
}

static const pico_compressor_ops ops = {.struct_size = sizeof(pico_compressor_ops),
                                        .plan = plan,
                                        .apply = apply,
                                        .calibrate = calibrate,
                                        .calibrates = calibrates};

static const pico_plugin plugin = {.magic = PICO_PLUGIN_MAGIC,
                                   .abi_major = PICO_ABI_MAJOR,
                                   .abi_minor = 8,
                                   .struct_size = sizeof(pico_plugin),
                                   .kind = PICO_KIND_COMPRESSOR,
                                   .name = "int4",
                                   .version = "0.1.0",
                                   .summary = "4-bit matrices: Q4_0 or NF4, by RTN, AWQ or GPTQ",
                                   .options = options,
                                   .n_options = sizeof options / sizeof *options,
                                   .option_size = sizeof(pico_option),
                                   .options_bytes = sizeof(int4_options),
                                   .create = create,
                                   .destroy = destroy,
                                   .ops = &ops};

const pico_plugin *pico_plugin_query(uint32_t index) {
    return index == 0 ? &plugin : NULL;
}
