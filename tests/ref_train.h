/*
 * An oracle for pico.train/1: the functions whose gradients the backend computes, in double
 * precision and forward only, and derivatives by central differences. It shares no formula of a
 * gradient with any plugin.
 */
#ifndef PICO_TESTS_REF_TRAIN_H
#define PICO_TESTS_REF_TRAIN_H

#include "plugin.h"

/* A scalar function of an array that the problem points to. */
typedef double (*ref_scalar_fn)(void *arg);
/* d fn / d x[i]; x is changed during the call and restored. */
double ref_derivative(ref_scalar_fn fn, void *arg, double *x);

/* y (n) = scale * (weight * normalised x + bias); weight and bias may be NULL. */
void ref_train_norm(uint32_t kind, double eps, double scale, const double *x, const double *weight,
                    const double *bias, double *y, int64_t n);

typedef struct ref_train_attention {
    int64_t n_seq, length, n_head, n_kv_head, head_dim;
    double scale;
    int32_t window;
    uint32_t n_sink;
    const double *q, *k, *v; /* (rows, heads, head_dim) */
} ref_train_attention;
/* out (rows, n_head, head_dim), lse (rows, n_head) or NULL */
void ref_train_attend(const ref_train_attention *a, double *out, double *lse);

/* mask (n) may be NULL. */
double ref_cross_entropy(const double *z, const int32_t *mask, int64_t n, int64_t target);
/* top_k 0: the whole teacher. */
double ref_divergence(const double *teacher, const double *z, const int32_t *mask, int64_t n,
                      double temperature, int64_t top_k);

/* One AdamW step, all arrays (n). */
void ref_adamw(const pico_adamw_args *o, double *p, const double *grad, double *m, double *v,
               int64_t n);
/* The last part of a Muon step, as pico_muon_args has it; x and p (rows, cols). */
void ref_muon(const pico_muon_args *o, double *x, double *p, double *second, int64_t rows,
              int64_t cols);

#endif
