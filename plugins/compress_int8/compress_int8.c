/*
 * Weights as int8: one scale for a matrix, a row or a group of columns, symmetric, round to nearest.
 * Groups of 32 are ggml's Q8_0 where rows allow it. Vectors (norms, biases) always stay as they are,
 * and so does what `keep` names. Columns whose inputs are large can be kept apart in F16 (LLM.int8,
 * Dettmers et al. 2022, arXiv 2208.07339). Weights that are quantised already are refused.
 */
#include <fnmatch.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "int8.h"

#define DEFAULT_KEEP                                                                               \
    "token_embd.weight position_embd.weight output.weight *.value_embd.weight "                    \
    "*.value_gate.weight mtp.*.weight draft_*.weight"

enum { MAX_PATTERN = 256 };

static const char *const granularities[] = {"tensor", "row", "group", NULL};
static const char *const bit_counts[] = {"8", "4", NULL};
static const char *const scale_types[] = {"auto", "f32", "f16", NULL};
static const char *const layouts[] = {"auto", "q8_0", "i8", NULL};
/* In the order of PICO_INPUT_x. */
static const char *const activations[] = {"auto", "none", "row", "group", NULL};

static const pico_option options[] = {
    {.name = "granularity",
     .type = PICO_OPT_ENUM,
     .offset = offsetof(int8_options, granularity),
     .def = "group",
     .choices = granularities,
     .help = "what shares a scale: the matrix, a row (an output), or a group of columns in a row"},
    {.name = "group",
     .type = PICO_OPT_INT,
     .offset = offsetof(int8_options, group),
     .def = "32",
     .min = 1,
     .max = 1 << 20,
     .unit = "columns",
     .help = "length of a group; the last one of a row may be shorter"},
    {.name = "bits",
     .type = PICO_OPT_ENUM,
     .offset = offsetof(int8_options, bits),
     .def = "8",
     .choices = bit_counts,
     .help = "4: codes from -7 to 7 that still take a byte each, for comparison"},
    {.name = "scales",
     .type = PICO_OPT_ENUM,
     .offset = offsetof(int8_options, scales),
     .def = "auto",
     .choices = scale_types,
     .help = "type of the scales; auto: f16 for groups, f32 else"},
    {.name = "layout",
     .type = PICO_OPT_ENUM,
     .offset = offsetof(int8_options, layout),
     .def = "auto",
     .choices = layouts,
     .help =
         "auto: Q8_0 for f16 groups of 32 where they fill the row, else I8; q8_0: nothing else; "
         "i8: always codes and scales apart"},
    {.name = "keep",
     .type = PICO_OPT_STRING,
     .offset = offsetof(int8_options, keep),
     .def = DEFAULT_KEEP,
     .help = "matrices that stay: patterns with * and ?, between blanks or commas; none: "
             "embeddings, gates and heads are quantised too"},
    {.name = "activations",
     .type = PICO_OPT_ENUM,
     .offset = offsetof(int8_options, activations),
     .def = "auto",
     .choices = activations,
     .help =
         "how the inputs of products are rounded to int8; auto: as the backend does; none: not"},
    {.name = "outliers",
     .type = PICO_OPT_INT,
     .offset = offsetof(int8_options, outliers),
     .def = "0",
     .min = 0,
     .max = 1 << 16,
     .unit = "columns",
     .help = "most columns of a matrix that are kept in F16, those with the largest inputs; 0: as "
             "many as outlier_threshold says"},
    {.name = "outlier_threshold",
     .type = PICO_OPT_FLOAT,
     .offset = offsetof(int8_options, outlier_threshold),
     .def = "0",
     .min = 0,
     .max = 1e6,
     .help = "columns whose inputs reach this magnitude are kept in F16 (LLM.int8: 6); 0: none"},
    {.name = "calibration",
     .type = PICO_OPT_PATH,
     .offset = offsetof(int8_options, calibration),
     .help = "text that shows how large inputs are; needed for outliers"},
    {.name = "calibration_tokens",
     .type = PICO_OPT_INT,
     .offset = offsetof(int8_options, calibration_tokens),
     .def = "8192",
     .min = 16,
     .max = 1 << 24,
     .unit = "tokens",
     .help = "how much of the text is run"},
};

/* ---- options ---- */

static pico_status check_options(const int8_options *o, pico_error *err) {
    const int outliers = o->outliers > 0 || o->outlier_threshold > 0;
    if (o->layout == LAYOUT_Q8_0 &&
        (o->granularity != GRANULARITY_GROUP || o->group != 32 || o->scales == SCALES_F32)) {
        return pico_fail(
            err, PICO_E_INVALID,
            "layout = q8_0 has F16 scales for groups of 32: it goes with granularity = "
            "group, group = 32 and scales = auto or f16; layout = auto takes any other");
    }
    if (o->activations == PICO_INPUT_GROUP && o->granularity != GRANULARITY_GROUP) {
        return pico_fail(err, PICO_E_INVALID,
                         "activations = group goes with weights that have a scale for each group: "
                         "granularity = group; with granularity = %s, activations = row",
                         granularities[o->granularity]);
    }
    if (outliers && o->calibration == NULL) {
        return pico_fail(err, PICO_E_INVALID,
                         "outliers are columns with large inputs, which only a text can show: set "
                         "calibration = FILE");
    }
    if (!outliers && o->calibration != NULL) {
        return pico_fail(err, PICO_E_INVALID,
                         "calibration is only used to find outliers: set outlier_threshold = 6 or "
                         "outliers = N, or leave it out");
    }
    return PICO_OK;
}

/* Copies the next word of *text (between blanks or commas) into out; 0 at the end. */
static int next_pattern(const char **text, char out[MAX_PATTERN]) {
    static const char between[] = " \t\r\n,";
    const char *at = *text + strspn(*text, between);
    const size_t n = strcspn(at, between);
    *text = at + n;
    (void)snprintf(out, MAX_PATTERN, "%.*s", n < MAX_PATTERN ? (int)n : MAX_PATTERN - 1, at);
    return n != 0;
}

static int is_kept(const int8_options *o, const char *name) {
    char pattern[MAX_PATTERN];
    for (const char *at = o->keep; next_pattern(&at, pattern);) {
        if (fnmatch(pattern, name, 0) == 0) {
            return 1;
        }
    }
    return 0;
}

static int matches_any(const char *pattern, const pico_tensor_info *tensors, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) {
        if (fnmatch(pattern, tensors[i].name, 0) == 0) {
            return 1;
        }
    }
    return 0;
}

/* A pattern of the user's that names nothing may be misspelt. Those of the default name parts that
 * few models have. */
static pico_status check_patterns(const int8_options *o, const pico_tensor_info *tensors,
                                  uint32_t n, pico_error *err) {
    char pattern[MAX_PATTERN], usual[MAX_PATTERN];
    for (const char *at = o->keep; next_pattern(&at, pattern);) {
        int known = strcmp(pattern, "none") == 0 || matches_any(pattern, tensors, n);
        for (const char *def = DEFAULT_KEEP; !known && next_pattern(&def, usual);) {
            known = strcmp(pattern, usual) == 0;
        }
        if (!known) {
            return pico_fail(err, PICO_E_INVALID,
                             "keep: no tensor is called %s; picochat inspect lists their names",
                             pattern);
        }
    }
    return PICO_OK;
}

/* ---- the plan ---- */

static pico_status choose_group(const int8_options *o, const pico_tensor_info *info,
                                int8_target *out, pico_error *err) {
    const int64_t cols = info->shape[1];
    const int fills = o->group == 32 && cols % 32 == 0;
    out->scale_dtype = o->scales == SCALES_F32 ? PICO_DTYPE_F32 : PICO_DTYPE_F16;
    out->group = o->group < cols ? o->group : cols;
    if (o->layout == LAYOUT_Q8_0 && !fills) {
        return pico_fail(err, PICO_E_UNSUPPORTED,
                         "tensor %s: rows of %lld are no multiple of 32, as Q8_0 needs; layout = "
                         "auto gives it int8 groups with a short last one, or add it to keep",
                         info->name, (long long)cols);
    }
    if (fills && o->layout != LAYOUT_I8 && out->scale_dtype == PICO_DTYPE_F16) {
        out->dtype = PICO_DTYPE_Q8_0;
        out->scale_dtype = PICO_DTYPE_NONE;
        out->group = 0;
    }
    return PICO_OK;
}

pico_status int8_choose(const int8_options *o, const pico_tensor_info *info, int8_target *out,
                        pico_error *err) {
    *out = (int8_target){.dtype = PICO_DTYPE_NONE};
    if (info->rank != 2 || is_kept(o, info->name)) {
        return PICO_OK;
    }
    if (info->dtype != PICO_DTYPE_F32 && info->dtype != PICO_DTYPE_F16 &&
        info->dtype != PICO_DTYPE_BF16) {
        return pico_fail(
            err, PICO_E_UNSUPPORTED,
            "tensor %s is quantised already, by the file or by an earlier stage: start "
            "from the float model (F32, F16, BF16), or add it to keep",
            info->name);
    }
    const int64_t rows = info->shape[0], cols = info->shape[1];
    *out = (int8_target){.dtype = PICO_DTYPE_I8,
                         .scale_dtype = o->scales == SCALES_F16 ? PICO_DTYPE_F16 : PICO_DTYPE_F32,
                         .group = o->granularity == GRANULARITY_ROW ? cols : 0,
                         .input_quant = o->activations};
    pico_status status =
        o->granularity == GRANULARITY_GROUP ? choose_group(o, info, out, err) : PICO_OK;
    const uint64_t n = (uint64_t)rows * (uint64_t)cols; /* fits: the source has as many values */
    if (out->dtype == PICO_DTYPE_Q8_0) {
        out->codes_bytes = n / 32 * 34;
    } else {
        out->codes_bytes = n;
        out->n_scales =
            out->group == 0 ? 1 : (uint64_t)rows * (uint64_t)((cols + out->group - 1) / out->group);
    }
    return status;
}

static pico_status plan(void *self, const pico_model_desc *model, const pico_tensor_info *tensors,
                        uint32_t n, pico_tensor_plan *out, pico_layer_desc *layers,
                        pico_error *err) {
    const int8_stage *stage = self;
    uint32_t n_changed = 0;
    (void)model, (void)layers;
    pico_status status = check_patterns(&stage->options, tensors, n, err);
    for (uint32_t i = 0; status == PICO_OK && i < n; i++) {
        int8_target target;
        status = int8_choose(&stage->options, &tensors[i], &target, err);
        if (status == PICO_OK && target.dtype != PICO_DTYPE_NONE) {
            out[i].dtype = target.dtype;
            out[i].bytes = target.codes_bytes +
                           target.n_scales * (target.scale_dtype == PICO_DTYPE_F16 ? 2u : 4u);
            n_changed++;
        }
    }
    if (status == PICO_OK && n_changed == 0) {
        status = pico_fail(err, PICO_E_INVALID,
                           "there is nothing to quantise: keep names every matrix of the model");
    }
    return status;
}

/* ---- the plugin ---- */

static pico_status create(const pico_host *host, const void *bound, void **self, pico_error *err) {
    const int8_options *o = bound;
    pico_status status = check_options(o, err);
    if (status != PICO_OK) {
        return status;
    }
    int8_stage *stage = calloc(1, sizeof *stage);
    if (stage == NULL) {
        return pico_fail(err, PICO_E_NOMEM, "out of memory");
    }
    stage->host = host;
    stage->options = *o;
    *self = stage;
    return PICO_OK;
}

static void destroy(void *self) {
    if (self != NULL) {
        int8_forget(self);
        free(self);
    }
}

static uint32_t calibrates(const void *self) {
    return ((const int8_stage *)self)->options.calibration != NULL;
}

static const pico_compressor_ops ops = {.struct_size = sizeof(pico_compressor_ops),
                                        .plan = plan,
                                        .apply = int8_apply,
                                        .calibrate = int8_calibrate,
                                        .calibrates = calibrates};

static const pico_plugin plugin = {.magic = PICO_PLUGIN_MAGIC,
                                   .abi_major = PICO_ABI_MAJOR,
                                   .abi_minor = 7, /* session->feed */
                                   .struct_size = sizeof(pico_plugin),
                                   .kind = PICO_KIND_COMPRESSOR,
                                   .name = "int8",
                                   .version = "0.1.0",
                                   .summary = "int8 weights with a scale for the matrix, each row "
                                              "or each group of columns",
                                   .options = options,
                                   .n_options = sizeof options / sizeof *options,
                                   .option_size = sizeof(pico_option),
                                   .options_bytes = sizeof(int8_options),
                                   .create = create,
                                   .destroy = destroy,
                                   .ops = &ops};

const pico_plugin *pico_plugin_query(uint32_t index) {
    return index == 0 ? &plugin : NULL;
}
