/*
 * Heads: from the hidden row after the final norm to logits. "lm" gives the next token; "mtp.K" the
 * token K places on; "draft" those of several places at once, fc2 relu(fc1 h)^2, without a softcap
 * (the PicoChat fork of nanochat), or with a shared output what the output matrix, or some of its rows,
 * and the softcap make of h + fc2_s relu(fc1 h)^2 for each place s. One that reads a token adds Wtoken e
 * to fc1 h, with e that token's embedding. See pico_heads_api.
 */
#include <assert.h>

#include "formats/expect.h"
#include "model/forward.h"
#include "model/ops.h"

uint32_t pico_model_widest_head(const pico_model *model) {
    uint32_t draft = model->desc.n_draft * pico_draft_n_vocab(&model->desc); /* at most 64 * 2^24 */
    return draft > model->desc.n_vocab ? draft : model->desc.n_vocab;
}

static pico_status capped(const pico_model *model, const pico_weight *weight,
                          const pico_tensor *hidden, const pico_tensor *logits, uint32_t n_decode) {
    PICO_TRY(pico_op_linear(model, weight, hidden, NULL, logits, n_decode, 0));
    if (model->desc.logit_softcap > 0.0f) {
        pico_softcap_args cap = {.cap = model->desc.logit_softcap, .x = *logits};
        PICO_TRY(model->device->ops->softcap(model->device->self, &cap));
    }
    return PICO_OK;
}

pico_status pico_model_head(const pico_model *model, const pico_tensor *hidden,
                            const pico_tensor *logits, uint32_t n_decode) {
    return capped(model, model->head, hidden, logits, n_decode);
}

/* From the inner rows of a draft head with a shared output to its logits. All slots of all rows are one
 * product, which reads the output matrix once. */
static pico_status share_output(const pico_model *model, const pico_tensor *hidden,
                                const pico_tensor *inner, const pico_tensor *logits) {
    const pico_model_desc *desc = &model->desc;
    const uint32_t rows = (uint32_t)hidden->shape[0], n = rows * desc->n_draft;
    const pico_tensor all = pico_view(model->extra.shifted, 0, PICO_DTYPE_F32, rows,
                                      (int64_t)desc->n_draft * desc->n_embd);
    PICO_TRY(pico_op_linear(model, model->extra.fc2, inner, NULL, &all, rows, 0));
    for (uint32_t s = 0; s < desc->n_draft; s++) {
        pico_axpby_args add = {.a = 1, .b = 1, .x = *hidden, .y = all};
        add.y.shape[1] = desc->n_embd;
        add.y.offset += (uint64_t)s * desc->n_embd * sizeof(float);
        PICO_TRY(model->device->ops->axpby(model->device->self, &add));
    }
    const pico_tensor shifted = pico_view(model->extra.shifted, 0, PICO_DTYPE_F32, n, desc->n_embd);
    const pico_tensor to =
        pico_view(logits->buffer, logits->offset, PICO_DTYPE_F32, n, pico_draft_n_vocab(desc));
    return capped(model, model->extra.out, &shifted, &to, n);
}

/* Rows that the work space of the draft head holds. */
static uint32_t block_of(const pico_model *model, const pico_tensor *logits) {
    if (model->extra.out == NULL) {
        return PICO_HEAD_ROWS;
    }
    /* Slots of several rows are rows of one matrix only where nothing lies between them. */
    return logits->stride[0] == logits->shape[1] ? (uint32_t)PICO_HEAD_ROWS / model->desc.n_draft
                                                 : 1;
}

/* inner += what the embeddings of the tokens say. */
static pico_status add_tokens(const pico_model *model, const pico_tensor *token,
                              const pico_tensor *inner) {
    const uint32_t rows = (uint32_t)inner->shape[0];
    const pico_tensor e =
        pico_view(model->extra.embedded, 0, PICO_DTYPE_F32, rows, model->desc.n_embd);
    PICO_TRY(pico_op_lookup(model, model->embed, token, &e, 0));
    if (model->desc.flags & PICO_EMBED_NORM) {
        PICO_TRY(pico_op_norm(model, &e, &model->embed_norm, &model->embed_norm_bias, &e));
    }
    return pico_op_linear(model, model->extra.token, &e, NULL, inner, rows, 1);
}

/* In blocks of as many rows as the work space holds; a row's result does not depend on the block. */
static pico_status draft(const pico_model *model, const pico_tensor *hidden,
                         const pico_tensor *token, const pico_tensor *logits) {
    const pico_model_desc *desc = &model->desc;
    const uint32_t block = block_of(model, logits);
    for (int64_t begin = 0; begin < hidden->shape[0]; begin += block) {
        int64_t left = hidden->shape[0] - begin;
        uint32_t rows = left < block ? (uint32_t)left : block;
        pico_tensor from = pico_view_rows(hidden, begin, rows);
        pico_tensor to = pico_view_rows(logits, begin, rows);
        pico_tensor inner =
            pico_view(model->extra.inner, 0, PICO_DTYPE_F32, rows, desc->draft_hidden);
        PICO_TRY(pico_op_linear(model, model->extra.fc1, &from, NULL, &inner, rows, 0));
        if (model->extra.token != NULL) {
            pico_tensor after = *token;
            after.offset += (uint64_t)begin * sizeof(int32_t);
            after.shape[0] = rows;
            PICO_TRY(add_tokens(model, &after, &inner));
        }
        PICO_TRY(pico_op_activate(model, PICO_ACT_RELU_SQUARED, &inner));
        if (model->extra.out != NULL) {
            PICO_TRY(share_output(model, &from, &inner, &to));
        } else {
            PICO_TRY(pico_op_linear(model, model->extra.fc2, &inner, NULL, &to, rows, 0));
        }
    }
    return PICO_OK;
}

static uint32_t heads_count(const pico_model *model) {
    return 1 + model->desc.n_mtp_head + (model->desc.n_draft != 0);
}

static pico_status heads_info(const pico_model *model, uint32_t head, pico_head_info *out) {
    const pico_model_desc *desc = &model->desc;
    if (head >= heads_count(model)) {
        return PICO_E_NOT_FOUND;
    }
    *out = (pico_head_info){.name = "lm",
                            .n_slot = 1,
                            .offset = 1,
                            .softcap = desc->logit_softcap,
                            .n_vocab = desc->n_vocab};
    if (head > desc->n_mtp_head) {
        out->name = "draft";
        out->n_slot = desc->n_draft;
        out->offset = model->extra.token != NULL ? 2 : 1;
        out->softcap = model->extra.out != NULL ? desc->logit_softcap : 0.0f;
        out->n_vocab = pico_draft_n_vocab(desc);
        out->vocab_map = desc->n_draft_vocab != 0 ? desc->draft_vocab : NULL;
    } else if (head > 0) {
        out->name = model->extra.mtp_name[head - 1];
        out->offset = head + 1;
    }
    return PICO_OK;
}

static pico_status heads_apply_after(const pico_model *model, uint32_t head,
                                     const pico_tensor *hidden, const pico_tensor *token,
                                     const pico_tensor *logits) {
    if (head >= heads_count(model)) {
        return PICO_E_NOT_FOUND;
    }
    if (head > model->desc.n_mtp_head) {
        return token == NULL && model->extra.token != NULL ? PICO_E_INVALID
                                                           : draft(model, hidden, token, logits);
    }
    /* All of the decode class: a row's result must not depend on how many others there are. */
    return capped(model, head == 0 ? model->head : model->extra.mtp[head - 1], hidden, logits,
                  (uint32_t)hidden->shape[0]);
}

static pico_status heads_apply(const pico_model *model, uint32_t head, const pico_tensor *hidden,
                               const pico_tensor *logits) {
    return heads_apply_after(model, head, hidden, NULL, logits);
}

const pico_heads_api pico_heads_table = {.struct_size = sizeof(pico_heads_api),
                                         .count = heads_count,
                                         .info = heads_info,
                                         .apply = heads_apply,
                                         .apply_after = heads_apply_after};
