/*
 * Inside of the int8 compressor: options, what a tensor is to become, and what calibration has seen.
 */
#ifndef COMPRESS_INT8_INT8_H
#define COMPRESS_INT8_INT8_H

#include "plugin.h"

enum { GRANULARITY_TENSOR = 0, GRANULARITY_ROW = 1, GRANULARITY_GROUP = 2 };
enum { LAYOUT_AUTO = 0, LAYOUT_Q8_0 = 1, LAYOUT_I8 = 2 };
enum { SCALES_AUTO = 0, SCALES_F32 = 1, SCALES_F16 = 2 };
enum { BITS_8 = 0, BITS_4 = 1 };

/* As the host binds them; the table is in compress_int8.c. */
typedef struct int8_options {
    uint32_t granularity, bits, scales, layout, activations;
    uint32_t reserved;
    int64_t group;
    const char *keep; /* patterns between blanks or commas */
    int64_t outliers; /* most columns of a matrix; 0: as the threshold says */
    double outlier_threshold;
    const char *calibration; /* a text file; NULL: none */
    int64_t calibration_tokens;
} int8_options;

/* Inputs of the products of a layer that calibration looks at. */
enum {
    INPUT_ATTN = 0, /* of Wq, Wk, Wv */
    INPUT_ATTENDED, /* of Wo */
    INPUT_FFN,      /* of W1, W3 */
    INPUT_FFN_INNER /* of W2 */,
    N_INPUT
};

/* The largest magnitude of each column of an input. */
typedef struct int8_seen {
    float *largest; /* (width); NULL: nothing was seen */
    uint32_t width;
} int8_seen;

typedef struct int8_stage {
    const pico_host *host;
    int8_options options;
    uint32_t n_layer; /* of the calibrated model; 0: there was no calibration */
    int8_seen *seen;  /* (n_layer * N_INPUT + 1), the last one is the input of the heads */
    int tied_head;    /* of that model */
    int fault;        /* the tap met another shape than the description says */
} int8_stage;

/* What a tensor becomes. */
typedef struct int8_target {
    uint32_t dtype; /* PICO_DTYPE_I8 or Q8_0; NONE: it stays */
    uint32_t scale_dtype;
    int64_t group;
    uint64_t n_scales, codes_bytes;
    uint32_t input_quant;
} int8_target;

/* compress_int8.c: pure. An error names the alternative. */
pico_status int8_choose(const int8_options *options, const pico_tensor_info *info, int8_target *out,
                        pico_error *err);

/* apply.c */
pico_status int8_apply(void *self, const pico_model_desc *model, pico_tensors *tensors,
                       pico_error *err);

/* calibrate.c */
pico_status int8_calibrate(void *self, pico_model *model, pico_error *err);
void int8_forget(int8_stage *stage); /* frees what was seen */
/* The columns of the tensor's input that are to be kept apart, ascending, into columns (cols);
 * *n of them. input_scale may be NULL. None for tensors whose input is not looked at. */
pico_status int8_outliers(const int8_stage *stage, const char *name, int64_t cols,
                          const float *input_scale, int32_t *columns, int64_t *n, pico_error *err);

#endif
