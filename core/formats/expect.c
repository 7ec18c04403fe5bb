/*
 * The table of the tensors that a description demands, and the comparison of a file with it; see
 * expect.h.
 */
#include "formats/expect.h"

#include <stdlib.h>
#include <string.h>

typedef struct emitter {
    pico_expect_fn visit;
    void *arg;
    pico_status status; /* of the first visit that failed */
} emitter;

/* A tensor (rows, cols), or (cols) if rows is 0. */
static void emit(emitter *to, const char *name, int64_t rows, int64_t cols) {
    if (to->status != PICO_OK) {
        return;
    }
    pico_expected e = {.rank = rows == 0 ? 1 : 2, .shape = {1, 1, 1, 1}};
    (void)snprintf(e.name, sizeof e.name, "%s", name);
    e.shape[0] = rows == 0 ? cols : rows;
    e.shape[1] = rows == 0 ? 1 : cols;
    to->status = to->visit(to->arg, &e);
}

/* NAME.weight and NAME.bias, as far as they are wanted; the bias has one value for each row. */
static void emit_pair(emitter *to, const char *prefix, const char *name, int weight, int bias,
                      int64_t rows, int64_t cols) {
    char full[64];
    if (weight) {
        (void)snprintf(full, sizeof full, "%s%s.weight", prefix, name);
        emit(to, full, rows, cols);
    }
    if (bias) {
        (void)snprintf(full, sizeof full, "%s%s.bias", prefix, name);
        emit(to, full, 0, rows == 0 ? cols : rows);
    }
}

static void emit_layer(emitter *to, const pico_model_desc *d, uint32_t i) {
    const pico_layer_desc *layer = &d->layer[i];
    int64_t width = d->n_embd, heads = (int64_t)layer->n_head * layer->head_dim;
    int64_t kv = (int64_t)layer->n_kv_head * layer->head_dim, ff = layer->n_ff;
    int norm_weight = (d->flags & PICO_NORM_WEIGHT) != 0,
        norm_bias = (d->flags & PICO_NORM_BIAS) != 0;
    int qkv_bias = (d->flags & PICO_BIAS_QKV) != 0, out_bias = (d->flags & PICO_BIAS_OUT) != 0;
    int ffn_bias = (d->flags & PICO_BIAS_FFN) != 0, gated = (d->flags & PICO_FFN_GATED) != 0;
    char prefix[24];
    (void)snprintf(prefix, sizeof prefix, "blk.%u.", i);
    emit_pair(to, prefix, "attn_norm", norm_weight, norm_bias, 0, width);
    emit_pair(to, prefix, "attn_q", 1, qkv_bias, heads, width);
    emit_pair(to, prefix, "attn_k", 1, qkv_bias, kv, width);
    emit_pair(to, prefix, "attn_v", 1, qkv_bias, kv, width);
    emit_pair(to, prefix, "attn_output", 1, out_bias, width, heads);
    if (layer->has_value_embed) {
        emit_pair(to, prefix, "value_embd", 1, 0, d->n_vocab_rows, kv);
        emit_pair(to, prefix, "value_gate", 1, 0, layer->n_kv_head, d->ve_width);
    }
    emit_pair(to, prefix, "ffn_norm", norm_weight, norm_bias, 0, width);
    emit_pair(to, prefix, "ffn_gate", gated, gated && ffn_bias, ff, width);
    emit_pair(to, prefix, "ffn_up", 1, ffn_bias, ff, width);
    emit_pair(to, prefix, "ffn_down", 1, ffn_bias, width, ff);
}

pico_status pico_expect_each(const pico_model_desc *d, pico_expect_fn visit, void *arg) {
    emitter to = {.visit = visit, .arg = arg};
    int64_t width = d->n_embd, rows = d->n_vocab_rows;
    int norm_weight = (d->flags & PICO_NORM_WEIGHT) != 0,
        norm_bias = (d->flags & PICO_NORM_BIAS) != 0;
    emit_pair(&to, "", "token_embd", 1, 0, rows, width);
    if (d->flags & PICO_EMBED_NORM) {
        emit_pair(&to, "", "token_embd_norm", norm_weight, norm_bias, 0, width);
    }
    if (d->pos == PICO_POS_LEARNED) {
        emit(&to, "position_embd.weight", d->n_ctx_train, width);
    }
    if (d->smear_width != 0) {
        emit(&to, "smear_gate.weight", 0, d->smear_width);
        emit(&to, "smear_lambda.weight", 0, 1);
    }
    if (d->flags & PICO_RESID_LAMBDAS) {
        emit(&to, "resid_lambdas.weight", 0, d->n_layer);
        emit(&to, "x0_lambdas.weight", 0, d->n_layer);
    }
    for (uint32_t i = 0; i < d->n_layer; i++) {
        emit_layer(&to, d, i);
    }
    if (d->backout_layer >= 0) {
        emit(&to, "backout_lambda.weight", 0, 1);
    }
    emit_pair(&to, "", "output_norm", norm_weight, norm_bias, 0, width);
    emit_pair(&to, "", "output", (d->flags & PICO_TIED_HEAD) == 0, 0, rows, width);
    for (uint32_t k = 0; k < d->n_mtp_head; k++) {
        char name[24];
        (void)snprintf(name, sizeof name, "mtp.%u", k);
        emit_pair(&to, "", name, 1, 0, rows, width);
    }
    if (d->n_draft != 0) {
        emit(&to, "draft_fc1.weight", d->draft_hidden, width);
        emit(&to, "draft_fc2.weight", pico_draft_slot_rows(d) * d->n_draft, d->draft_hidden);
        if (d->draft_flags & PICO_DRAFT_READS_TOKEN) {
            emit(&to, "draft_token.weight", d->draft_hidden, width);
        }
    }
    return to.status;
}

int64_t pico_draft_slot_rows(const pico_model_desc *d) {
    return d->draft_flags & PICO_DRAFT_SHARED_OUTPUT ? d->n_embd : d->n_vocab;
}

uint32_t pico_draft_n_vocab(const pico_model_desc *d) {
    return d->n_draft_vocab != 0 ? d->n_draft_vocab : d->n_vocab;
}

const char *pico_shape_format(pico_shape_text *out, uint32_t rank, const int64_t *shape) {
    size_t used = 1, room = sizeof out->text;
    (void)snprintf(out->text, room, "(");
    for (uint32_t i = 0; i < rank && i < 4; i++) {
        int n = snprintf(out->text + used, room - used, "%s%lld", i == 0 ? "" : ", ",
                         (long long)shape[i]);
        used += n > 0 ? (size_t)n : 0;
    }
    (void)snprintf(out->text + used, room - used, ")");
    return out->text;
}

/* ---- comparison ---- */

typedef struct matcher {
    pico_model_file *file;
    pico_file_tensor **by_name; /* (n_tensor), sorted by name */
    char *taken;                /* (n_tensor), parallel to by_name */
    pico_file_tensor *ordered;  /* (n_tensor) the result */
    uint32_t n_taken;
    pico_error *err;
} matcher;

static int compare_names(const void *a, const void *b) {
    const pico_file_tensor *const *x = a;
    const pico_file_tensor *const *y = b;
    return strcmp((*x)->name, (*y)->name);
}

/* ggml drops outer dimensions of 1, so (1, 32) and (32) are the same shape here. */
static int same_shape(const pico_file_tensor *tensor, const pico_expected *e) {
    uint32_t i = 0, j = 0;
    while (i + 1 < tensor->rank && tensor->shape[i] == 1) {
        i++;
    }
    while (j + 1 < e->rank && e->shape[j] == 1) {
        j++;
    }
    return tensor->rank - i == e->rank - j &&
           memcmp(tensor->shape + i, e->shape + j, (e->rank - j) * sizeof *e->shape) == 0;
}

static pico_status match_one(void *arg, const pico_expected *e) {
    matcher *m = arg;
    pico_shape_text expected, found;
    (void)pico_shape_format(&expected, e->rank, e->shape);
    uint32_t low = 0, high = m->file->n_tensor;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        int order = strcmp(m->by_name[middle]->name, e->name);
        if (order == 0) {
            low = middle;
            break;
        }
        low = order < 0 ? middle + 1 : low;
        high = order < 0 ? high : middle;
    }
    if (low >= m->file->n_tensor || strcmp(m->by_name[low]->name, e->name) != 0) {
        return pico_fail(m->err, PICO_E_CORRUPT, "tensor %s of shape %s is missing", e->name,
                         expected.text);
    }
    const pico_file_tensor *tensor = m->by_name[low];
    if (!same_shape(tensor, e)) {
        return pico_fail(m->err, PICO_E_CORRUPT,
                         "tensor %s has shape %s, expected %s from the hyper-parameters", e->name,
                         pico_shape_format(&found, tensor->rank, tensor->shape), expected.text);
    }
    pico_file_tensor *slot = &m->ordered[m->n_taken++];
    *slot = *tensor;
    slot->rank = e->rank;
    memcpy(slot->shape, e->shape, sizeof slot->shape);
    m->taken[low] = 1;
    return PICO_OK;
}

static pico_status refuse_left_over(const matcher *m) {
    pico_shape_text shape;
    for (uint32_t i = 0; i < m->file->n_tensor; i++) {
        const pico_file_tensor *tensor = m->by_name[i];
        if (!m->taken[i]) {
            const char *hint = strncmp(tensor->name, "rope_freqs", 10) == 0
                                   ? " (a scaled rope is not supported)"
                                   : "";
            return pico_fail(m->err, PICO_E_CORRUPT,
                             "tensor %s %s belongs to nothing in the description of this model%s; "
                             "%u tensors are left over",
                             tensor->name, pico_shape_format(&shape, tensor->rank, tensor->shape),
                             hint, m->file->n_tensor - m->n_taken);
        }
    }
    return PICO_OK;
}

pico_status pico_expect_match(pico_model_file *file, pico_error *err) {
    uint32_t n = file->n_tensor;
    matcher m = {.file = file, .err = err};
    pico_status status = PICO_OK;
    m.by_name = calloc(n == 0 ? 1 : n, sizeof *m.by_name);
    m.taken = calloc(n == 0 ? 1 : n, 1);
    m.ordered = pico_arena_alloc(&file->arena, n, sizeof *m.ordered);
    if (m.by_name == NULL || m.taken == NULL || m.ordered == NULL) {
        status = pico_fail(err, PICO_E_NOMEM, "out of memory for %u tensors", n);
        goto cleanup;
    }
    for (uint32_t i = 0; i < n; i++) {
        m.by_name[i] = &file->tensor[i];
    }
    qsort(m.by_name, n, sizeof *m.by_name, compare_names);
    for (uint32_t i = 1; i < n; i++) {
        if (strcmp(m.by_name[i - 1]->name, m.by_name[i]->name) == 0) {
            status = pico_fail(err, PICO_E_CORRUPT, "tensor %s exists twice", m.by_name[i]->name);
            goto cleanup;
        }
    }
    status = pico_expect_each(&file->desc, match_one, &m);
    if (status == PICO_OK) {
        status = refuse_left_over(&m);
    }
    if (status == PICO_OK) {
        file->tensor = m.ordered;
    }
cleanup:
    free(m.taken);
    free(m.by_name);
    return status;
}
