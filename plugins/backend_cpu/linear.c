/*
 * Products with weights: linear, linear_many, linear_gated. Checks what it was given, puts together
 * parts that can share one walk over x, and sends the rows of each class to the code for the
 * layout of the weights.
 */
#include <string.h>

#include "linear.h"

static pico_status check_part(const linear_job *job, const linear_part *part) {
    const pico_weight *weight = part->weight;
    if (weight->desc.cols != job->k || part->y.rows != job->x.rows || part->y.heads != 1 ||
        part->y.cols != weight->desc.rows) {
        return PICO_E_INVALID;
    }
    return job->cpu->scratch == NULL || job->k > (int64_t)job->cpu->need.max_in ? PICO_E_LIMIT
                                                                                : PICO_OK;
}

static int takes_input_as_it_is(const pico_weight *weight) {
    const pico_weight_desc *desc = &weight->desc;
    return desc->input_scale == NULL && desc->input_perm == NULL && desc->n_outlier == 0;
}

/* Whether two weights of the same input can be done together. */
static int alike(const pico_weight *a, const pico_weight *b) {
    const cpu_packed *p = &a->packed, *q = &b->packed;
    if (p->kind != q->kind) {
        return 0;
    }
    if (p->kind == CPU_PACK_NONE) {
        return 1;
    }
    return takes_input_as_it_is(a) && takes_input_as_it_is(b) && p->group == q->group &&
           p->shared_scale == q->shared_scale && p->exact_input == q->exact_input;
}

/* Rows [begin, end) of the parts of the job, all of one class. */
static void run_class(linear_job *job, int64_t begin, int64_t end, uint32_t prefill) {
    const int64_t n = end - begin;
    job->row = begin;
    job->prefill = prefill;
    if (n <= 0) {
        return;
    }
    if (job->part[0].weight->packed.kind == CPU_PACK_NONE) {
        linear_float(job, n);
    } else if (linear_wants_tiles(job, n)) {
        linear_tiles(job, n);
    } else {
        linear_packed(job, n);
    }
}

static pico_status run_job(cpu_backend *cpu, const linear_job *all, uint32_t n_decode) {
    for (uint32_t i = 0; i < all->n_part; i++) {
        const pico_status status =
            all->x.heads == 1 ? check_part(all, &all->part[i]) : PICO_E_INVALID;
        if (status != PICO_OK) {
            return status;
        }
    }
    const int64_t rows = all->x.rows, decode = n_decode < rows ? (int64_t)n_decode : rows;
    for (uint32_t i = 0; i < all->n_part;) {
        linear_job job = *all;
        job.n_part = 0;
        do {
            job.part[job.n_part++] = all->part[i++];
        } while (i < all->n_part && alike(job.part[0].weight, all->part[i].weight));
        job.gate = i == all->n_part ? all->gate : 0; /* it is the last part that gates */
        linear_foresee(cpu, &job);
        run_class(&job, 0, decode, 0);
        run_class(&job, decode, rows, 1);
    }
    return PICO_OK;
}

static pico_status set_part(linear_job *job, const pico_weight *weight, const pico_tensor *bias,
                            const pico_tensor *y) {
    linear_part *part = &job->part[job->n_part++];
    float *values = NULL;
    if (weight == NULL) {
        return PICO_E_INVALID;
    }
    pico_status status = cpu_view_of(y, PICO_DTYPE_F32, &part->y);
    if (status == PICO_OK && bias != NULL) {
        status = cpu_optional_of(bias, weight->desc.rows, &values);
    }
    part->weight = weight;
    part->bias = values;
    return status;
}

static pico_status begin_job(linear_job *job, void *self, const pico_tensor *x) {
    *job = (linear_job){.cpu = self};
    const pico_status status = cpu_view_of(x, PICO_DTYPE_F32, &job->x);
    job->k = job->x.cols;
    return status;
}

pico_status cpu_linear(void *self, const pico_linear_args *args) {
    linear_job job;
    pico_status status = begin_job(&job, self, &args->x);
    if (status == PICO_OK) {
        status = set_part(&job, args->weight, &args->bias, &args->y);
    }
    job.accumulate = args->accumulate;
    return status == PICO_OK ? run_job(self, &job, args->n_decode) : status;
}

pico_status cpu_linear_many(void *self, const pico_linear_many_args *args) {
    linear_job job;
    pico_status status = begin_job(&job, self, &args->x);
    if (args->n < 1 || args->n > 4) {
        return PICO_E_INVALID;
    }
    for (uint32_t i = 0; status == PICO_OK && i < args->n; i++) {
        status = set_part(&job, args->weight[i], &args->bias[i], &args->y[i]);
    }
    return status == PICO_OK ? run_job(self, &job, args->n_decode) : status;
}

pico_status cpu_linear_gated(void *self, const pico_linear_gated_args *args) {
    linear_job job;
    pico_status status = begin_job(&job, self, &args->x);
    if (status == PICO_OK) {
        status = set_part(&job, args->w1, NULL, &args->y);
    }
    if (status == PICO_OK) {
        status = set_part(&job, args->w3, NULL, &args->y);
    }
    if (args->act < PICO_ACT_SILU || args->act > PICO_ACT_RELU_SQUARED) {
        return PICO_E_INVALID;
    }
    job.gate = args->act;
    return status == PICO_OK ? run_job(self, &job, args->n_decode) : status;
}
