/*
 * Device tensors for the backend suites: every tensor lies between guards of a value that no op
 * computes, rows may be strided, and check_guards() sees whatever an op wrote where it must not.
 */
#ifndef PICO_CONFORM_DEVICE_H
#define PICO_CONFORM_DEVICE_H

#include "conform/kit.h"
#include "ref_ops.h"

enum { DEV_GUARD = 64, DEV_SENTINEL = 0x7fb1e55d, DEV_TENSORS = 512 };

typedef struct dev {
    conform *c;
    rig r;
    const pico_backend_ops *ops;
    void *self;
    uint32_t caps; /* flags */
    struct {
        pico_tensor tensor;
        uint64_t words; /* of the buffer */
    } made[DEV_TENSORS];
    uint32_t n_made;
    uint32_t widest; /* what was reserved */
    int ran;         /* 1: an op was queued since */
} dev;

void dev_open(conform *c, dev *d);
/* Reserves for at most these sizes, 400 rows and 64 logit rows, 8 heads of at most 128. */
void dev_reserve(dev *d, uint32_t widest);

/* Waits and reserves again, after which allocating is allowed. */
void dev_before_allocation(dev *d);

/* (rows, cols), rows cols + gap elements apart; values may be NULL: sentinels. rows may be 0. */
pico_tensor dev_tensor(dev *d, uint32_t dtype, const void *values, int64_t rows, int64_t cols,
                       int64_t gap);
pico_tensor dev_vector(dev *d, uint32_t dtype, const void *values, int64_t n);
/* (rows, heads * width) as (rows, heads, width). */
pico_tensor dev_heads(const pico_tensor *matrix, int64_t heads);
/* Rows [begin, begin + n). */
pico_tensor dev_rows(const pico_tensor *tensor, int64_t begin, int64_t n);
/* Reads a matrix into a new array (rows, cols) without the gaps. */
float *dev_get(dev *d, const pico_tensor *tensor);
int32_t *dev_get_i32(dev *d, const pico_tensor *tensor);
/* Nothing outside the tensors made so far has changed. */
void dev_check_guards(dev *d, const char *what);
/* Frees all tensors. */
void dev_reset(dev *d);

/* n random values in (-spread, spread). */
float *dev_random(dev *d, int64_t n, double spread);

/* A random weight of any layout, and the exact matrix that it stands for; *exact may be NULL. */
pico_weight_desc dev_weight_desc(dev *d, uint32_t dtype, int64_t rows, int64_t cols, int64_t group,
                                 double **exact);
pico_weight *dev_weight(dev *d, const pico_weight_desc *desc, uint32_t uses);
const char *dev_dtype(uint32_t dtype);
/* Error of a product relative to its power that a layout may have. */
double dev_limit(uint32_t dtype);

/* got must be near want: mean square error over mean square below limit. */
void dev_near(dev *d, const char *what, const float *got, const double *want, int64_t n,
              double limit);
/* got must be want, bit for bit. */
void dev_same(dev *d, const char *what, const void *got, const void *want, int64_t n);
/* An op must be accepted. */
void dev_ok(dev *d, pico_status status, const char *op);
/* Waits; a failure that was latched fails the test. */
void dev_sync(dev *d);

#endif
