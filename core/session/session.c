/* Opening, closing, truncating and copying timelines; see session.h. The forward is forward.c's. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "session/internal.h"
#include "util/checked.h"

static uint32_t max2(uint32_t a, uint32_t b) {
    return a > b ? a : b;
}

static pico_status reserve(pico_session *session, pico_error *err) {
    const pico_model *model = session->model;
    const pico_session_params *params = &session->params;
    uint32_t widest = max2(max2(model->max_heads_width, model->max_ff), model->desc.n_embd);
    widest = max2(widest, model->desc.draft_hidden);
    uint32_t head_rows = model->desc.draft_flags == 0 ? 0 : (uint32_t)PICO_HEAD_ROWS;
    pico_reserve need = {.max_rows =
                             max2(max2(params->max_rows, params->max_logit_rows), head_rows),
                         .max_in = widest,
                         .max_out = max2(widest, pico_model_widest_head(model)),
                         .max_positions = params->max_positions,
                         .max_logit_rows = params->max_logit_rows,
                         .max_top_k = params->max_top_k,
                         .max_edits = params->max_edits};
    for (uint32_t i = 0; i < model->desc.n_layer; i++) {
        need.max_head = max2(need.max_head, model->desc.layer[i].n_head);
        need.max_head_dim = max2(need.max_head_dim, model->desc.layer[i].head_dim);
    }
    return pico_device_reserve(model->device, &need, err);
}

/* The window that a layer really has: its own, narrowed by the sliding context. */
static int32_t effective_window(const pico_session *session, uint32_t layer) {
    int32_t window = session->model->attention[layer].window;
    uint32_t limit = session->params.window_limit;
    if (limit != 0 && (window < 0 || (uint32_t)window > limit - 1)) {
        window = (int32_t)(limit - 1);
    }
    return window >= 0 && (uint32_t)window >= session->params.max_positions ? -1 : window;
}

/* Sorts the layers into groups of equal window and sinks. */
static pico_status open_groups(pico_session *session, pico_error *err) {
    const pico_model *model = session->model;
    const pico_session_params *params = &session->params;
    for (uint32_t i = 0; i < model->desc.n_layer; i++) {
        int32_t window = effective_window(session, i);
        uint32_t n_sink = model->attention[i].n_sink, group = 0;
        while (group < session->n_group &&
               (session->group[group].window != window || session->group[group].n_sink != n_sink)) {
            group++;
        }
        if (group == session->n_group) {
            pico_status status =
                pico_pages_open(&session->group[group], window, n_sink, params->n_slots,
                                params->max_positions, params->max_rows, err);
            if (status != PICO_OK) {
                return status;
            }
            session->n_group++;
        }
        session->group_of[i] = group;
    }
    return PICO_OK;
}

/* One device buffer of I32: the tables of all groups, then the data of a call. */
static pico_status open_device_data(pico_session *session, pico_error *err) {
    const pico_device *device = session->model->device;
    uint64_t words = 0;
    for (uint32_t g = 0; g < session->n_group; g++) {
        const pico_pages *pages = &session->group[g];
        session->table_offset[g] = words * 4;
        words += ((uint64_t)pages->n_slot * pages->max_pages + 15) & ~(uint64_t)15;
    }
    session->call_offset = words * 4;
    session->call_words = pico_call_words(session);
    words += session->call_words;
    session->host_words = malloc(session->call_words * sizeof *session->host_words);
    if (session->host_words == NULL) {
        return pico_fail(err, PICO_E_NOMEM, "out of memory");
    }
    return device->ops->buffer_alloc(device->self, words * 4, &session->device_words, err);
}

static pico_status open_pages(pico_session *session, pico_error *err) {
    const pico_model *model = session->model;
    const pico_device *device = model->device;
    for (uint32_t i = 0; i < model->desc.n_layer; i++) {
        const pico_attention_layer *attention = &model->attention[i];
        uint32_t g = session->group_of[i];
        const pico_pages *pages = &session->group[g];
        pico_layer_kv *kv = &session->kv[i];
        kv->kv = (pico_kv_desc){attention->kv_dtype, attention->n_kv_head, attention->head_dim};
        kv->window = pages->window;
        kv->n_sink = pages->n_sink;
        kv->page_table = pico_view(session->device_words, session->table_offset[g], PICO_DTYPE_I32,
                                   pages->n_slot, pages->max_pages);
        uint64_t bytes;
        if (!pico_checked_mul(device->ops->kv_page_bytes(device->self, &kv->kv), pages->n_page,
                              &bytes) ||
            !pico_checked_add(session->kv_bytes, bytes, &session->kv_bytes)) {
            return pico_fail(err, PICO_E_LIMIT, "layer %u: %u KV pages are too many", i,
                             pages->n_page);
        }
        pico_status status = device->ops->buffer_alloc(device->self, bytes, &kv->pages, err);
        if (status != PICO_OK) {
            return status;
        }
    }
    return PICO_OK;
}

static pico_status open_rope(pico_session *session, pico_error *err) {
    const pico_model *model = session->model;
    const pico_device *device = model->device;
    uint32_t n = session->params.max_positions;
    int64_t half = model->desc.rope_dim / 2;
    uint64_t bytes = (uint64_t)n * (uint64_t)half * 4;
    if (model->desc.pos != PICO_POS_ROPE) {
        return PICO_OK;
    }
    float *table = malloc(bytes * 2 + 1);
    if (table == NULL) {
        return pico_fail(err, PICO_E_NOMEM, "out of memory for the rope table of %u positions", n);
    }
    pico_rope_table(&model->desc, n, table, table + (size_t)n * (size_t)half);
    pico_status status = device->ops->buffer_alloc(device->self, bytes * 2, &session->rope, err);
    if (status == PICO_OK &&
        device->ops->buffer_write(device->self, session->rope, 0, table, bytes * 2) != PICO_OK) {
        status = pico_fail(err, PICO_E_DEVICE, "the rope table cannot be written");
    }
    free(table);
    session->rope_cos = pico_view(session->rope, 0, PICO_DTYPE_F32, n, half);
    session->rope_sin = pico_view(session->rope, bytes, PICO_DTYPE_F32, n, half);
    return status;
}

static pico_status check_params(const pico_model *model, pico_session_params *params,
                                pico_error *err) {
    if (params->max_positions == 0) {
        params->max_positions = model->desc.n_ctx_train;
    }
    if (params->n_slots == 0 || params->max_rows == 0 || params->max_logit_rows == 0 ||
        params->max_positions > PICO_MAX_CONTEXT) {
        return pico_fail(err, PICO_E_INVALID,
                         "a session needs at least one slot, row and logit row and at most %d "
                         "positions",
                         PICO_MAX_CONTEXT);
    }
    if (model->desc.pos == PICO_POS_LEARNED && params->max_positions > model->desc.n_ctx_train) {
        return pico_fail(err, PICO_E_INVALID,
                         "the model has learned positions for %u tokens and cannot run with %u",
                         model->desc.n_ctx_train, params->max_positions);
    }
    return PICO_OK;
}

pico_status pico_session_open(pico_model *model, const pico_session_params *params,
                              pico_session **out, pico_error *err) {
    *out = NULL;
    pico_session *session = calloc(1, sizeof *session);
    if (session == NULL) {
        return pico_fail(err, PICO_E_NOMEM, "out of memory");
    }
    session->model = model;
    session->params = *params;
    uint32_t n_layer = model->desc.n_layer;
    pico_status status = check_params(model, &session->params, err);
    if (status == PICO_OK) {
        pico_arena *arena = &session->arena;
        uint32_t max_rows = session->params.max_rows, n_slots = session->params.n_slots;
        session->group = pico_arena_alloc(arena, n_layer, sizeof *session->group);
        session->group_of = pico_arena_alloc(arena, n_layer, sizeof *session->group_of);
        session->table_offset = pico_arena_alloc(arena, n_layer, sizeof *session->table_offset);
        session->kv = pico_arena_alloc(arena, n_layer, sizeof *session->kv);
        session->slot = pico_arena_alloc(arena, n_slots, sizeof *session->slot);
        session->order = pico_arena_alloc(arena, max_rows, sizeof *session->order);
        session->row = pico_arena_alloc(arena, max_rows, sizeof *session->row);
        session->run = pico_arena_alloc(arena, max_rows, sizeof *session->run);
        if (session->group == NULL || session->group_of == NULL || session->table_offset == NULL ||
            session->kv == NULL || session->slot == NULL || session->order == NULL ||
            session->row == NULL || session->run == NULL) {
            status = pico_fail(err, PICO_E_NOMEM, "out of memory");
        }
    }
    if (status == PICO_OK) {
        status = reserve(session, err);
    }
    if (status == PICO_OK) {
        status = open_groups(session, err);
    }
    if (status == PICO_OK) {
        status = open_device_data(session, err);
    }
    if (status == PICO_OK) {
        status = open_pages(session, err);
    }
    if (status == PICO_OK) {
        status = open_rope(session, err);
    }
    if (status == PICO_OK) {
        status = pico_activations_open(model, session->params.max_rows,
                                       session->params.max_logit_rows, &session->work, err);
    }
    if (status != PICO_OK) {
        pico_session_close(session);
        return status;
    }
    pico_steps_open(session);
    *out = session;
    return PICO_OK;
}

void pico_session_close(pico_session *session) {
    if (session == NULL) {
        return;
    }
    const pico_device *device = session->model->device;
    pico_steps_close(session);
    pico_activations_close(session->model, &session->work);
    for (uint32_t i = 0; session->kv != NULL && i < session->model->desc.n_layer; i++) {
        device->ops->buffer_free(device->self, session->kv[i].pages);
    }
    for (uint32_t g = 0; g < session->n_group; g++) {
        pico_pages_close(&session->group[g]);
    }
    device->ops->buffer_free(device->self, session->device_words);
    device->ops->buffer_free(device->self, session->rope);
    free(session->host_words);
    pico_arena_free(&session->arena);
    free(session);
}

uint32_t pico_session_max_positions(const pico_session *session) {
    return session->params.max_positions;
}

uint32_t pico_session_length(const pico_session *session, uint32_t slot) {
    assert(slot < session->params.n_slots);
    return session->slot[slot].length;
}

uint64_t pico_session_kv_bytes(const pico_session *session) {
    return session->kv_bytes;
}

pico_status pico_session_truncate(pico_session *session, uint32_t slot, uint32_t length,
                                  pico_error *err) {
    if (slot >= session->params.n_slots || length > session->slot[slot].length) {
        return pico_fail(err, PICO_E_INVALID, "slot %u cannot be truncated to %u positions", slot,
                         length);
    }
    for (uint32_t g = 0; length != 0 && g < session->n_group; g++) {
        uint32_t shortest =
            pico_pages_shortest(&session->group[g], slot, session->slot[slot].length);
        if (length < shortest) {
            return pico_fail(err, PICO_E_LIMIT,
                             "slot %u: positions before %u have left the window; truncate to 0 and "
                             "start again",
                             slot, shortest);
        }
    }
    for (uint32_t g = 0; g < session->n_group; g++) {
        pico_pages_truncate(&session->group[g], slot, length);
    }
    session->slot[slot].length = length;
    session->slot[slot].n_tree = 0;
    return PICO_OK;
}

pico_status pico_session_copy(pico_session *session, uint32_t from, uint32_t to, pico_error *err) {
    if (from >= session->params.n_slots || to >= session->params.n_slots || from == to) {
        return pico_fail(err, PICO_E_INVALID, "slot %u cannot be copied to slot %u", from, to);
    }
    pico_status status = pico_session_truncate(session, to, 0, err);
    uint32_t length = session->slot[from].length;
    for (uint32_t g = 0; status == PICO_OK && g < session->n_group; g++) {
        pico_pages_copy copy;
        pico_pages_share(&session->group[g], from, to, length, &copy);
        status = pico_call_copy_page(session, g, &copy);
    }
    if (status != PICO_OK) {
        for (uint32_t g = 0; g < session->n_group; g++) {
            pico_pages_truncate(&session->group[g], to, 0);
        }
        return pico_fail(err, status, "slot %u cannot be copied: the device refused", from);
    }
    session->slot[to].length = length;
    return PICO_OK;
}

static pico_status table_open(pico_model *model, uint32_t n_slots, uint32_t max_positions,
                              uint32_t max_rows, uint32_t max_logit_rows, pico_session **out,
                              pico_error *err) {
    pico_session_params params = {.n_slots = n_slots,
                                  .max_positions = max_positions,
                                  .max_rows = max_rows,
                                  .max_logit_rows = max_logit_rows,
                                  .max_top_k = 64};
    return pico_session_open(model, &params, out, err);
}

static pico_status table_open_with(pico_model *model, const pico_session_want *want,
                                   pico_session **out, pico_error *err) {
    pico_session_want known = {0};
    size_t n = want->struct_size < sizeof known ? want->struct_size : sizeof known;
    memcpy(&known, want, n);
    pico_session_params params = {.n_slots = known.n_slots,
                                  .max_positions = known.max_positions,
                                  .window_limit = known.window_limit,
                                  .max_rows = known.max_rows,
                                  .max_logit_rows = known.max_logit_rows,
                                  .max_top_k = 64};
    return pico_session_open(model, &params, out, err);
}

const pico_session_api pico_session_table = {.struct_size = sizeof(pico_session_api),
                                             .open = table_open,
                                             .close = pico_session_close,
                                             .length = pico_session_length,
                                             .truncate = pico_session_truncate,
                                             .copy = pico_session_copy,
                                             .forward = pico_session_forward,
                                             .commit = pico_session_commit,
                                             .open_with = table_open_with,
                                             .feed = pico_session_feed};
