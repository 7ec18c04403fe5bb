/*
 * Whether a model description makes sense, whoever wrote it; see expect.h. Every product that later
 * code forms from a description stays far within 64 bits when this has passed.
 */
#include <math.h>
#include <string.h>

#include "formats/expect.h"

enum {
    ALL_FLAGS = PICO_BIAS_QKV | PICO_BIAS_OUT | PICO_BIAS_FFN | PICO_NORM_WEIGHT | PICO_NORM_BIAS |
                PICO_EMBED_NORM | PICO_TIED_HEAD | PICO_FFN_GATED | PICO_QK_NORM |
                PICO_RESID_LAMBDAS | PICO_ROPE_REVERSED
};

typedef struct range {
    const char *what;
    int64_t value, min, max;
} range;

static pico_status check_ranges(const range *ranges, size_t n, const char *where, pico_error *err) {
    for (size_t i = 0; i < n; i++) {
        const range *r = &ranges[i];
        if (r->value < r->min || r->value > r->max) {
            return pico_fail(err, PICO_E_CORRUPT, "%s%s is %lld, expected %lld to %lld", where,
                             r->what, (long long)r->value, (long long)r->min, (long long)r->max);
        }
    }
    return PICO_OK;
}

static pico_status check_integers(const pico_model_desc *d, pico_error *err) {
    int64_t rows_max = PICO_MAX_VOCAB, has_draft = d->n_draft != 0 || d->draft_hidden != 0;
    const range ranges[] = {
        {"number of layers", d->n_layer, 1, PICO_MAX_LAYER},
        {"model width (n_embd)", d->n_embd, 1, PICO_MAX_WIDTH},
        {"vocabulary size", d->n_vocab, 1, PICO_MAX_VOCAB},
        {"padded vocabulary size", d->n_vocab_rows, d->n_vocab, rows_max},
        {"context length", d->n_ctx_train, 1, PICO_MAX_CONTEXT},
        {"set of feature flags", d->flags, 0, d->flags & ALL_FLAGS},
        {"norm kind", d->norm, PICO_NORM_RMS, PICO_NORM_LAYER},
        {"position kind", d->pos, PICO_POS_ROPE, PICO_POS_LEARNED},
        {"activation", d->act, PICO_ACT_SILU, PICO_ACT_RELU_SQUARED},
        {"smear width", d->smear_width, 0, d->n_embd},
        {"width of the value-embedding gate", d->ve_width, 0, d->n_embd},
        {"backout layer", d->backout_layer, -1, (int64_t)d->n_layer - 1},
        {"number of multi-token heads", d->n_mtp_head, 0, PICO_MAX_EXTRA_HEAD},
        {"rope layout", d->rope_layout, d->pos == PICO_POS_ROPE, PICO_ROPE_HALVES},
        {"rope table type", d->rope_table, 0, PICO_DTYPE_BF16},
        {"number of draft slots", d->n_draft, has_draft, has_draft ? PICO_MAX_EXTRA_HEAD : 0},
        {"width of the draft head", d->draft_hidden, has_draft, has_draft ? PICO_MAX_WIDTH : 0},
        {"set of flags of the draft head", d->draft_flags, 0,
         has_draft ? PICO_DRAFT_SHARED_OUTPUT | PICO_DRAFT_READS_TOKEN : 0},
        {"vocabulary size of the draft head", d->n_draft_vocab, 0,
         d->draft_flags & PICO_DRAFT_SHARED_OUTPUT ? d->n_vocab : 0},
    };
    return check_ranges(ranges, sizeof ranges / sizeof *ranges, "", err);
}

static pico_status check_draft_vocab(const pico_model_desc *d, pico_error *err) {
    if (d->n_draft_vocab != 0 && d->draft_vocab == NULL) {
        return pico_fail(err, PICO_E_CORRUPT, "the vocabulary of the draft head has no token ids");
    }
    for (uint32_t i = 0; i < d->n_draft_vocab; i++) {
        const int64_t id = d->draft_vocab[i],
                      least = i == 0 ? 0 : (int64_t)d->draft_vocab[i - 1] + 1;
        if (id < least || id >= d->n_vocab) {
            return pico_fail(
                err, PICO_E_CORRUPT,
                "token %u of the draft head's vocabulary has id %lld, expected %lld to "
                "%u (ids ascend)",
                i, (long long)id, (long long)least, d->n_vocab - 1);
        }
    }
    return PICO_OK;
}

static pico_status check_floats(const pico_model_desc *d, pico_error *err) {
    const struct {
        const char *what;
        double value;
        int positive;
    } floats[] = {
        {"norm epsilon", (double)d->norm_eps, 0},
        {"rope base", d->rope_base, d->pos == PICO_POS_ROPE},
        {"attention scale", (double)d->attn_scale, 0},
        {"scale of normalised q and k", (double)d->qk_scale, (d->flags & PICO_QK_NORM) != 0},
        {"logit soft cap", (double)d->logit_softcap, 0},
        {"value-embedding scale", (double)d->ve_scale, 0},
    };
    for (size_t i = 0; i < sizeof floats / sizeof *floats; i++) {
        double value = floats[i].value;
        if (!isfinite(value) || value < 0.0 || (floats[i].positive && value <= 0.0)) {
            return pico_fail(err, PICO_E_CORRUPT, "%s is %g, expected a finite number %s 0",
                             floats[i].what, value, floats[i].positive ? "above" : "not below");
        }
    }
    return PICO_OK;
}

/* The forward pass looks the embedding of the token before up again, without its place, and takes
 * zeros at the start of a text; a norm must leave those zeros. */
static pico_status check_smear(const pico_model_desc *d, pico_error *err) {
    const char *fault = NULL;
    if (d->smear_width == 0) {
        return PICO_OK;
    }
    if (d->pos == PICO_POS_LEARNED) {
        fault = "learned positions";
    } else if ((d->flags & PICO_EMBED_NORM) && !(d->norm_eps > 0.0f)) {
        fault = "an embedding norm without epsilon";
    } else if ((d->flags & PICO_EMBED_NORM) && (d->flags & PICO_NORM_BIAS)) {
        fault = "an embedding norm with a bias";
    }
    return fault == NULL ? PICO_OK
                         : pico_fail(err, PICO_E_UNSUPPORTED,
                                     "a model with smear and %s is not computed here", fault);
}

static pico_status check_layer(const pico_model_desc *d, uint32_t i, pico_error *err) {
    const pico_layer_desc *layer = &d->layer[i];
    char where[32];
    (void)snprintf(where, sizeof where, "layer %u: ", i);
    const range ranges[] = {
        {"number of heads", layer->n_head, 1, PICO_MAX_HEAD},
        {"number of KV heads", layer->n_kv_head, 1, layer->n_head},
        {"head width", layer->head_dim, 1, PICO_MAX_WIDTH},
        {"feed-forward width", layer->n_ff, 1, PICO_MAX_WIDTH},
        {"heads times head width", (int64_t)layer->n_head * layer->head_dim, 1, PICO_MAX_WIDTH},
        {"attention window", layer->window, -1, PICO_MAX_CONTEXT},
        {"value-embedding mark", layer->has_value_embed, 0, 1},
        {"width of the value-embedding gate", d->ve_width, layer->has_value_embed, PICO_MAX_WIDTH},
    };
    pico_status status = check_ranges(ranges, sizeof ranges / sizeof *ranges, where, err);
    if (status != PICO_OK) {
        return status;
    }
    if (layer->n_head % layer->n_kv_head != 0) {
        return pico_fail(err, PICO_E_CORRUPT,
                         "%s%u heads cannot share %u KV heads evenly: expected a divisor", where,
                         layer->n_head, layer->n_kv_head);
    }
    if (d->pos == PICO_POS_ROPE && (d->rope_dim % 2 != 0 || d->rope_dim > layer->head_dim)) {
        return pico_fail(err, PICO_E_CORRUPT,
                         "%srope turns %u dimensions, expected an even number of at most %u (the "
                         "head width)",
                         where, d->rope_dim, layer->head_dim);
    }
    return PICO_OK;
}

pico_status pico_desc_check(const pico_model_desc *d, pico_error *err) {
    if (memchr(d->family, '\0', sizeof d->family) == NULL || d->family[0] == '\0') {
        return pico_fail(err, PICO_E_CORRUPT, "the model family has no name");
    }
    pico_status status = check_integers(d, err);
    if (status == PICO_OK) {
        status = check_floats(d, err);
    }
    if (status == PICO_OK) {
        status = check_smear(d, err);
    }
    if (status == PICO_OK) {
        status = check_draft_vocab(d, err);
    }
    if (status == PICO_OK && d->pos == PICO_POS_ROPE) {
        const range ranges[] = {
            {"number of rope dimensions", d->rope_dim, 2, PICO_MAX_WIDTH},
        };
        status = check_ranges(ranges, sizeof ranges / sizeof *ranges, "", err);
        if (status == PICO_OK && d->rope_table != PICO_DTYPE_F32 &&
            d->rope_table != PICO_DTYPE_BF16) {
            status = pico_fail(err, PICO_E_CORRUPT, "the rope table is in %s, expected F32 or BF16",
                               pico_dtype_name(d->rope_table));
        }
    }
    for (uint32_t i = 0; status == PICO_OK && i < d->n_layer; i++) {
        status = check_layer(d, i, err);
    }
    return status;
}
