/*
 * A valid sampler with one option of every type. Its distribution is the best candidate alone. On
 * destroy it logs its label, which shows the order in which instances end.
 */
#include <stdlib.h>

#include "good_options.h"

#define FIELD(field) .offset = (uint32_t)offsetof(good_options, field)

static const char *const modes[] = {"plain", "sharp", "flat", NULL};

static const pico_option options[] = {
    {.name = "temperature",
     .type = PICO_OPT_FLOAT,
     FIELD(temperature),
     .def = "1.0",
     .max = 10,
     .help = "randomness"},
    {.name = "top_k",
     .type = PICO_OPT_INT,
     FIELD(top_k),
     .def = "40",
     .max = 100000,
     .unit = "tokens",
     .help = "keep the best"},
    {.name = "exact", .type = PICO_OPT_BOOL, FIELD(exact), .help = "a flag"},
    {.name = "mode",
     .type = PICO_OPT_ENUM,
     FIELD(mode),
     .def = "sharp",
     .choices = modes,
     .help = "a word"},
    {.name = "label", .type = PICO_OPT_STRING, FIELD(label), .help = "a text"},
    {.name = "table", .type = PICO_OPT_PATH, FIELD(table), .help = "a file"},
    {.name = "window",
     .type = PICO_OPT_INT,
     .flags = PICO_OPTF_AUTO,
     FIELD(window),
     .def = "auto",
     .min = 1,
     .max = 64,
     .help = "a number or auto"},
};

static pico_status good_create(const pico_host *host, const void *bound, void **self,
                               pico_error *err) {
    good_sampler *sampler = calloc(1, sizeof *sampler);
    if (sampler == NULL) {
        return pico_fail(err, PICO_E_NOMEM, "out of memory");
    }
    sampler->options = *(const good_options *)bound;
    sampler->host = host;
    *self = sampler;
    return PICO_OK;
}

static void good_destroy(void *self) {
    good_sampler *sampler = self;
    if (sampler->host != NULL && sampler->options.label != NULL) {
        sampler->host->log(sampler->host->ctx, PICO_LOG_INFO, sampler->options.label);
    }
    free(sampler);
}

static pico_status good_need(void *self, pico_sampler_need *out) {
    (void)self;
    out->struct_size = sizeof *out;
    out->kind = PICO_NEED_TOP_K;
    out->k = 1;
    out->inv_temperature = 1.0f;
    return PICO_OK;
}

static pico_status good_dist(void *self, const pico_candidates *row, const void *state,
                             pico_dist *out) {
    (void)self, (void)state;
    if (row->n == 0 || row->token == NULL) {
        return PICO_E_LIMIT;
    }
    out->n = 1;
    out->token[0] = row->token[0];
    out->p[0] = 1.0;
    return PICO_OK;
}

static const pico_sampler_ops ops = {
    .struct_size = sizeof ops, .need = good_need, .dist = good_dist};

static const pico_plugin plugin = {
    .magic = PICO_PLUGIN_MAGIC,
    .abi_major = PICO_ABI_MAJOR,
    .abi_minor = PICO_ABI_MINOR,
    .struct_size = sizeof plugin,
    .kind = PICO_KIND_SAMPLER,
    .name = "good",
    .version = "1",
    .summary = "valid, and hardly random",
    .options = options,
    .n_options = sizeof options / sizeof options[0],
    .option_size = sizeof options[0],
    .options_bytes = sizeof(good_options),
    .create = good_create,
    .destroy = good_destroy,
    .ops = &ops,
};

const pico_plugin *pico_plugin_query(uint32_t index) {
    return index == 0 ? &plugin : NULL;
}
