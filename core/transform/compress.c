/* Which layers go, then plan all, then apply one by one; see compress.h. */
#include "transform/compress.h"

#include <stdlib.h>
#include <string.h>

#include "formats/expect.h"
#include "transform/depth.h"
#include "transform/tensors.h"

/* What a stage sees, and what it makes of that. Everything is in the chain's arena. */
typedef struct stage_view {
    pico_model_desc desc;
    pico_layer_desc *layer; /* (n_layer) desc's */
    pico_layer_desc *after; /* (n_layer) as the stage leaves them, those that go included */
    uint8_t *drop;          /* (n_layer); NULL: all layers stay */
    uint32_t n_tensor;
    pico_tensor_info *info; /* (n_tensor) */
    pico_tensor_plan *plan; /* (n_tensor) */
} stage_view;

typedef struct stage_chain {
    pico_model_file *file;
    const pico_chain_callbacks *callbacks;
    stage_view *view; /* (n_stage + 1), the last one is the result */
    pico_arena arena;
    pico_error *err;
} stage_chain;

static pico_status fail_stage(const stage_chain *chain, const pico_stage *stage, pico_status status,
                              const pico_error *inner) {
    return pico_fail(chain->err, status, "[compress.%u] %s: %s", stage->number, stage->name,
                     inner->message);
}

static pico_status fail_memory(const stage_chain *chain) {
    return pico_fail(chain->err, PICO_E_NOMEM, "out of memory");
}

/* Arrays for the model that desc describes. */
static pico_status view_open(stage_chain *chain, stage_view *view, const pico_model_desc *desc,
                             uint32_t n_tensor) {
    view->desc = *desc;
    view->n_tensor = n_tensor;
    view->layer = pico_arena_alloc(&chain->arena, desc->n_layer, sizeof *view->layer);
    view->after = pico_arena_alloc(&chain->arena, desc->n_layer, sizeof *view->after);
    view->info = pico_arena_alloc(&chain->arena, n_tensor, sizeof *view->info);
    view->plan = pico_arena_alloc(&chain->arena, n_tensor, sizeof *view->plan);
    if (view->layer == NULL || view->after == NULL || view->info == NULL || view->plan == NULL) {
        return fail_memory(chain);
    }
    memcpy(view->layer, desc->layer, desc->n_layer * sizeof *view->layer);
    view->desc.layer = view->layer;
    return PICO_OK;
}

/* ---- which layers go ---- */

static pico_status with_model(const stage_chain *chain,
                              pico_status (*fn)(void *, pico_model *, pico_error *), void *arg,
                              pico_error *err) {
    const pico_chain_callbacks *callbacks = chain->callbacks;
    pico_model *model = NULL;
    pico_status status = callbacks->open_model(callbacks->arg, chain->file, &model, err);
    if (status == PICO_OK) {
        status = fn(arg, model, err);
        callbacks->close_model(callbacks->arg, model);
    }
    return status;
}

typedef struct drop_call {
    const stage_chain *chain;
    const pico_stage *stage;
    uint8_t *drop;
} drop_call;

static pico_status call_drop_layers(void *arg, pico_model *model, pico_error *err) {
    const drop_call *call = arg;
    const pico_tensors tensors = {.file = call->chain->file};
    return call->stage->ops->drop_layers(call->stage->self, &call->chain->file->desc, &tensors,
                                         model, call->drop, err);
}

static uint32_t drops_of(const pico_stage *stage) {
    const pico_compressor_ops *ops = stage->ops;
    return ops->drops != NULL && ops->drop_layers != NULL ? ops->drops(stage->self)
                                                          : (uint32_t)PICO_DROPS_NOTHING;
}

static pico_status choose_drops(stage_chain *chain, const pico_stage *stages, size_t n) {
    const pico_stage *first = NULL;
    for (size_t s = 0; s < n; s++) {
        const uint32_t drops = drops_of(&stages[s]);
        pico_error inner = {0};
        if (drops == PICO_DROPS_NOTHING) {
            continue;
        }
        if (first != NULL) {
            return pico_fail(chain->err, PICO_E_UNSUPPORTED,
                             "[compress.%u] %s: [compress.%u] removes layers already; only one "
                             "stage can: write that model first, then prune it again",
                             stages[s].number, stages[s].name, first->number);
        }
        first = &stages[s];
        drop_call call = {chain, first,
                          pico_arena_alloc(&chain->arena, chain->file->desc.n_layer, 1)};
        pico_status status = PICO_OK;
        if (call.drop == NULL) {
            return fail_memory(chain);
        }
        if (drops == PICO_DROPS_BY_WEIGHTS) {
            status = call_drop_layers(&call, NULL, &inner);
        } else if (chain->callbacks->open_model == NULL) {
            status = pico_fail(&inner, PICO_E_UNSUPPORTED, "it needs a model to run");
        } else {
            status = with_model(chain, call_drop_layers, &call, &inner);
        }
        if (status == PICO_OK) {
            status = pico_depth_check(&chain->file->desc, call.drop, &inner);
        }
        if (status != PICO_OK) {
            return fail_stage(chain, first, status, &inner);
        }
        chain->view[s].drop = call.drop;
    }
    return PICO_OK;
}

/* ---- plans ---- */

/* What becomes of the tensors of layers that go, and of those with a value for each layer. */
static void plan_drops(stage_view *view) {
    uint32_t n_kept = 0;
    for (uint32_t i = 0; i < view->desc.n_layer; i++) {
        n_kept += !view->drop[i];
    }
    for (uint32_t i = 0; i < view->n_tensor; i++) {
        pico_depth_name name;
        pico_tensor_plan *plan = &view->plan[i];
        if (!pico_depth_rename(view->desc.n_layer, view->drop, view->info[i].name, &name)) {
            *plan = (pico_tensor_plan){.dtype = PICO_DTYPE_NONE};
        } else if (pico_depth_is_lambdas(name.text)) {
            plan->dtype = PICO_DTYPE_F32;
            plan->shape[0] = n_kept;
            plan->bytes = n_kept * sizeof(float);
        }
    }
}

/* What the stage behind sees. */
static pico_status view_next(stage_chain *chain, const stage_view *view, stage_view *next) {
    pico_model_desc desc = view->desc;
    pico_layer_desc *layers = pico_arena_alloc(&chain->arena, desc.n_layer, sizeof *layers);
    if (layers == NULL) {
        return fail_memory(chain);
    }
    memcpy(layers, view->after, desc.n_layer * sizeof *layers);
    desc.layer = layers;
    if (view->drop != NULL) {
        pico_depth_describe(&desc, layers, view->drop);
    }
    pico_status status = view_open(chain, next, &desc, view->n_tensor);
    uint32_t n = 0;
    for (uint32_t i = 0; status == PICO_OK && i < view->n_tensor; i++) {
        pico_tensor_info info = view->info[i];
        pico_depth_name name;
        if (view->drop != NULL) {
            if (!pico_depth_rename(view->desc.n_layer, view->drop, info.name, &name)) {
                continue;
            }
            info.name = pico_arena_strdup(&chain->arena, name.text);
            status = info.name == NULL ? fail_memory(chain) : PICO_OK;
        }
        info.dtype = view->plan[i].dtype;
        info.bytes = view->plan[i].bytes;
        memcpy(info.shape, view->plan[i].shape, sizeof info.shape);
        next->info[n++] = info;
    }
    next->n_tensor = n;
    return status;
}

static pico_status plan_stage(stage_chain *chain, const pico_stage *stage, stage_view *view) {
    pico_tensor_plan *plan = view->plan;
    pico_error inner = {0};
    memcpy(view->after, view->layer, view->desc.n_layer * sizeof *view->after);
    for (uint32_t i = 0; i < view->n_tensor; i++) {
        plan[i] = (pico_tensor_plan){.dtype = view->info[i].dtype, .bytes = view->info[i].bytes};
        memcpy(plan[i].shape, view->info[i].shape, sizeof plan[i].shape);
    }
    pico_status status = stage->ops->plan(stage->self, &view->desc, view->info, view->n_tensor,
                                          plan, view->after, &inner);
    if (status != PICO_OK) {
        return fail_stage(chain, stage, status, &inner);
    }
    if (view->drop != NULL) {
        plan_drops(view);
    }
    return view_next(chain, view, view + 1);
}

/* Tells the caller what will change, stage by stage, now that every plan is made. */
static void announce(const stage_chain *chain, const pico_stage *stages, size_t n) {
    const pico_chain_callbacks *callbacks = chain->callbacks;
    for (size_t s = 0; callbacks->planned != NULL && s < n; s++) {
        const stage_view *view = &chain->view[s];
        for (uint32_t i = 0; i < view->n_tensor; i++) {
            const pico_tensor_info *from = &view->info[i];
            const pico_tensor_plan *to = &view->plan[i];
            if (to->dtype != from->dtype || to->bytes != from->bytes ||
                memcmp(to->shape, from->shape, sizeof from->shape) != 0) {
                callbacks->planned(callbacks->arg, &stages[s], from, to);
            }
        }
    }
    if (callbacks->announced != NULL) {
        callbacks->announced(callbacks->arg);
    }
}

/* ---- work ---- */

/* What the stage did must be what it planned; layers that go are still there. */
static pico_status compare(const stage_chain *chain, const pico_stage *stage,
                           const stage_view *view) {
    for (uint32_t i = 0; i < view->n_tensor; i++) {
        const pico_tensor_plan *plan = &view->plan[i];
        const pico_file_tensor *tensor = &chain->file->tensor[i];
        pico_depth_name name;
        if (view->drop != NULL &&
            (!pico_depth_rename(view->desc.n_layer, view->drop, tensor->name, &name) ||
             pico_depth_is_lambdas(name.text))) {
            continue;
        }
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

static pico_status call_calibrate(void *arg, pico_model *model, pico_error *err) {
    const pico_stage *stage = arg;
    return stage->ops->calibrate(stage->self, model, err);
}

static pico_status calibrate(const stage_chain *chain, const pico_stage *stage) {
    pico_error inner = {0};
    pico_stage copy = *stage;
    if (stage->ops->calibrate == NULL || chain->callbacks->open_model == NULL ||
        (stage->ops->calibrates != NULL && !stage->ops->calibrates(stage->self))) {
        return PICO_OK;
    }
    pico_status status = with_model(chain, call_calibrate, &copy, &inner);
    return status == PICO_OK ? PICO_OK : fail_stage(chain, stage, status, &inner);
}

static pico_status apply_stage(stage_chain *chain, const pico_stage *stage,
                               const stage_view *view) {
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
        return fail_memory(chain);
    }
    memcpy(layers, view->after, n_layer * sizeof *layers);
    chain->file->desc.layer = layers;
    status = compare(chain, stage, view);
    if (status == PICO_OK && view->drop != NULL) {
        status = pico_depth_apply(chain->file, view->drop, &inner);
        return status == PICO_OK ? PICO_OK : fail_stage(chain, stage, status, &inner);
    }
    return status;
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
    stage_chain chain = {.file = file, .callbacks = callbacks, .err = err};
    pico_status status = PICO_OK;
    chain.view = pico_arena_alloc(&chain.arena, n + 1, sizeof *chain.view);
    if (chain.view == NULL) {
        status = fail_memory(&chain);
        goto cleanup;
    }
    status = choose_drops(&chain, stages, n);
    if (status == PICO_OK) {
        status = view_open(&chain, chain.view, &file->desc, file->n_tensor);
    }
    for (uint32_t i = 0; status == PICO_OK && i < file->n_tensor; i++) {
        chain.view[0].info[i] = pico_file_tensor_info(&file->tensor[i]);
    }
    for (size_t s = 0; status == PICO_OK && s < n; s++) {
        status = plan_stage(&chain, &stages[s], &chain.view[s]);
    }
    if (status == PICO_OK) {
        announce(&chain, stages, n);
    }
    for (size_t s = 0; status == PICO_OK && s < n && !callbacks->plan_only; s++) {
        status = apply_stage(&chain, &stages[s], &chain.view[s]);
    }
    if (status == PICO_OK && !callbacks->plan_only) {
        status = check_result(&chain);
    }
cleanup:
    pico_arena_free(&chain.arena);
    return status;
}
