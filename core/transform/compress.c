/* Plan all, then apply one by one; see compress.h. */
#include "transform/compress.h"

#include <stdlib.h>
#include <string.h>

#include "formats/expect.h"
#include "transform/tensors.h"

typedef struct stage_chain {
    pico_model_file *file;
    const pico_chain_callbacks *callbacks;
    uint32_t n_tensor;
    pico_tensor_info *info;  /* (n_tensor) what the next stage will see */
    pico_tensor_plan *plan;  /* (n_stage, n_tensor) */
    pico_layer_desc *layers; /* (n_stage + 1, n_layer) before and after each stage */
    pico_error *err;
} stage_chain;

static pico_status fail_stage(const stage_chain *chain, const pico_stage *stage, pico_status status,
                              const pico_error *inner) {
    return pico_fail(chain->err, status, "[compress.%u] %s: %s", stage->number, stage->name,
                     inner->message);
}

static pico_status plan_stage(stage_chain *chain, const pico_stage *stage, size_t s) {
    uint32_t n_layer = chain->file->desc.n_layer;
    pico_model_desc desc = chain->file->desc;
    pico_tensor_plan *plan = chain->plan + s * chain->n_tensor;
    pico_layer_desc *before = chain->layers + s * n_layer, *after = before + n_layer;
    pico_error inner = {0};
    desc.layer = before;
    memcpy(after, before, n_layer * sizeof *after);
    for (uint32_t i = 0; i < chain->n_tensor; i++) {
        plan[i] = (pico_tensor_plan){.dtype = chain->info[i].dtype, .bytes = chain->info[i].bytes};
        memcpy(plan[i].shape, chain->info[i].shape, sizeof plan[i].shape);
    }
    pico_status status =
        stage->ops->plan(stage->self, &desc, chain->info, chain->n_tensor, plan, after, &inner);
    if (status != PICO_OK) {
        return fail_stage(chain, stage, status, &inner);
    }
    for (uint32_t i = 0; i < chain->n_tensor; i++) {
        pico_tensor_info *info = &chain->info[i];
        info->dtype = plan[i].dtype;
        info->bytes = plan[i].bytes;
        memcpy(info->shape, plan[i].shape, sizeof info->shape);
    }
    return PICO_OK;
}

/* Tells the caller what will change, stage by stage, now that every plan is made. */
static void announce(const stage_chain *chain, const pico_stage *stages, size_t n) {
    const pico_chain_callbacks *callbacks = chain->callbacks;
    for (size_t s = 0; callbacks->planned != NULL && s < n; s++) {
        for (uint32_t i = 0; i < chain->n_tensor; i++) {
            const pico_tensor_plan *to = &chain->plan[s * chain->n_tensor + i];
            pico_tensor_info from = pico_file_tensor_info(&chain->file->tensor[i]);
            if (s > 0) {
                const pico_tensor_plan *before = to - chain->n_tensor;
                from.dtype = before->dtype;
                from.bytes = before->bytes;
                memcpy(from.shape, before->shape, sizeof from.shape);
            }
            if (to->dtype != from.dtype || to->bytes != from.bytes ||
                memcmp(to->shape, from.shape, sizeof from.shape) != 0) {
                callbacks->planned(callbacks->arg, &stages[s], &from, to);
            }
        }
    }
    if (callbacks->announced != NULL) {
        callbacks->announced(callbacks->arg);
    }
}

/* What the stage did must be what it planned. */
static pico_status compare(const stage_chain *chain, const pico_stage *stage, size_t s) {
    for (uint32_t i = 0; i < chain->n_tensor; i++) {
        const pico_tensor_plan *plan = &chain->plan[s * chain->n_tensor + i];
        const pico_file_tensor *tensor = &chain->file->tensor[i];
        if (tensor->data.dtype != plan->dtype || tensor->bytes != plan->bytes ||
            memcmp(tensor->shape, plan->shape, tensor->rank * sizeof *tensor->shape) != 0) {
            return pico_fail(chain->err, PICO_E_ABI,
                             "[compress.%u] %s: tensor %s became %s of %llu bytes where %s of %llu "
                             "was planned; the plugin contradicts itself",
                             stage->number, stage->name, tensor->name,
                             pico_dtype_name(tensor->data.dtype), (unsigned long long)tensor->bytes,
                             pico_dtype_name(plan->dtype), (unsigned long long)plan->bytes);
        }
    }
    return PICO_OK;
}

static pico_status calibrate(const stage_chain *chain, const pico_stage *stage) {
    const pico_chain_callbacks *callbacks = chain->callbacks;
    pico_model *model = NULL;
    pico_error inner = {0};
    if (stage->ops->calibrate == NULL || callbacks->open_model == NULL ||
        (stage->ops->calibrates != NULL && !stage->ops->calibrates(stage->self))) {
        return PICO_OK;
    }
    pico_status status = callbacks->open_model(callbacks->arg, chain->file, &model, &inner);
    if (status == PICO_OK) {
        status = stage->ops->calibrate(stage->self, model, &inner);
        callbacks->close_model(callbacks->arg, model);
    }
    return status == PICO_OK ? PICO_OK : fail_stage(chain, stage, status, &inner);
}

static pico_status apply_stage(stage_chain *chain, const pico_stage *stage, size_t s) {
    uint32_t n_layer = chain->file->desc.n_layer;
    pico_tensors tensors = {.file = chain->file};
    pico_error inner = {0};
    pico_status status = calibrate(chain, stage);
    if (status != PICO_OK) {
        return status;
    }
    status = stage->ops->apply(stage->self, &chain->file->desc, &tensors, &inner);
    if (status != PICO_OK) {
        return fail_stage(chain, stage, status, &inner);
    }
    pico_layer_desc *layers = pico_arena_alloc(&chain->file->arena, n_layer, sizeof *layers);
    if (layers == NULL) {
        return pico_fail(chain->err, PICO_E_NOMEM, "out of memory");
    }
    memcpy(layers, chain->layers + (s + 1) * n_layer, n_layer * sizeof *layers);
    chain->file->desc.layer = layers;
    return compare(chain, stage, s);
}

/* The layers that the stages planned and the tensors that they made must still fit together. */
static pico_status check_result(const stage_chain *chain) {
    pico_error inner = {0};
    pico_status status = pico_desc_check(&chain->file->desc, &inner);
    if (status == PICO_OK) {
        status = pico_expect_match(chain->file, &inner);
    }
    return status == PICO_OK
               ? PICO_OK
               : pico_fail(chain->err, status == PICO_E_NOMEM ? status : PICO_E_ABI,
                           "after the last [compress.N] stage the model contradicts itself: %s",
                           inner.message);
}

pico_status pico_compress_chain(pico_model_file *file, const pico_stage *stages, size_t n,
                                const pico_chain_callbacks *callbacks, pico_error *err) {
    if (n == 0) {
        return PICO_OK;
    }
    uint32_t n_tensor = file->n_tensor, n_layer = file->desc.n_layer;
    stage_chain chain = {.file = file,
                         .callbacks = callbacks,
                         .n_tensor = n_tensor,
                         .info = calloc(n_tensor, sizeof *chain.info),
                         .plan = calloc(n * n_tensor, sizeof *chain.plan),
                         .layers = calloc((n + 1) * n_layer, sizeof *chain.layers),
                         .err = err};
    pico_status status = PICO_OK;
    if (chain.info == NULL || chain.plan == NULL || chain.layers == NULL) {
        status = pico_fail(err, PICO_E_NOMEM, "out of memory");
        goto cleanup;
    }
    memcpy(chain.layers, file->desc.layer, n_layer * sizeof *chain.layers);
    for (uint32_t i = 0; i < n_tensor; i++) {
        chain.info[i] = pico_file_tensor_info(&file->tensor[i]);
    }
    for (size_t s = 0; status == PICO_OK && s < n; s++) {
        status = plan_stage(&chain, &stages[s], s);
    }
    if (status == PICO_OK) {
        announce(&chain, stages, n);
    }
    for (size_t s = 0; status == PICO_OK && s < n && !callbacks->plan_only; s++) {
        status = apply_stage(&chain, &stages[s], s);
    }
    if (status == PICO_OK && !callbacks->plan_only) {
        status = check_result(&chain);
    }
cleanup:
    free(chain.info);
    free(chain.plan);
    free(chain.layers);
    return status;
}
