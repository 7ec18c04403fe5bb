/*
 * An oracle for the ops of a backend: each op in double precision, written from its definition in
 * plugin.h, one obvious loop after the other. It shares no code with any plugin and is not fast.
 */
#ifndef PICO_TESTS_REF_OPS_H
#define PICO_TESTS_REF_OPS_H

#include "plugin.h"

/* 16-bit floats; narrowing rounds to nearest even. */
double ref_f16(uint16_t bits);
double ref_bf16(uint16_t bits);
uint16_t ref_to_f16(double x);
uint16_t ref_to_bf16(double x);
/* x as a tensor of dtype F32, F16 or BF16 would hold it */
double ref_round(uint32_t dtype, double x);

/* n values of one head at one position as KV pages of this dtype hold them. Q8_0, in blocks of 32:
 * scale = max|x| / 127 as an F16, value = scale * nearest integer of x / scale, at most 127. */
void ref_kv_round(uint32_t dtype, const float *x, int64_t n, double *out);

/* The matrix (rows, cols) that a description stands for, input scale and permutation included. */
void ref_weight(const pico_weight_desc *desc, double *out);

/* y (n, rows) = x W^T (+ bias) (+ before); x rows are x_stride apart; bias and before may be NULL.
 */
void ref_linear(const double *w, int64_t rows, int64_t cols, const float *x, int64_t x_stride,
                int64_t n, const float *bias, const float *before, double *y);

/* A row of x (cols) rounded to int8 as input_quant = GROUP says for the weight (ROW: row is 1), as
 * the exact matrix must meet it. */
void ref_round_input(const pico_weight_desc *desc, int row, const float *x, float *out);

/* One row. weight and bias may be NULL. */
void ref_norm(uint32_t kind, double eps, double scale, const float *x, const float *weight,
              const float *bias, double *y, int64_t width);

/* One head; cosine and sine are the row of its position. */
void ref_rope(uint32_t layout, int reverse, int64_t rope_dim, int64_t head_dim, const float *x,
              const float *cosine, const float *sine, double *y);

double ref_activation(uint32_t kind, double x);
double ref_sigmoid(double x);
double ref_softcap(double cap, double x);
double ref_logit_edit(double z, double sub, double rep, double bias);

typedef struct ref_attention {
    int64_t n_rows, n_head, n_kv_head, head_dim;
    double scale;
    int32_t window;
    uint32_t n_sink;
    const float *q;            /* (n_rows, n_head, head_dim) */
    const double *k, *v;       /* (cells, n_kv_head, head_dim), as stored */
    const int32_t *page_table; /* (slots, max_pages) */
    int64_t max_pages;
    const int32_t *pos, *slot, *base; /* (n_rows) */
    const int32_t *anc_begin;         /* (n_rows + 1) or NULL */
    const int32_t *anc_cell;
} ref_attention;

void ref_attend(const ref_attention *a, double *out); /* (n_rows, n_head, head_dim) */

int32_t ref_argmax(const float *z, int64_t n);
/* Best first; ties by lowest index; NaN last. */
void ref_top_k(const float *z, int64_t n, int64_t k, int32_t *index, float *value);
double ref_log_sum(const float *z, int64_t n, double inv_temperature);

/* Mean square of the error over that of the expected values. */
double ref_nmse(const float *got, const double *want, int64_t n);

#endif
