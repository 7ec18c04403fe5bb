/*
 * What is done to a model file on its way to the device or to another file: pooling of KV heads, the
 * compress chain with its plan. See load.h.
 */
#include <string.h>

#include "cli/load.h"
#include "formats/expect.h"
#include "transform/compress.h"
#include "transform/pool.h"

enum { MAX_STAGE = 32 };

static pico_status pool_heads(pico_runtime *runtime, pico_model_file *file, pico_error *err) {
    const pico_attention_ops *ops = &runtime->attention.loaded->ops.attention;
    pico_attention_check check = {.struct_size = sizeof check};
    pico_status status = ops->check(runtime->attention.self, &file->desc, &check, err);
    if (status != PICO_OK || check.want_kv_heads == 0) {
        return status;
    }
    pico_log_write(&runtime->log, PICO_LOG_WARN,
                   "pooling the KV heads of the model from %u to %u: its quality suffers until it "
                   "is trained again (distilled)",
                   file->desc.layer[0].n_kv_head, check.want_kv_heads);
    status = pico_pool_kv_heads(file, check.want_kv_heads, err);
    return status == PICO_OK ? ops->check(runtime->attention.self, &file->desc, &check, err)
                             : status;
}

static pico_status pool(pico_runtime *runtime, pico_model_file *file, int *exit_code,
                        pico_error *err) {
    const pico_status status = pool_heads(runtime, file, err);
    *exit_code = pico_exit_code(status);
    return status;
}

/* ---- the plan ---- */

typedef struct plan_report {
    pico_runtime *runtime;
    const pico_instance *attention; /* of the model that is compressed */
    FILE *table;                    /* NULL: to the log */
    int has_header;
    const pico_stage *stage; /* whose changes are being counted */
    uint32_t n_changed, n_tensor;
    uint64_t from, to;      /* bytes of the stage's changes */
    uint64_t before, after; /* bytes of all tensors */
} plan_report;

/* The line of a stage in the log. */
static void close_stage(plan_report *report) {
    if (report->stage != NULL && report->table == NULL) {
        pico_log_write(&report->runtime->log, PICO_LOG_INFO,
                       "[compress.%u] %s: %u of %u tensors, %.1f -> %.1f MB", report->stage->number,
                       report->stage->name, report->n_changed, report->n_tensor,
                       (double)report->from * 1e-6, (double)report->to * 1e-6);
    }
    report->stage = NULL;
    report->n_changed = 0;
    report->from = report->to = 0;
}

/* "  (64, 32) -> (48, 32)" where a tensor changes its shape, and stays. */
typedef struct shape_change {
    char text[224];
} shape_change;

static const char *shape_change_format(shape_change *out, const pico_tensor_info *from,
                                       const pico_tensor_plan *to) {
    pico_shape_text before, after;
    out->text[0] = '\0';
    if (to->dtype != PICO_DTYPE_NONE &&
        memcmp(from->shape, to->shape, from->rank * sizeof *from->shape) != 0) {
        (void)snprintf(out->text, sizeof out->text, "  %s -> %s",
                       pico_shape_format(&before, from->rank, from->shape),
                       pico_shape_format(&after, from->rank, to->shape));
    }
    return out->text;
}

static void planned(void *arg, const pico_stage *stage, const pico_tensor_info *from,
                    const pico_tensor_plan *to) {
    plan_report *report = arg;
    char label[64];
    shape_change change;
    (void)shape_change_format(&change, from, to);
    (void)snprintf(label, sizeof label, "%u %.48s", stage->number, stage->name);
    if (stage != report->stage) {
        if (report->table != NULL && !report->has_header) {
            (void)fprintf(report->table, "%-10s %-32s %-5s %-5s %14s %14s\n", "stage", "tensor",
                          "from", "to", "bytes before", "bytes after");
            report->has_header = 1;
        }
        close_stage(report);
        report->stage = stage;
    }
    if (report->table != NULL) {
        (void)fprintf(report->table, "%-10s %-32s %-5s %-5s %14llu %14llu%s\n", label, from->name,
                      pico_dtype_name(from->dtype), pico_dtype_name(to->dtype),
                      (unsigned long long)from->bytes, (unsigned long long)to->bytes, change.text);
    } else {
        pico_log_write(&report->runtime->log, PICO_LOG_DEBUG,
                       "[compress.%u] %s: %-32s %s -> %s, %llu -> %llu bytes%s", stage->number,
                       stage->name, from->name, pico_dtype_name(from->dtype),
                       pico_dtype_name(to->dtype), (unsigned long long)from->bytes,
                       (unsigned long long)to->bytes, change.text);
    }
    report->n_changed++;
    report->from += from->bytes;
    report->to += to->bytes;
    report->after += to->bytes - from->bytes; /* modulo 2^64: the sum is what it should be */
}

static void announced(void *arg) {
    plan_report *report = arg;
    close_stage(report);
    if (report->table != NULL) {
        (void)fprintf(report->table, "%-10s %-32s %-5s %-5s %14llu %14llu  %.1f %%\n", "total",
                      "all tensors, changed or not", "", "", (unsigned long long)report->before,
                      (unsigned long long)report->after,
                      100.0 * (double)report->after / (double)report->before);
        (void)fflush(report->table);
    }
}

/* ---- the chain ---- */

static pico_status open_for_calibration(void *arg, pico_model_file *file, pico_model **out,
                                        pico_error *err) {
    plan_report *report = arg;
    pico_runtime *runtime = report->runtime;
    pico_model_params params = {.attention = &report->attention->loaded->ops.attention,
                                .attention_self = report->attention->self,
                                .kv_dtype = pico_load_kv_dtype(runtime->config)};
    return pico_model_open(&runtime->device, &params, file, out, err);
}

static void close_after_calibration(void *arg, pico_model *model) {
    (void)arg;
    (void)pico_model_release(model);
}

static pico_status run_chain(pico_runtime *runtime, pico_model_file *file, int is_draft,
                             const pico_transform_params *params, const pico_stage *stages,
                             size_t n, pico_error *err) {
    plan_report report = {.runtime = runtime,
                          .attention = is_draft ? &runtime->second_attention : &runtime->attention,
                          .table = params->table,
                          .n_tensor = file->n_tensor};
    const pico_chain_callbacks callbacks = {.planned = planned,
                                            .announced = announced,
                                            .plan_only = params->plan_only,
                                            .open_model = open_for_calibration,
                                            .close_model = close_after_calibration,
                                            .arg = &report};
    for (uint32_t i = 0; i < file->n_tensor; i++) {
        report.before += file->tensor[i].bytes;
    }
    report.after = report.before;
    return pico_compress_chain(file, stages, n, &callbacks, err);
}

/* The numbers of the stages that apply to the model, or to a second one that drafts; *n of them. */
static pico_status list_stages(const pico_config *config, int is_draft, uint32_t *numbers,
                               size_t *n, pico_error *err) {
    uint32_t all[MAX_STAGE];
    size_t n_all = pico_config_stages(config, all, MAX_STAGE);
    *n = 0;
    if (n_all > MAX_STAGE) {
        return pico_fail(err, PICO_E_LIMIT, "%zu [compress.N] stages; at most %d are possible",
                         n_all, MAX_STAGE);
    }
    for (size_t i = 0; i < n_all; i++) {
        char section[32];
        (void)snprintf(section, sizeof section, "compress.%u", all[i]);
        const char *to = pico_config_string(config, section, "apply_to");
        if (strcmp(to, "both") == 0 || (strcmp(to, "draft") == 0) == is_draft) {
            numbers[(*n)++] = all[i];
        }
    }
    return PICO_OK;
}

static pico_status compress(pico_runtime *runtime, pico_model_file *file, int is_draft,
                            const pico_transform_params *params, int *exit_code, pico_error *err) {
    uint32_t numbers[MAX_STAGE];
    pico_stage stages[MAX_STAGE];
    pico_instance instances[MAX_STAGE];
    size_t n = 0, made = 0;
    pico_status status = list_stages(runtime->config, is_draft, numbers, &n, err);
    *exit_code = pico_exit_code(status);
    for (; status == PICO_OK && made < n; made++) {
        char section[32];
        (void)snprintf(section, sizeof section, "compress.%u", numbers[made]);
        const char *name = pico_config_string(runtime->config, section, "plugin");
        status = pico_runtime_instance(runtime, PICO_KIND_COMPRESSOR, name, section,
                                       &instances[made], exit_code, err);
        if (status != PICO_OK) {
            break;
        }
        stages[made] = (pico_stage){.number = numbers[made],
                                    .name = instances[made].loaded->plugin.name,
                                    .ops = &instances[made].loaded->ops.compressor,
                                    .self = instances[made].self};
    }
    if (status == PICO_OK) {
        status = run_chain(runtime, file, is_draft, params, stages, n, err);
        *exit_code = pico_exit_code(status);
    }
    while (made > 0) {
        pico_registry_destroy(runtime->registry, &instances[--made]);
    }
    return status;
}

pico_status pico_load_transform(pico_runtime *runtime, pico_model_file *file,
                                const pico_transform_params *params, int *exit_code,
                                pico_error *err) {
    static const pico_transform_params plain = {0};
    pico_status status = pool(runtime, file, exit_code, err);
    if (status == PICO_OK) {
        status = compress(runtime, file, 0, params == NULL ? &plain : params, exit_code, err);
    }
    return status;
}

pico_status pico_load_transform_draft(pico_runtime *runtime, pico_model_file *file,
                                      pico_error *err) {
    const pico_transform_params plain = {0};
    int exit_code = PICO_EXIT_OK;
    return compress(runtime, file, 1, &plain, &exit_code, err);
}
