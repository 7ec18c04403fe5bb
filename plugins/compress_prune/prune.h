/*
 * Inside of the pruning compressor: options, what becomes of a layer and of a tensor, scores.
 */
#ifndef COMPRESS_PRUNE_PRUNE_H
#define COMPRESS_PRUNE_PRUNE_H

#include "plugin.h"

enum { GROUPS_WITHIN = 0, GROUPS_WHOLE = 1 };
enum { SCORE_L1 = 0, SCORE_ACTIVATION = 1, SCORE_RANDOM = 2 };
enum { CONVERT_NONE = 0, CONVERT_MEAN = 1 };
enum { WIDEN_NONE = 0, WIDEN_F32 = 1, WIDEN_F16 = 2, WIDEN_BF16 = 3 };

/* As the host binds them; the table is in options.c. */
typedef struct prune_options {
    double heads, neurons, layers; /* what goes, of 1 */
    uint32_t groups, score, convert, dequantise;
    int64_t multiple; /* of the neurons that stay; -1: auto */
    int64_t kv_heads; /* to pool to; -1: one */
    int64_t seed;
    const char *calibration; /* a text file; NULL: none */
    int64_t calibration_tokens;
} prune_options;

enum { PRUNE_N_OPTION = 12 };
extern const pico_option prune_option_table[PRUNE_N_OPTION];
/* What the options contradict in each other. */
pico_status prune_check_options(const prune_options *options, pico_error *err);

/* Mean magnitudes of a layer that calibration has seen, as sums over the rows. */
typedef struct prune_seen {
    double *attended; /* (n_head * head_dim) */
    double *inner;    /* (n_ff) */
    double change;    /* of the residual stream: sum of 1 - cos(in, out) */
    uint32_t n_attended, n_inner;
    uint64_t n_row;
} prune_seen;

typedef struct prune_stage {
    const pico_host *host;
    prune_options options;
    uint32_t n_layer; /* of the calibrated model; 0: there was no calibration */
    prune_seen *seen; /* (n_layer) */
    float *stream;    /* (CHUNK rows, n_embd) what went into the layer that runs */
    uint32_t n_embd;
    int fault;     /* the tap met another shape than the description says */
    uint8_t *drop; /* (n_drop) 1: the layer goes; NULL: all stay */
    uint32_t n_drop;
} prune_stage;

/* ---- shape.c: pure ---- */

/* How many of n go: the nearest number, and of two the smaller. ratio is below 1. */
uint32_t prune_share(double ratio, uint32_t n);

/* A layer before and after. KV heads that stay are pooled behind that. */
typedef struct prune_shape {
    uint32_t n_head, n_kv_head, head_dim, n_ff;
    uint32_t group;   /* query heads that share a KV head, before */
    uint32_t n_unit;  /* that compete: the heads of a group, or the groups */
    uint32_t by_unit; /* 1: whole groups go */
    uint32_t heads_kept, kv_kept, ff_kept;
    uint32_t kv_pooled; /* KV heads of the result */
} prune_shape;

/* An error says which ratio would do, or what else. */
pico_status prune_shape_of(const prune_options *options, const pico_layer_desc *layer,
                           uint32_t index, prune_shape *out, pico_error *err);

enum { OVER_HEADS = 0, OVER_KV_HEADS = 1, OVER_NEURONS = 2 };

/* How a tensor of a layer is divided. */
typedef struct prune_part {
    const char *name; /* behind "blk.N." */
    uint32_t over;    /* OVER_x */
    uint32_t columns; /* 1: the units lie side by side; 0: one below the other */
    uint32_t single;  /* 1: a unit is one row or column, 0: a head's width */
} prune_part;

/* NULL: the tensor is not divided. *layer: whose it is, where the name begins with "blk.". */
const prune_part *prune_part_of(const char *name, uint32_t *layer);
/* Units of a part before and after. */
uint32_t prune_units(const prune_shape *shape, const prune_part *part);
uint32_t prune_units_after(const prune_shape *shape, const prune_part *part);
/* Type of a tensor that is cut; an error names the alternative. */
pico_status prune_dtype(const prune_options *options, const char *name, uint32_t from, uint32_t *to,
                        pico_error *err);
int prune_is_float(uint32_t dtype);

/* ---- score.c ---- */

/* What stays of a layer: ascending indices. */
typedef struct prune_kept {
    uint32_t *head; /* (heads_kept) */
    uint32_t *kv;   /* (kv_kept) */
    uint32_t *ff;   /* (ff_kept) */
} prune_kept;

pico_status prune_choose(const prune_stage *stage, const pico_tensors *tensors, uint32_t layer,
                         const prune_shape *shape, prune_kept *out, pico_error *err);
void prune_kept_free(prune_kept *kept);
/* The indices of the `keep` highest of n scores, ascending, into out; of equals the first stay.
 * PICO_E_NOMEM, or PICO_E_INVALID if a score is not finite. */
pico_status prune_select(const double *score, uint32_t n, uint32_t keep, uint32_t *out);
/* Sums of |value| over the units of a tensor, added to score (units). An absent tensor adds nothing. */
pico_status prune_add_l1(const prune_stage *stage, const pico_tensors *tensors, uint32_t layer,
                         const char *name, uint32_t n_unit, int columns, double *score,
                         pico_error *err);
/* In [0, 1), from the seed alone. */
double prune_random(const prune_stage *stage, uint32_t layer, uint32_t kind, uint32_t index);

/* ---- calibrate.c ---- */

pico_status prune_calibrate(void *self, pico_model *model, pico_error *err);
void prune_forget(prune_stage *stage);

/* ---- layers.c ---- */

uint32_t prune_drops(const void *self);
pico_status prune_drop_layers(void *self, const pico_model_desc *desc, const pico_tensors *tensors,
                              pico_model *model, uint8_t *drop, pico_error *err);

/* ---- cut.c ---- */

pico_status prune_apply(void *self, const pico_model_desc *model, pico_tensors *tensors,
                        pico_error *err);

#endif
