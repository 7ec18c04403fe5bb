/* The shim's descriptor and instance; see deferred.h. */
#include "deferred.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

typedef struct deferred_options {
    const char *inner;
    const char *set;
    uint32_t spoil;
} deferred_options;

static const char *const spoils[] = {"none", "value", "guard", "company", "drift", NULL};

static const pico_option options[] = {
    {.name = "inner",
     .type = PICO_OPT_PATH,
     .flags = PICO_OPTF_REQUIRED,
     .offset = offsetof(deferred_options, inner),
     .help = "the backend that does the work: a backend_NAME.so"},
    {.name = "inner_set",
     .type = PICO_OPT_STRING,
     .offset = offsetof(deferred_options, set),
     .help = "its options: key=value,key=value"},
    {.name = "spoil",
     .type = PICO_OPT_ENUM,
     .offset = offsetof(deferred_options, spoil),
     .def = "none",
     .choices = spoils,
     .help = "be broken in this way, for tests of tests"},
};

static void destroy(void *self) {
    deferred *d = self;
    if (d != NULL) {
        queue_run(d);
        inner_close(d);
        free(d->queue);
        free(d->record);
        free(d->capture);
        free(d);
    }
}

static pico_status create(const pico_host *host, const void *bound, void **self, pico_error *err) {
    const deferred_options *opt = bound;
    deferred *d = calloc(1, sizeof *d);
    if (d == NULL) {
        return pico_fail(err, PICO_E_NOMEM, "backend deferred: out of memory");
    }
    d->host = host;
    d->fail_left = -1;
    d->spoil = opt->spoil;
    d->queue = malloc(QUEUE_MOST * sizeof *d->queue);
    d->record = malloc(QUEUE_MOST * sizeof *d->record);
    pico_status status = d->queue == NULL || d->record == NULL
                             ? pico_fail(err, PICO_E_NOMEM, "backend deferred: out of memory")
                             : inner_open(d, opt->inner, opt->set, err);
    if (status != PICO_OK) {
        destroy(d);
        return status;
    }
    *self = d;
    return PICO_OK;
}

static pico_status caps(void *self, pico_backend_caps *out) {
    deferred *d = self;
    pico_status status = d->inner.caps(d->inner_self, out);
    out->flags &= ~(uint32_t)PICO_CAP_HOST_MEMORY;
    memcpy(out->device, "deferred", sizeof "deferred");
    return status;
}

static pico_status supports(void *self, uint32_t op, uint32_t dtype) {
    deferred *d = self;
    return d->inner.supports(d->inner_self, op, dtype);
}

static uint64_t kv_page_bytes(void *self, const pico_kv_desc *kv) {
    deferred *d = self;
    return d->inner.kv_page_bytes(d->inner_self, kv);
}

static const void *extension(void *self, const char *id) {
    if (strcmp(id, PICO_TRAIN_EXTENSION) == 0) {
        return deferred_train(self);
    }
    if (strcmp(id, PICO_CAPTURE_EXTENSION) == 0) {
        return &deferred_capture_table;
    }
    return strcmp(id, "test.record/1") == 0 ? &deferred_record_table : NULL;
}

static const pico_backend_ops ops = {.struct_size = sizeof(pico_backend_ops),
                                     .caps = caps,
                                     .buffer_alloc = deferred_alloc,
                                     .buffer_free = deferred_free,
                                     .buffer_write = deferred_write,
                                     .buffer_read = deferred_read,
                                     .buffer_copy = deferred_copy,
                                     .sync = deferred_sync,
                                     .supports = supports,
                                     .reserve = deferred_reserve,
                                     .kv_page_bytes = kv_page_bytes,
                                     .weight_create = deferred_weight_create,
                                     .weight_free = deferred_weight_free,
                                     .weight_read = deferred_weight_read,
                                     .embed = deferred_embed,
                                     .norm = deferred_norm,
                                     .linear = deferred_linear,
                                     .rope = deferred_rope,
                                     .kv_store = deferred_kv_store,
                                     .kv_copy = deferred_kv_copy,
                                     .attend = deferred_attend,
                                     .activation = deferred_activation,
                                     .gate = deferred_gate,
                                     .axpby = deferred_axpby,
                                     .softcap = deferred_softcap,
                                     .logit_edit = deferred_logit_edit,
                                     .argmax = deferred_argmax,
                                     .top_k = deferred_top_k,
                                     .linear_many = deferred_linear_many,
                                     .extension = extension};

static const pico_plugin plugin = {.magic = PICO_PLUGIN_MAGIC,
                                   .abi_major = PICO_ABI_MAJOR,
                                   .abi_minor = 1,
                                   .struct_size = sizeof(pico_plugin),
                                   .kind = PICO_KIND_BACKEND,
                                   .name = "deferred",
                                   .version = "0.1.0",
                                   .summary = "for tests: a backend behind a queue",
                                   .options = options,
                                   .n_options = sizeof options / sizeof *options,
                                   .option_size = sizeof(pico_option),
                                   .options_bytes = sizeof(deferred_options),
                                   .create = create,
                                   .destroy = destroy,
                                   .ops = &ops};

const pico_plugin *pico_plugin_query(uint32_t index) {
    return index == 0 ? &plugin : NULL;
}
