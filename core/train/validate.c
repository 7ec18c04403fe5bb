/* Cross-entropy and bits per byte over held-out rows; see validate.h. */
#include "train/validate.h"

#include <math.h>
#include <stdlib.h>

#include "train/internal.h"

struct pico_train_meter {
    pico_train *train;
    const pico_tokenizer *tokenizer;
    pico_train_data *data;
    uint32_t length, n_seq, block;
    uint64_t n_rows;
    pico_buffer *ids, *losses;    /* I32, F32 (block) */
    int32_t *tokens, *x, *target; /* (n_seq, length + 1), (n_seq, length), (n_seq, length) */
    float *ce;                    /* (block) */
};

typedef struct sums {
    double nats, counted; /* over all targets; over those that have text */
    uint64_t n, bytes;
} sums;

pico_status pico_train_meter_open(pico_train *train, const pico_tokenizer *tokenizer,
                                  pico_train_data *data, uint32_t length, uint64_t n_rows,
                                  pico_train_meter **out, pico_error *err) {
    *out = NULL;
    pico_train_meter *m = calloc(1, sizeof *m);
    if (m == NULL) {
        return pico_fail(err, PICO_E_NOMEM, "out of memory");
    }
    *m = (pico_train_meter){.train = train,
                            .tokenizer = tokenizer,
                            .data = data,
                            .length = length,
                            .n_seq = train->params.max_rows / length,
                            .block = train->params.max_logit_rows,
                            .n_rows = pico_train_data_rows(data)};
    m->n_rows = n_rows < m->n_rows ? n_rows : m->n_rows;
    const size_t rows = (size_t)m->n_seq * length;
    m->tokens = calloc(rows + m->n_seq, sizeof *m->tokens);
    m->x = calloc(rows, sizeof *m->x);
    m->target = calloc(rows, sizeof *m->target);
    m->ce = calloc(m->block, sizeof *m->ce);
    pico_status status = m->tokens == NULL || m->x == NULL || m->target == NULL || m->ce == NULL
                             ? pico_fail(err, PICO_E_NOMEM, "out of memory")
                             : PICO_OK;
    if (status == PICO_OK) {
        status = train->ops->buffer_alloc(train->self, m->block * sizeof(int32_t), &m->ids, err);
    }
    if (status == PICO_OK) {
        status = train->ops->buffer_alloc(train->self, m->block * sizeof(float), &m->losses, err);
    }
    if (status != PICO_OK) {
        pico_train_meter_close(m);
        return status;
    }
    *out = m;
    return PICO_OK;
}

void pico_train_meter_close(pico_train_meter *m) {
    if (m != NULL) {
        m->train->ops->buffer_free(m->train->self, m->ids);
        m->train->ops->buffer_free(m->train->self, m->losses);
        free(m->tokens);
        free(m->x);
        free(m->target);
        free(m->ce);
        free(m);
    }
}

static void count(const pico_train_meter *m, uint32_t begin, uint32_t n, sums *total) {
    for (uint32_t i = 0; i < n; i++) {
        const int32_t target = m->target[begin + i];
        const size_t bytes =
            pico_tokenizer_is_control(m->tokenizer, target)
                ? 0
                : pico_tokenizer_piece(m->tokenizer, m->x[begin + i], target, NULL, 0);
        total->nats += (double)m->ce[i];
        total->n++;
        total->counted += bytes > 0 ? (double)m->ce[i] : 0;
        total->bytes += bytes;
    }
}

static pico_status measure_block(pico_train_meter *m, uint32_t begin, uint32_t n, sums *total,
                                 pico_error *err) {
    pico_train *t = m->train;
    pico_tensor logits, d;
    pico_status status = train_logits(t, 0, begin, n, &logits, &d, err);
    const pico_loss_args args = {.temperature = 1,
                                 .logits = logits,
                                 .target = pico_view_vector(m->ids, 0, PICO_DTYPE_I32, n),
                                 .ce = pico_view_vector(m->losses, 0, PICO_DTYPE_F32, n)};
    if (status == PICO_OK) {
        status = t->ops->buffer_write(t->self, m->ids, 0, m->target + begin, n * sizeof(int32_t));
        status = status == PICO_OK ? t->ext.loss(t->self, &args) : status;
        status = status == PICO_OK ? PICO_OK : pico_fail(err, status, "a validation loss failed");
    }
    if (status == PICO_OK) {
        status = t->ops->buffer_read(t->self, m->losses, 0, m->ce, n * sizeof *m->ce, err);
    }
    if (status == PICO_OK) {
        count(m, begin, n, total);
    }
    return status;
}

pico_status pico_train_measure(pico_train_meter *m, double *nats, double *bits_per_byte,
                               pico_error *err) {
    sums total = {0};
    pico_status status = PICO_OK;
    pico_train_data_seek(m->data, 0);
    for (uint64_t done = 0; status == PICO_OK && done < m->n_rows;) {
        const uint32_t n_seq =
            m->n_rows - done < m->n_seq ? (uint32_t)(m->n_rows - done) : m->n_seq;
        const uint32_t rows = n_seq * m->length;
        pico_train_data_next(m->data, n_seq, m->tokens);
        for (uint32_t r = 0; r < rows; r++) {
            const int32_t *token = m->tokens + r / m->length * (m->length + 1) + r % m->length;
            m->x[r] = token[0];
            m->target[r] = token[1];
        }
        status = train_forward(m->train, m->x, n_seq, m->length, err);
        for (uint32_t begin = 0; status == PICO_OK && begin < rows; begin += m->block) {
            status = measure_block(m, begin, rows - begin < m->block ? rows - begin : m->block,
                                   &total, err);
        }
        done += n_seq;
    }
    *nats = total.n == 0 ? NAN : total.nats / (double)total.n;
    *bits_per_byte = total.bytes == 0 ? NAN : total.counted / log(2) / (double)total.bytes;
    return status;
}
