/* The forward pass of plugin.h section 5; see ref_model.h. */
#include "ref_model.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "util/half.h"

typedef struct matrix {
    double *v; /* (rows, cols) */
    int64_t rows, cols;
} matrix;

typedef struct ref {
    const pico_model_file *file;
    const pico_model_desc *desc;
    ref_mask attention;
    uint32_t n; /* tokens */
    int failed;
} ref;

static double *doubles(ref *r, int64_t n) {
    double *v = calloc((size_t)n + 1, sizeof *v);
    r->failed |= v == NULL;
    return v;
}

/* The tensor as doubles; v is NULL if it is not in the file. */
static matrix load(ref *r, const char *format, uint32_t layer) {
    char name[64];
    (void)snprintf(name, sizeof name, format, layer);
    const pico_file_tensor *tensor = pico_model_file_find(r->file, name);
    if (tensor == NULL) {
        return (matrix){0};
    }
    matrix m = {.rows = tensor->data.rows, .cols = tensor->data.cols};
    float *row = malloc((size_t)m.cols * sizeof *row);
    m.v = doubles(r, m.rows * m.cols);
    r->failed |= row == NULL;
    for (int64_t i = 0; !r->failed && i < m.rows; i++) {
        pico_weight_row_f32(&tensor->data, i, row);
        for (int64_t j = 0; j < m.cols; j++) {
            m.v[i * m.cols + j] = (double)row[j];
        }
    }
    free(row);
    return m;
}

/* y (out) (+)= x (in) W^T + bias, for every row */
static void product(ref *r, const char *weight, const char *bias, uint32_t layer, const double *x,
                    double *y, int accumulate) {
    matrix w = load(r, weight, layer);
    matrix b = bias == NULL ? (matrix){0} : load(r, bias, layer);
    for (uint32_t t = 0; !r->failed && t < r->n; t++) {
        for (int64_t i = 0; i < w.rows; i++) {
            double sum = b.v == NULL ? 0 : b.v[i];
            for (int64_t j = 0; j < w.cols; j++) {
                sum += w.v[i * w.cols + j] * x[t * w.cols + j];
            }
            y[t * w.rows + i] = sum + (accumulate ? y[t * w.rows + i] : 0);
        }
    }
    free(w.v);
    free(b.v);
}

/* The norm of one vector of n, without weights. */
static void norm_vector(uint32_t kind, double eps, double scale, double *x, int64_t n) {
    double mean = 0, square = 0;
    for (int64_t i = 0; kind == PICO_NORM_LAYER && i < n; i++) {
        mean += x[i] / (double)n;
    }
    for (int64_t i = 0; i < n; i++) {
        square += (x[i] - mean) * (x[i] - mean) / (double)n;
    }
    for (int64_t i = 0; i < n; i++) {
        x[i] = scale * (x[i] - mean) / sqrt(square + eps);
    }
}

static void norm_rows(ref *r, const char *weight, const char *bias, uint32_t layer, const double *x,
                      double *y) {
    int64_t c = r->desc->n_embd;
    matrix w = weight == NULL ? (matrix){0} : load(r, weight, layer);
    matrix b = bias == NULL ? (matrix){0} : load(r, bias, layer);
    memmove(y, x, (size_t)(r->n * c) * sizeof *y);
    for (uint32_t t = 0; !r->failed && t < r->n; t++) {
        norm_vector(r->desc->norm, (double)r->desc->norm_eps, 1, y + t * c, c);
        for (int64_t i = 0; i < c; i++) {
            y[t * c + i] = y[t * c + i] * (w.v == NULL ? 1 : w.v[i]) + (b.v == NULL ? 0 : b.v[i]);
        }
    }
    free(w.v);
    free(b.v);
}

/* Rope and the norm of each head, for one row of heads at position t. */
static void place(const ref *r, double *x, uint32_t heads, uint32_t width, uint32_t t) {
    const pico_model_desc *desc = r->desc;
    uint32_t half = desc->rope_dim / 2;
    for (uint32_t h = 0; h < heads; h++) {
        double *head = x + (size_t)h * width;
        for (uint32_t j = 0; desc->pos == PICO_POS_ROPE && j < half; j++) {
            double exponent = 2.0 * j / desc->rope_dim;
            float angle = (float)t * (float)(1 / pow(desc->rope_base, exponent));
            double c = cos((double)angle), s = sin((double)angle);
            if (desc->rope_table == PICO_DTYPE_BF16) {
                c = (double)pico_f32_of_bf16(pico_bf16_of_f32((float)c));
                s = (double)pico_f32_of_bf16(pico_bf16_of_f32((float)s));
            }
            s = desc->flags & PICO_ROPE_REVERSED ? -s : s;
            uint32_t a = desc->rope_layout == PICO_ROPE_PAIRS ? 2 * j : j;
            uint32_t b = desc->rope_layout == PICO_ROPE_PAIRS ? 2 * j + 1 : j + half;
            double x0 = head[a], x1 = head[b];
            head[a] = x0 * c - x1 * s;
            head[b] = x0 * s + x1 * c;
        }
        if (desc->flags & PICO_QK_NORM) {
            norm_vector(PICO_NORM_RMS, (double)desc->norm_eps, (double)desc->qk_scale, head, width);
        }
    }
}

static int visible(const ref *r, const pico_layer_desc *layer, uint32_t query, uint32_t key) {
    int64_t window = layer->window, limit = r->attention.window_limit;
    if (limit >= 0 && (window < 0 || limit < window)) {
        window = limit;
    }
    return key <= query &&
           (window < 0 || key < r->attention.n_sink || (int64_t)key >= (int64_t)query - window);
}

/* out (n, n_head * head_dim) from q, k, v; score has room for n. */
static void attend(const ref *r, const pico_layer_desc *layer, const double *q, const double *k,
                   const double *v, double *score, double *out) {
    uint32_t width = layer->head_dim, share = layer->n_head / layer->n_kv_head;
    size_t q_row = (size_t)layer->n_head * width, kv_row = (size_t)layer->n_kv_head * width;
    double scale = r->desc->attn_scale > 0 ? (double)r->desc->attn_scale : 1 / sqrt((double)width);
    for (uint32_t t = 0; t < r->n; t++) {
        for (uint32_t h = 0; h < layer->n_head; h++) {
            const double *query = q + t * q_row + (size_t)h * width;
            double *sum = out + t * q_row + (size_t)h * width, best = -INFINITY, total = 0;
            for (uint32_t j = 0; j <= t; j++) {
                const double *key = k + j * kv_row + (size_t)(h / share) * width;
                score[j] = visible(r, layer, t, j) ? 0 : -INFINITY;
                for (uint32_t d = 0; d < width; d++) {
                    score[j] += scale * query[d] * key[d];
                }
                best = score[j] > best ? score[j] : best;
            }
            memset(sum, 0, width * sizeof *sum);
            for (uint32_t j = 0; j <= t; j++) {
                double p = exp(score[j] - best);
                total += p;
                for (uint32_t d = 0; d < width; d++) {
                    sum[d] += p * v[j * kv_row + (size_t)(h / share) * width + d];
                }
            }
            for (uint32_t d = 0; d < width; d++) {
                sum[d] /= total;
            }
        }
    }
}

static double activate(uint32_t kind, double x) {
    switch (kind) {
    case PICO_ACT_SILU:
        return x / (1 + exp(-x));
    case PICO_ACT_GELU_TANH:
        return 0.5 * x * (1 + tanh(sqrt(2 / acos(-1.0)) * (x + 0.044715 * x * x * x)));
    case PICO_ACT_GELU_ERF:
        return 0.5 * x * (1 + erf(x / sqrt(2.0)));
    default:
        return x > 0 ? x * x : 0;
    }
}

static double sigmoid(double x) {
    return 1 / (1 + exp(-x));
}

static double scalar(ref *r, const char *name, uint32_t index) {
    matrix m = load(r, name, 0);
    double value = m.v == NULL ? 0 : m.v[index];
    free(m.v);
    return value;
}

/* v += ve_scale * sigmoid(gate . a) * value_embd[token], head by head */
static void add_value_embedding(ref *r, uint32_t i, const int32_t *token, const double *a,
                                double *v) {
    const pico_layer_desc *layer = &r->desc->layer[i];
    uint32_t width = layer->head_dim;
    matrix table = load(r, "blk.%u.value_embd.weight", i);
    matrix gate = load(r, "blk.%u.value_gate.weight", i);
    for (uint32_t t = 0; !r->failed && t < r->n; t++) {
        for (uint32_t h = 0; h < layer->n_kv_head; h++) {
            double g = 0;
            for (uint32_t j = 0; j < r->desc->ve_width; j++) {
                g += gate.v[h * r->desc->ve_width + j] * a[(size_t)t * r->desc->n_embd + j];
            }
            for (uint32_t d = 0; d < width; d++) {
                size_t at = (size_t)h * width + d;
                v[(size_t)t * layer->n_kv_head * width + at] +=
                    (double)r->desc->ve_scale * sigmoid(g) *
                    table.v[(size_t)token[t] * (size_t)table.cols + at];
            }
        }
    }
    free(table.v), free(gate.v);
}

static void attention_block(ref *r, uint32_t i, const int32_t *token, double *x, double *a) {
    const pico_layer_desc *layer = &r->desc->layer[i];
    size_t q_row = (size_t)layer->n_head * layer->head_dim;
    size_t kv_row = (size_t)layer->n_kv_head * layer->head_dim;
    double *q = doubles(r, (int64_t)(r->n * q_row)), *o = doubles(r, (int64_t)(r->n * q_row));
    double *k = doubles(r, (int64_t)(r->n * kv_row)), *v = doubles(r, (int64_t)(r->n * kv_row));
    double *score = doubles(r, r->n);
    if (!r->failed) {
        norm_rows(r, "blk.%u.attn_norm.weight", "blk.%u.attn_norm.bias", i, x, a);
        product(r, "blk.%u.attn_q.weight", "blk.%u.attn_q.bias", i, a, q, 0);
        product(r, "blk.%u.attn_k.weight", "blk.%u.attn_k.bias", i, a, k, 0);
        product(r, "blk.%u.attn_v.weight", "blk.%u.attn_v.bias", i, a, v, 0);
        if (layer->has_value_embed) {
            add_value_embedding(r, i, token, a, v);
        }
        for (uint32_t t = 0; t < r->n; t++) {
            place(r, q + t * q_row, layer->n_head, layer->head_dim, t);
            place(r, k + t * kv_row, layer->n_kv_head, layer->head_dim, t);
        }
        attend(r, layer, q, k, v, score, o);
        product(r, "blk.%u.attn_output.weight", "blk.%u.attn_output.bias", i, o, x, 1);
    }
    free(q), free(k), free(v), free(o), free(score);
}

static void ffn_block(ref *r, uint32_t i, double *x, double *a) {
    size_t cells = (size_t)r->n * r->desc->layer[i].n_ff;
    double *up = doubles(r, (int64_t)cells), *gate = doubles(r, (int64_t)cells);
    int gated = (r->desc->flags & PICO_FFN_GATED) != 0;
    if (!r->failed) {
        norm_rows(r, "blk.%u.ffn_norm.weight", "blk.%u.ffn_norm.bias", i, x, a);
        product(r, "blk.%u.ffn_up.weight", "blk.%u.ffn_up.bias", i, a, up, 0);
        if (gated) {
            product(r, "blk.%u.ffn_gate.weight", "blk.%u.ffn_gate.bias", i, a, gate, 0);
        }
        for (size_t j = 0; j < cells; j++) {
            up[j] = gated ? activate(r->desc->act, gate[j]) * up[j] : activate(r->desc->act, up[j]);
        }
        product(r, "blk.%u.ffn_down.weight", "blk.%u.ffn_down.bias", i, up, x, 1);
    }
    free(up), free(gate);
}

/* x (n, n_embd) from the embeddings. */
static void embed(ref *r, const int32_t *token, double *x) {
    int64_t c = r->desc->n_embd;
    matrix table = load(r, "token_embd.weight", 0), position = load(r, "position_embd.weight", 0);
    for (int64_t t = 0; !r->failed && t < r->n; t++) {
        for (int64_t i = 0; i < c; i++) {
            x[t * c + i] =
                table.v[token[t] * c + i] + (position.v == NULL ? 0 : position.v[t * c + i]);
        }
    }
    if (r->desc->flags & PICO_EMBED_NORM) {
        norm_rows(r, NULL, NULL, 0, x, x);
    }
    free(table.v), free(position.v);
}

/* x_t += lambda * sigmoid(gate . x_t) * (x_(t-1) as it was): backwards, so that it still is */
static void smear(ref *r, double *x) {
    int64_t c = r->desc->n_embd;
    matrix gate = load(r, "smear_gate.weight", 0);
    double lambda = scalar(r, "smear_lambda.weight", 0);
    for (int64_t t = r->n - 1; !r->failed && t > 0; t--) {
        double g = 0;
        for (int64_t j = 0; j < r->desc->smear_width; j++) {
            g += gate.v[j] * x[t * c + j];
        }
        for (int64_t j = 0; j < c; j++) {
            x[t * c + j] += lambda * sigmoid(g) * x[(t - 1) * c + j];
        }
    }
    free(gate.v);
}

/* a (n, n_embd): the rows after the final norm */
static void hidden_rows(ref *r, const int32_t *token, double *x, double *a) {
    const pico_model_desc *desc = r->desc;
    size_t n = (size_t)r->n * desc->n_embd;
    double *x0 = doubles(r, (int64_t)n), *back = doubles(r, (int64_t)n);
    if (!r->failed) {
        embed(r, token, x);
        if (desc->smear_width != 0) {
            smear(r, x);
        }
        memcpy(x0, x, n * sizeof *x);
        for (uint32_t i = 0; i < desc->n_layer; i++) {
            double resid = scalar(r, "resid_lambdas.weight", i);
            double first = scalar(r, "x0_lambdas.weight", i);
            for (size_t j = 0; (desc->flags & PICO_RESID_LAMBDAS) && j < n; j++) {
                x[j] = resid * x[j] + first * x0[j];
            }
            attention_block(r, i, token, x, a);
            ffn_block(r, i, x, a);
            if ((int32_t)i == desc->backout_layer) {
                memcpy(back, x, n * sizeof *x);
            }
        }
        double lambda = scalar(r, "backout_lambda.weight", 0);
        for (size_t j = 0; desc->backout_layer >= 0 && j < n; j++) {
            x[j] -= lambda * back[j];
        }
        norm_rows(r, "output_norm.weight", "output_norm.bias", 0, x, a);
    }
    free(x0), free(back);
}

/* out (n, n_vocab) from z (n, rows of the head) */
static void crop(const ref *r, const double *z, double *out) {
    double cap = (double)r->desc->logit_softcap;
    for (uint32_t t = 0; t < r->n; t++) {
        for (uint32_t i = 0; i < r->desc->n_vocab; i++) {
            double value = z[(size_t)t * r->desc->n_vocab_rows + i];
            out[(size_t)t * r->desc->n_vocab + i] = cap > 0 ? cap * tanh(value / cap) : value;
        }
    }
}

int ref_model_logits(const pico_model_file *file, const ref_mask *attention, const int32_t *token,
                     uint32_t n, double *logits) {
    ref r = {.file = file, .desc = &file->desc, .attention = *attention, .n = n};
    int64_t c = r.desc->n_embd, rows = r.desc->n_vocab_rows;
    double *x = doubles(&r, n * c), *a = doubles(&r, n * c), *z = doubles(&r, n * rows);
    if (!r.failed) {
        hidden_rows(&r, token, x, a);
        product(&r, r.desc->flags & PICO_TIED_HEAD ? "token_embd.weight" : "output.weight", NULL, 0,
                a, z, 0);
        crop(&r, z, logits);
    }
    free(x), free(a), free(z);
    return !r.failed;
}

int ref_model_mtp(const pico_model_file *file, const int32_t *token, uint32_t n, uint32_t head,
                  double *logits) {
    ref r = {.file = file, .desc = &file->desc, .attention = {.window_limit = -1}, .n = n};
    int64_t c = r.desc->n_embd, rows = r.desc->n_vocab_rows;
    double *x = doubles(&r, n * c), *a = doubles(&r, n * c), *z = doubles(&r, n * rows);
    if (!r.failed) {
        hidden_rows(&r, token, x, a);
        product(&r, "mtp.%u.weight", NULL, head, a, z, 0);
        crop(&r, z, logits);
    }
    free(x), free(a), free(z);
    return !r.failed;
}

/* What a shared output makes of row h and its shift by one slot. */
static void shared_slot(const ref *r, const matrix *out, const double *h, const double *shift,
                        double *logits) {
    const double cap = (double)r->desc->logit_softcap;
    const uint32_t n = r->desc->n_draft_vocab != 0 ? r->desc->n_draft_vocab : r->desc->n_vocab;
    for (uint32_t i = 0; i < n; i++) {
        const int64_t row = r->desc->n_draft_vocab != 0 ? r->desc->draft_vocab[i] : (int64_t)i;
        double sum = 0;
        for (int64_t j = 0; j < out->cols; j++) {
            sum += out->v[row * out->cols + j] * (h[j] + shift[j]);
        }
        logits[i] = cap > 0 ? cap * tanh(sum / cap) : sum;
    }
}

static void shared_slots(ref *r, const double *h, const double *m, double *logits) {
    const int64_t c = r->desc->n_embd, n_slot = r->desc->n_draft;
    const uint32_t n = r->desc->n_draft_vocab != 0 ? r->desc->n_draft_vocab : r->desc->n_vocab;
    matrix out =
        load(r, r->desc->flags & PICO_TIED_HEAD ? "token_embd.weight" : "output.weight", 0);
    double *shift = doubles(r, r->n * n_slot * c);
    if (!r->failed) {
        product(r, "draft_fc2.weight", NULL, 0, m, shift, 0);
    }
    for (int64_t i = 0; !r->failed && i < r->n * n_slot; i++) {
        shared_slot(r, &out, h + i / n_slot * c, shift + i * c, logits + i * n);
    }
    free(out.v), free(shift);
}

/* m += what the tokens after each row say. */
static void read_tokens(ref *r, const int32_t *token, double *m) {
    const int64_t c = r->desc->n_embd, inner = r->desc->draft_hidden;
    matrix table = load(r, "token_embd.weight", 0);
    double *e = doubles(r, r->n * c), *told = doubles(r, r->n * inner);
    if (!r->failed) {
        for (int64_t i = 0; i < r->n; i++) {
            const int32_t next = token[i + 1 < r->n ? i + 1 : i];
            memcpy(e + i * c, table.v + next * c, (size_t)c * sizeof *e);
        }
        if (r->desc->flags & PICO_EMBED_NORM) {
            norm_rows(r, NULL, NULL, 0, e, e);
        }
        product(r, "draft_token.weight", NULL, 0, e, told, 0);
        for (int64_t j = 0; j < r->n * inner; j++) {
            m[j] += told[j];
        }
    }
    free(table.v), free(e), free(told);
}

int ref_model_draft(const pico_model_file *file, const int32_t *token, uint32_t n, double *logits) {
    ref r = {.file = file, .desc = &file->desc, .attention = {.window_limit = -1}, .n = n};
    int64_t c = r.desc->n_embd, inner = r.desc->draft_hidden;
    double *x = doubles(&r, n * c), *a = doubles(&r, n * c), *m = doubles(&r, n * inner);
    if (!r.failed) {
        hidden_rows(&r, token, x, a);
        product(&r, "draft_fc1.weight", NULL, 0, a, m, 0);
        if (r.desc->draft_flags & PICO_DRAFT_READS_TOKEN) {
            read_tokens(&r, token, m);
        }
        for (int64_t j = 0; j < n * inner; j++) {
            m[j] = activate(PICO_ACT_RELU_SQUARED, m[j]);
        }
        if (r.desc->draft_flags & PICO_DRAFT_SHARED_OUTPUT) {
            shared_slots(&r, a, m, logits);
        } else {
            product(&r, "draft_fc2.weight", NULL, 0, m, logits, 0);
        }
    }
    free(x), free(a), free(m);
    return !r.failed;
}
