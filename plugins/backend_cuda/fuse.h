/*
 * Ops that wait for the next one, so that both become one kernel: at most one thing waits at a time,
 * and whatever does not take it up launches it first (cuda_enter). Nobody can see the difference:
 * results are read through the same stream.
 *
 *   a norm of wide rows           waits for a product of few rows that reads it
 *   a product of few rows         waits for an activation of its result, in place
 *   rope, norm, store of heads    are collected and become steps of one kernel
 */
#ifndef PICO_BACKEND_CUDA_FUSE_H
#define PICO_BACKEND_CUDA_FUSE_H

#include "jobs.h"

enum {
    CUDA_PENDING_NOTHING = 0,
    CUDA_PENDING_NORM = 1,
    CUDA_PENDING_PRODUCT = 2,
    CUDA_PENDING_HEADS = 3
};

struct cuda_pending {
    uint32_t kind; /* CUDA_PENDING_x */
    uint32_t mma;  /* PRODUCT: of cuda_run_few */
    cuda_view y;   /* PRODUCT: its only part's */
    union {
        cuda_norm_job norm;
        cuda_vector_job product;
        cuda_heads_job heads;
    };
};

/* Launches what waits. */
void cuda_flush(cuda_backend *cuda);

int cuda_same_view(const cuda_view *a, const cuda_view *b);
/* Whether the memory from the first to the last element of both has a part in common. */
int cuda_share_memory(const cuda_view *a, const cuda_view *b);

void cuda_wait_with_norm(cuda_backend *cuda, const cuda_norm_job *job);
/* The norm that waits, if it made x; it no longer waits then. */
int cuda_take_norm(cuda_backend *cuda, const cuda_view *x, cuda_norm_job *out);

void cuda_wait_with_product(cuda_backend *cuda, const cuda_vector_job *job, uint32_t mma,
                            const cuda_view *y);
/* Whether the product that waits made y: it is launched with the activation. */
int cuda_activate_product(cuda_backend *cuda, uint32_t act, const cuda_view *y);

/* The next step of heads; `store` with the steps that store. */
void cuda_add_head_step(cuda_backend *cuda, const cuda_view *target, const cuda_head_step *step,
                        const cuda_store_job *store);

#endif
