/* Descriptions of models that are yet to be trained; see fresh.h. */
#include "model/fresh.h"

#include <string.h>

#include "formats/expect.h"
#include "formats/nanochat.h"
#include "model/model.h"
#include "model/shapes.h"

static uint64_t round_up(uint64_t x, uint64_t unit) {
    return (x + unit - 1) / unit * unit;
}

static int is_family(const pico_fresh *fresh, const char *name) {
    return strcmp(fresh->family, name) == 0;
}

/* Fills what was left to the rules. */
static pico_status complete(pico_fresh *f, pico_error *err) {
    const uint32_t head_dim = is_family(f, "nanochat") ? 128 : 64;
    if (f->n_layer == 0 || f->n_layer > PICO_MAX_LAYER || f->n_embd > PICO_MAX_WIDTH ||
        f->n_head > PICO_MAX_HEAD || f->n_vocab == 0 || f->n_vocab > PICO_MAX_VOCAB ||
        f->n_ctx == 0 || f->n_ctx > PICO_MAX_CONTEXT) {
        return pico_fail(
            err, PICO_E_INVALID,
            "a model of %u layers, width %u, %u heads, %u tokens and context %u is out "
            "of the limits",
            f->n_layer, f->n_embd, f->n_head, f->n_vocab, f->n_ctx);
    }
    if (f->n_embd == 0) {
        f->n_embd = (uint32_t)round_up(64 * (uint64_t)f->n_layer,
                                       f->n_head != 0 ? 2 * (uint64_t)f->n_head : head_dim);
    }
    if (f->n_head == 0 && f->n_embd % head_dim != 0) {
        return pico_fail(err, PICO_E_INVALID,
                         "a width of %u is no multiple of the head width of %u; say how many heads "
                         "(n_head)",
                         f->n_embd, head_dim);
    }
    f->n_head = f->n_head == 0 ? f->n_embd / head_dim : f->n_head;
    if (f->n_embd % (2 * f->n_head) != 0) {
        return pico_fail(err, PICO_E_INVALID,
                         "%u heads do not divide a width of %u into even parts", f->n_head,
                         f->n_embd);
    }
    f->n_kv_head = f->n_kv_head == 0 ? f->n_head : f->n_kv_head;
    if (f->n_ff == 0) {
        f->n_ff = is_family(f, "llama") ? (uint32_t)round_up(8 * (uint64_t)f->n_embd / 3, 32)
                                        : 4 * f->n_embd;
    }
    f->draft_hidden = f->n_draft == 0 ? 0 : f->draft_hidden == 0 ? f->n_embd / 2 : f->draft_hidden;
    return PICO_OK;
}

static pico_status describe_nanochat(const pico_fresh *f, pico_arena *arena, pico_model_desc *desc,
                                     pico_error *err) {
    const uint32_t generation =
        f->generation == PICO_GENERATION_AUTO ? (uint32_t)PICO_GENERATION_G4 : f->generation;
    const char *windows = f->windows != NULL                 ? f->windows
                          : generation == PICO_GENERATION_G0 ? ""
                                                             : "SSSL";
    pico_nanochat_config config = {.sequence_len = f->n_ctx,
                                   .vocab_size = f->n_vocab,
                                   .n_layer = f->n_layer,
                                   .n_head = f->n_head,
                                   .n_kv_head = f->n_kv_head,
                                   .n_embd = f->n_embd};
    const size_t n = strlen(windows);
    if (n >= sizeof config.window_pattern || strspn(windows, "SL") != n) {
        return pico_fail(err, PICO_E_INVALID,
                         "windows \"%.64s\": expected S (short) and L (long) for one layer after "
                         "the other, as in SSSL",
                         windows);
    }
    memcpy(config.window_pattern, windows, n);
    return pico_nanochat_describe_new(&config, generation, arena, desc, err);
}

static pico_status describe_plain(const pico_fresh *f, pico_arena *arena, pico_model_desc *desc,
                                  pico_error *err) {
    const pico_plain_shape shape = {.family = f->family,
                                    .n_layer = f->n_layer,
                                    .n_embd = f->n_embd,
                                    .n_head = f->n_head,
                                    .n_ff = f->n_ff,
                                    .n_vocab = f->n_vocab,
                                    .n_ctx = f->n_ctx};
    pico_layer_desc *layer = pico_arena_alloc(arena, f->n_layer, sizeof *layer);
    if (layer == NULL) {
        return pico_fail(err, PICO_E_NOMEM, "out of memory");
    }
    if (f->windows != NULL) {
        return pico_fail(err, PICO_E_INVALID, "windows of layers belong to nanochat, not to %s",
                         f->family);
    }
    pico_plain_shape_describe(&shape, layer, desc);
    return PICO_OK;
}

/* What people choose in every family. */
static void add_choices(const pico_fresh *f, pico_model_desc *desc) {
    pico_layer_desc *layer = (pico_layer_desc *)(uintptr_t)desc->layer; /* of the caller's arena */
    for (uint32_t i = 0; i < desc->n_layer; i++) {
        layer[i].n_kv_head = f->n_kv_head;
        layer[i].n_ff = f->n_ff;
    }
    desc->flags |= f->tied ? (uint32_t)PICO_TIED_HEAD : 0u;
    desc->n_mtp_head = f->n_mtp_head;
    desc->n_draft = f->n_draft;
    desc->draft_hidden = f->draft_hidden;
    desc->draft_flags = f->n_draft != 0 ? f->draft_flags : 0;
}

pico_status pico_fresh_describe(const pico_fresh *fresh, pico_arena *arena, pico_model_desc *desc,
                                pico_error *err) {
    pico_fresh f = *fresh;
    pico_status status = complete(&f, err);
    if (status == PICO_OK) {
        status = is_family(&f, "nanochat") ? describe_nanochat(&f, arena, desc, err)
                                           : describe_plain(&f, arena, desc, err);
    }
    if (status == PICO_OK) {
        add_choices(&f, desc);
        status = pico_desc_check(desc, err);
        status = status == PICO_E_CORRUPT ? PICO_E_INVALID : status;
    }
    return status;
}

pico_status pico_model_fresh(const pico_fresh *fresh, pico_model_file **out, pico_error *err) {
    pico_arena arena = {0};
    pico_model_desc desc;
    *out = NULL;
    pico_status status = pico_fresh_describe(fresh, &arena, &desc, err);
    if (status == PICO_OK) {
        status = pico_model_synthetic_from(&desc, PICO_DTYPE_F32, 1, out, err);
    }
    if (status == PICO_OK) {
        (*out)->format_name = "fresh";
        (*out)->path = "the fresh model";
    }
    pico_arena_free(&arena);
    return status;
}
