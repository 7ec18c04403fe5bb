/*
 * What the files of this plugin share. The way of a tensor: select.c says whether it is compressed
 * and which activations are its input, calibrate.c has gathered H = X^T X of that input, apply.c
 * turns the matrix into codes with grid.c (what 4 bits can say), awq.c (scales of the input) and
 * gptq.c (rounding with error feedback), and hands it back.
 *
 * Shapes: a matrix W is (rows, cols) and meets inputs x (cols); n rows of activations X are
 * (n, cols).
 */
#ifndef COMPRESS_INT4_H
#define COMPRESS_INT4_H

#include "plugin.h"

enum { FORMAT_Q4_0 = 0, FORMAT_NF4 = 1 };
enum { METHOD_RTN = 0, METHOD_AWQ = 1, METHOD_GPTQ = 2, METHOD_AWQ_GPTQ = 3 };
enum { SCALE_AUTO = 0, SCALE_MAX = 1, SCALE_SEARCH = 2 };

enum { GROUP_MAX = 64, CANDIDATES_MAX = 32 };

typedef struct int4_options {
    uint32_t format, method, scale, act_order;
    const char *keep, *only, *calibration;
    int64_t samples, length; /* -1: auto */
    int64_t grid;
    double damping;
} int4_options;

/* Second moments of one input over the calibration text. */
typedef struct int4_input {
    uint32_t layer;
    uint32_t width;   /* 0: not seen */
    uint64_t n_rows;  /* of activations so far */
    float *moment;    /* upper triangle of X^T X, row by row: (width * (width + 1) / 2) */
    double *absolute; /* (width) sums of |x| */
} int4_input;

enum { INPUT_ATTN_NORM = 0, INPUT_ATTENDED, INPUT_FFN_NORM, INPUT_FFN_INNER, INPUT_KINDS };
#define INPUT_NONE UINT32_MAX

typedef struct int4 {
    const pico_host *host;
    int4_options options;
    int4_input *input; /* (n_layer * INPUT_KINDS + 1), the last one is the head's; NULL: not yet */
    uint32_t n_input;
} int4;

/* ---- select.c: which tensors, and what their input is ---- */

/* Whether the options' patterns select a matrix of this name. */
int int4_selects(const int4_options *options, const char *name);
/* Index of the input of a matrix in int4.input, INPUT_NONE if its input cannot be observed. */
uint32_t int4_input_of(const pico_model_desc *model, const char *name);
/* Whether a matrix that takes this input is selected. */
int int4_wants_input(const int4_options *options, const pico_model_desc *model, uint32_t input);
/* Each pattern matches a tensor, so that a misspelt one is not silently without effect. */
pico_status int4_check_patterns(const int4_options *options, const pico_tensor_info *tensors,
                                uint32_t n, pico_error *err);
extern const char int4_keep_default[];

/* ---- grid.c: the sixteen values of a group ---- */

extern const float int4_codebook[16]; /* of NF4 */

uint32_t int4_group_of(uint32_t format); /* columns that share a scale */
/* Rounds to nearest as the formats define it: the scale comes from the largest value. */
void int4_round_group(uint32_t format, const float *x, uint32_t n, uint8_t *codes, float *scale);
/* Scales worth trying for a group, the one from the largest value first; at most CANDIDATES_MAX. */
uint32_t int4_scale_candidates(uint32_t format, const double *x, uint32_t n, float *out);
/* The code whose value is nearest to x, for a group with 1 / scale = inverse (0 for a scale of 0). */
uint8_t int4_nearest(uint32_t format, double x, double inverse);
double int4_value(uint32_t format, uint8_t code, double scale);
/* Codes (cols) and scales of a row as the format stores them. row: its bytes; scales: NF4 only. */
void int4_pack_row(uint32_t format, const uint8_t *codes, const float *group_scales, int64_t cols,
                   uint8_t *row, float *scales);

/* ---- dense.c: linear algebra in a fixed order, whatever the number of threads ---- */

/* moment += X^T X, X (n, width) */
void int4_add_moments(const pico_host *host, const float *x, uint32_t n, uint32_t width,
                      float *moment);
/* c (m, n) += a (m, depth) b (depth, n); strides in elements. */
void int4_multiply(const double *a, size_t a_stride, const double *b, size_t b_stride, double *c,
                   size_t c_stride, size_t m, size_t n, size_t depth);
/* h (n, n), of which the upper triangle is used, becomes the upper triangular V with V V^T = h.
 * PICO_E_INVALID if h is not positive definite. */
pico_status int4_factor(const pico_host *host, double *h, size_t n);

/* ---- one matrix at a time ---- */

enum { JOB_ROWS = 8 }; /* rows that one thread handles together */

typedef struct int4_job {
    const pico_host *host;
    uint32_t format, group;
    int search;      /* 1: scales of groups are searched, 0: from the largest value */
    uint32_t n_grid; /* exponents that awq.c tries */
    int64_t rows, cols, n_groups;
    const float *w;         /* (rows, cols) */
    double *h;              /* (cols, cols) moments, or what gptq.c needs; NULL: none */
    const double *absolute; /* (cols) sums of |x| */
    float *input_scale;     /* (cols) 1 where nothing is scaled */
    const int32_t *perm;    /* (cols) input of each column of the codes; NULL: in order */
    uint8_t *codes;         /* (rows, row_bytes) the result, as it is stored */
    float *scales;          /* (rows, n_groups) NF4 only */
    uint64_t row_bytes;
    double *work;        /* (n_threads, JOB_ROWS, cols) */
    uint8_t *row_codes;  /* (n_threads, JOB_ROWS, cols) */
    float *group_scales; /* (n_threads, JOB_ROWS, n_groups) */
} int4_job;

/* rtn.c: rounding to nearest of w * input_scale. Where scales are searched, what counts is the error
 * of the product as far as it comes from within the group (h; without it, the error of w). */
void int4_round(const int4_job *job);
/* One group, columns col to col + n of a row of w: codes and scale. If e is not NULL it gets the
 * errors of the effective weight, (n). */
void int4_round_columns(const int4_job *job, const float *w, int64_t col, uint32_t n,
                        uint8_t *codes, float *scale, double *e);
/* awq.c: sets input_scale to the power of the mean |x| that makes the error of the product
 * smallest. PICO_E_NOMEM. */
pico_status int4_search_input_scale(const int4_job *job, pico_error *err);
/* gptq.c: the order of the columns of codes, by falling moments. order: (cols) */
pico_status int4_order_columns(const int4_job *job, int32_t *order, pico_error *err);
/* gptq.c: rounds column by column, each error made up for by the columns that follow; h is the
 * factor of the moments of x / input_scale in the order of the columns. */
void int4_round_with_feedback(const int4_job *job);

/* ---- calibrate.c, apply.c, compress_int4.c ---- */

pico_status int4_calibrate(int4 *self, pico_model *model, pico_error *err);
void int4_forget(int4 *self); /* frees the moments */
pico_status int4_apply(int4 *self, const pico_model_desc *model, pico_tensors *tensors,
                       pico_error *err);
/* Whether the stage turns this tensor into 4 bits. */
int int4_is_target(const int4_options *options, const pico_tensor_info *info);
int int4_stopped(const int4 *self);

#endif
