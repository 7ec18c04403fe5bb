/*
 * The extension pico.train/1: its table, its scratch memory. All allocation happens in reserve.
 */
#include "train.h"

#include <stdlib.h>
#include <string.h>

static uint32_t larger(uint32_t a, uint32_t b) {
    return a > b ? a : b;
}

static uint64_t pad32(uint64_t n) {
    return (n + 31) & ~(uint64_t)31;
}

enum { N_PART = 10 };

/* Offsets of the parts of a thread's area; returns its size. In floats. */
static uint64_t layout(const pico_train_reserve *need, uint64_t part[N_PART]) {
    const uint64_t length = pad32(need->max_length), width = pad32(need->max_head_dim);
    const uint64_t dim = pad32(need->max_dim);
    const uint64_t size[N_PART] = {(uint64_t)CPU_GEMM_K * CPU_GEMM_ROWS,
                                   length * width,
                                   length * width,
                                   length * width,
                                   CPU_TRAIN_ROWS * width,
                                   CPU_TRAIN_ROWS * width,
                                   CPU_TRAIN_ROWS * length,
                                   CPU_TRAIN_ROWS * length,
                                   dim,
                                   dim};
    uint64_t at = 0;
    for (int i = 0; i < N_PART; i++) {
        part[i] = at;
        at += size[i] + 32; /* a line apart, so that no two threads write to one */
    }
    return (at + 31) & ~(uint64_t)31;
}

cpu_train_scratch cpu_train_scratch_of(const struct cpu_train *train, uint32_t thread) {
    uint64_t part[N_PART];
    (void)layout(&train->need, part);
    float *base = train->scratch + thread * train->stride;
    return (cpu_train_scratch){.pack_a = base + part[0],
                               .k_scores = base + part[1],
                               .v_scores = base + part[2],
                               .k_rows = base + part[3],
                               .q_rows = base + part[4],
                               .do_rows = base + part[5],
                               .score = base + part[6],
                               .dscore = base + part[7],
                               .row = {base + part[8], base + part[9]}};
}

void cpu_train_free(cpu_backend *cpu) {
    if (cpu->train != NULL) {
        free(cpu->train->pack);
        free(cpu->train->tiles_a);
        free(cpu->train->tiles_b);
        free(cpu->train->value[0]);
        free(cpu->train->value[1]);
        free(cpu->train->scratch);
        free(cpu->train);
    }
    cpu->train = NULL;
}

/* floats, zeroed: touched now and not in the first step. NULL if there is no memory. */
static float *floats(uint64_t n) {
    void *data = NULL;
    uint64_t bytes = (n + 16) * sizeof(float);
    if (n > (uint64_t)PTRDIFF_MAX / 8 || posix_memalign(&data, 4096, (size_t)bytes) != 0) {
        return NULL;
    }
    memset(data, 0, (size_t)bytes);
    return data;
}

static int has_bf16(const cpu_backend *cpu) {
    return cpu->kernels->tile != NULL && cpu_square_amx.square != NULL;
}

static uint32_t train_features(void *self) {
    return PICO_TRAIN_HAS_TOP_K | (has_bf16(self) ? PICO_TRAIN_HAS_BF16 : 0u);
}

static uint8_t *tiles(int64_t lines) {
    return (uint8_t *)floats((uint64_t)lines * CPU_TILES_K / 2);
}

static pico_status train_reserve(void *self, const pico_train_reserve *need, pico_error *err) {
    cpu_backend *cpu = self;
    struct cpu_train *train = calloc(1, sizeof *train), *old = cpu->train;
    if (train == NULL) {
        return pico_fail(err, PICO_E_NOMEM, "backend cpu: no memory for training");
    }
    const pico_train_reserve before = old == NULL ? *need : old->need;
    uint64_t part[N_PART];
    train->need =
        (pico_train_reserve){.max_rows = larger(before.max_rows, need->max_rows),
                             .max_dim = larger(before.max_dim, need->max_dim),
                             .max_length = larger(before.max_length, need->max_length),
                             .max_head = larger(before.max_head, need->max_head),
                             .max_head_dim = larger(before.max_head_dim, need->max_head_dim)};
    train->gemm = cpu->kernels->gemm;
    train->row = cpu->kernels->train;
    const uint64_t columns = pad32(larger(train->need.max_dim, train->need.max_length));
    const uint64_t by_head = (uint64_t)train->need.max_rows * larger(train->need.max_head, 1);
    train->pack_columns = columns < CPU_GEMM_N ? (int64_t)columns : CPU_GEMM_N;
    train->n_value = by_head > train->need.max_dim ? by_head : train->need.max_dim;
    train->stride = layout(&train->need, part);
    train->pack = floats((uint64_t)train->pack_columns * CPU_GEMM_K);
    train->value[0] = floats(train->n_value);
    train->value[1] = floats(train->n_value);
    train->scratch = floats(train->stride * cpu->n_threads);
    if (has_bf16(cpu)) {
        train->squares = &cpu_square_amx;
        train->tiles_a = tiles(CPU_TILES_M);
        train->tiles_b = tiles(CPU_TILES_N);
    }
    if ((train->squares != NULL && (train->tiles_a == NULL || train->tiles_b == NULL)) ||
        train->pack == NULL || train->value[0] == NULL || train->value[1] == NULL ||
        train->scratch == NULL) {
        const uint64_t n = train->stride * cpu->n_threads + 2 * train->n_value +
                           (uint64_t)train->pack_columns * CPU_GEMM_K;
        cpu->train = train;
        cpu_train_free(cpu);
        cpu->train = old;
        return pico_fail(err, PICO_E_NOMEM, "backend cpu: no memory for %llu bytes of scratch",
                         (unsigned long long)(n * sizeof(float)));
    }
    cpu_train_free(cpu);
    cpu->train = train;
    return PICO_OK;
}

static const pico_train_ops train_ops = {
    .struct_size = sizeof(pico_train_ops),
    .reserve = train_reserve,
    .gemm = cpu_gemm,
    .gather = cpu_gather,
    .scatter = cpu_scatter,
    .norm_backward = cpu_norm_backward,
    .act_backward = cpu_act_backward,
    .gate_backward = cpu_gate_backward,
    .softcap_backward = cpu_softcap_backward,
    .attend = cpu_train_attend,
    .attend_backward = cpu_attend_backward,
    .loss = cpu_loss,
    .reduce = cpu_reduce,
    .scale = cpu_scale,
    .adamw = cpu_adamw_step,
    .muon = cpu_muon_step,
    .features = train_features,
};

const void *cpu_extension(void *self, const char *id) {
    (void)self;
    return strcmp(id, PICO_TRAIN_EXTENSION) == 0 ? &train_ops : NULL;
}
