/*
 * Floating point operations of a model in training, as its formulas ask for them: what is computed
 * twice to save memory is counted once, and only products count. For one row,
 *   forward:   2 x parameters that multiply + attention, 4 x heads x head_dim x visible keys
 *   backward:  twice that, one half for the gradients of parameters, one for those of inputs
 * so a whole step is 6 x parameters + 12 x heads x head_dim x keys. Keys are those of the sequence, at
 * most the window: that half of them lie in the future is not taken off. Embeddings do not multiply,
 * a matrix that is tied to one does. Heads count where they run.
 */
#include "formats/expect.h"
#include "train/internal.h"

/* Elements of a matrix that rows are multiplied with; 0 for none. */
static double elements(const train_param *p) {
    return p == NULL ? 0 : (double)p->rows * (double)p->cols;
}

static double layer_parameters(const pico_train *t, uint32_t i) {
    const train_layer *l = &t->layer[i];
    return elements(l->q) + elements(l->k) + elements(l->v) + elements(l->o) + elements(l->gate) +
           elements(l->up) + elements(l->down) + elements(l->value_gate);
}

static double trunk_parameters(const pico_train *t) {
    double sum = elements(t->smear_gate);
    for (uint32_t i = 0; i < t->desc->n_layer; i++) {
        sum += layer_parameters(t, i);
    }
    return sum;
}

double train_count_trunk(const pico_train *t, uint32_t length) {
    double keys = 0;
    for (uint32_t i = 0; i < t->desc->n_layer; i++) {
        const pico_layer_desc *layer = &t->desc->layer[i];
        const uint32_t window = layer->window < 0 || (uint32_t)layer->window > length
                                    ? length
                                    : (uint32_t)layer->window;
        keys += (double)layer->n_head * layer->head_dim * window;
    }
    return 2 * trunk_parameters(t) + 4 * keys;
}

/* A head's matrices without the rows that only pad the vocabulary. An output matrix that the draft
 * head shares counts for every slot, because every slot multiplies with it. */
static double head_parameters(const pico_train *t, uint32_t head) {
    if (head > t->desc->n_mtp_head) {
        const int shared = (t->desc->draft_flags & PICO_DRAFT_SHARED_OUTPUT) != 0;
        const double slot = (double)pico_draft_n_vocab(t->desc) * t->desc->n_embd;
        return elements(t->fc1) + elements(t->fc2) + elements(t->draft_token) +
               (shared ? t->desc->n_draft * slot : 0);
    }
    return (double)t->desc->n_vocab * t->desc->n_embd;
}

double train_count_head(const pico_train *t, uint32_t head) {
    return 2 * head_parameters(t, head);
}

double train_count_head_backward(const pico_train *t, uint32_t head) {
    if (t->kept) {
        return 4 * head_parameters(t, head);
    }
    /* The trunk is frozen: no gradient of its rows; a shared output has one of its inputs alone. */
    return 2 * head_parameters(t, head) + (head > t->desc->n_mtp_head ? 2 * elements(t->fc2) : 0);
}

void train_count(pico_train *t, double operations) {
    t->operations += operations;
    if (t->params.flags & PICO_TRAIN_FROZEN) {
        t->model->device->frozen_operations += operations;
    }
}

double pico_train_operations(const pico_train *train, double *frozen) {
    *frozen = train->model->device->frozen_operations;
    return train->operations;
}

double pico_train_multiplied(const pico_train *train) {
    double sum = trunk_parameters(train);
    const uint32_t n_heads = 1 + train->desc->n_mtp_head + (train->desc->n_draft != 0);
    for (uint32_t head = 0; head < n_heads; head++) {
        sum += head_parameters(train, head);
    }
    return sum;
}

int pico_train_is_bf16(const pico_train *train) {
    return train->compute == PICO_COMPUTE_BF16;
}
