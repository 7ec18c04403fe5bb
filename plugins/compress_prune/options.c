/*
 * The options of the pruning compressor, and which of them go together.
 */
#include <stddef.h>

#include "prune.h"

static const char *const group_words[] = {"within", "whole", NULL};
static const char *const score_words[] = {"l1", "activation", "random", NULL};
static const char *const convert_words[] = {"none", "mean", NULL};
static const char *const type_words[] = {"none", "f32", "f16", "bf16", NULL};

const pico_option prune_option_table[PRUNE_N_OPTION] = {
    {.name = "heads",
     .type = PICO_OPT_FLOAT,
     .offset = offsetof(prune_options, heads),
     .def = "0",
     .min = 0,
     .max = 0.99,
     .help = "share of the attention heads of each layer that goes, to the nearest head"},
    {.name = "neurons",
     .type = PICO_OPT_FLOAT,
     .offset = offsetof(prune_options, neurons),
     .def = "0",
     .min = 0,
     .max = 0.99,
     .help = "share of the feed-forward neurons of each layer that goes"},
    {.name = "layers",
     .type = PICO_OPT_FLOAT,
     .offset = offsetof(prune_options, layers),
     .def = "0",
     .min = 0,
     .max = 0.99,
     .help = "share of the layers that goes, to the nearest layer"},
    {.name = "neurons_multiple",
     .type = PICO_OPT_INT,
     .flags = PICO_OPTF_AUTO,
     .offset = offsetof(prune_options, multiple),
     .def = "auto",
     .min = 1,
     .max = 1 << 16,
     .unit = "neurons",
     .help = "what stays is a multiple of this, the nearest one; auto: 32 in layers of at least "
             "256 neurons and a multiple of 32, else 1"},
    {.name = "groups",
     .type = PICO_OPT_ENUM,
     .offset = offsetof(prune_options, groups),
     .def = "within",
     .choices = group_words,
     .help = "where query heads share KV heads: within = as many query heads of each KV head go; "
             "whole = KV heads with all their query heads"},
    {.name = "score",
     .type = PICO_OPT_ENUM,
     .offset = offsetof(prune_options, score),
     .def = "l1",
     .choices = score_words,
     .help = "what stays: large weights (l1), what a text makes large (activation), or anything "
             "(random, for comparison)"},
    {.name = "seed",
     .type = PICO_OPT_INT,
     .offset = offsetof(prune_options, seed),
     .def = "0",
     .min = 0,
     .max = 9007199254740992.0,
     .help = "of score = random"},
    {.name = "calibration",
     .type = PICO_OPT_PATH,
     .offset = offsetof(prune_options, calibration),
     .help = "text for score = activation"},
    {.name = "calibration_tokens",
     .type = PICO_OPT_INT,
     .offset = offsetof(prune_options, calibration_tokens),
     .def = "8192",
     .min = 16,
     .max = 1 << 24,
     .unit = "tokens",
     .help = "how much of the text is run"},
    {.name = "convert",
     .type = PICO_OPT_ENUM,
     .offset = offsetof(prune_options, convert),
     .def = "none",
     .choices = convert_words,
     .help = "mean: the KV heads that stay are pooled to kv_heads, each the mean of its group"},
    {.name = "kv_heads",
     .type = PICO_OPT_INT,
     .flags = PICO_OPTF_AUTO,
     .offset = offsetof(prune_options, kv_heads),
     .def = "auto",
     .min = 1,
     .max = 1024,
     .unit = "heads",
     .help = "KV heads of each layer after convert = mean; auto: 1 (multi-query attention)"},
    {.name = "dequantise",
     .type = PICO_OPT_ENUM,
     .offset = offsetof(prune_options, dequantise),
     .def = "none",
     .choices = type_words,
     .help = "type that quantised matrices get when they are cut; none: they are refused"},
};

pico_status prune_check_options(const prune_options *o, pico_error *err) {
    const int selects = o->heads > 0 || o->neurons > 0 || o->layers > 0;
    if (o->score == SCORE_ACTIVATION && o->calibration == NULL && selects) {
        return pico_fail(err, PICO_E_INVALID,
                         "score = activation needs a text: set calibration = FILE");
    }
    if (o->score != SCORE_ACTIVATION && o->calibration != NULL) {
        return pico_fail(err, PICO_E_INVALID,
                         "calibration = %.200s has no use with score = %s; set score = activation",
                         o->calibration, score_words[o->score]);
    }
    if (o->convert == CONVERT_NONE && o->kv_heads > 0) {
        return pico_fail(err, PICO_E_INVALID,
                         "kv_heads = %lld has no use without convert = mean", //
                         (long long)o->kv_heads);
    }
    return PICO_OK;
}
