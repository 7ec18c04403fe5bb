/*
 * How fast a model runs. Every row is warmed up, then measured several times with a probe of the
 * machine's limit before and after each time, so that a share compares things of the same minute.
 * It prints nothing while it measures; bench_print.c writes tables.
 */
#ifndef PICO_MEASURE_BENCH_H
#define PICO_MEASURE_BENCH_H

#include "decode/decode.h"
#include "host/host.h"
#include "measure/stats.h"
#include "model/model.h"
#include "plugin.h"

enum { PICO_BENCH_LIST = 16, PICO_BENCH_ROWS = 256 };

/* A share of the read limit above this says that the probe was disturbed, not that we are fast. */
#define PICO_BENCH_MAX_SHARE 1.03

enum {
    PICO_BENCH_PREFILL = 1,  /* "pp512": a prompt, logits for its last row; share of arithmetic */
    PICO_BENCH_GENERATE = 2, /* "tg128": greedy decoding through the decode loop; "tg128x8": of 8
                                sequences together, each with a prompt of its own length */
    PICO_BENCH_ROWS_OF_ONE =
        3,               /* "v4": time of 4 consecutive rows, logits for all, over time of 1 */
    PICO_BENCH_NO_KV = 4 /* "tg128@nokv": every token runs everything before it again */
};

typedef struct pico_bench_list {
    uint32_t value[PICO_BENCH_LIST];
    size_t n;
} pico_bench_list;

typedef struct pico_bench_params {
    const pico_host *host;            /* progress, cancellation */
    pico_pool *pool;                  /* for the probes; the one that the backend works on */
    const pico_decode_params *decode; /* decoder and ubatch; the sampler is always the best token */
    pico_bench_list prompt, generate, rows, depth; /* lengths; an empty depth list means 0 */
    pico_bench_list parallel; /* sequences: each length of generate with so many together, too */
    uint32_t repeats;         /* at least 1 */
    int no_kv;                /* 1: each length of generate without KV too */
} pico_bench_params;

typedef struct pico_bench_row {
    uint32_t kind; /* PICO_BENCH_x */
    char test[32];
    uint32_t n, depth;
    uint32_t n_seq; /* GENERATE: sequences of n tokens each; else 1 */
    pico_stats tokens_per_s;
    pico_stats ratio;  /* ROWS_OF_ONE only */
    uint64_t bytes;    /* that one step reads: weights, and K and V at the middle of the row */
    double operations; /* PREFILL: of one run, additions and multiplications counted each */
    double limit;      /* tokens/s that the probes allow, their median; NaN: unknown */
    double share;      /* median over the repeats of what was reached of what the probes before and
                          after allowed; NaN: unknown */
    uint64_t n_drafted, n_accepted; /* GENERATE: of the decoder, over all repeats */
    int probe_fault;                /* 1: share is above PICO_BENCH_MAX_SHARE */
} pico_bench_row;

typedef struct pico_bench_result {
    pico_bench_row row[PICO_BENCH_ROWS];
    size_t n_row;
    uint64_t step_bytes; /* weights that a decode step reads */
    double read_rate;    /* bytes/s, the highest limit of a row; NaN: no row is limited by it */
    double
        flop_rate; /* F32 operations/s in multiply-adds, at the start or, if higher, the limit of a
                         row; NaN: no probe */
    const char *instructions; /* of the probes */
    uint64_t peak_rss;        /* bytes; before the probe took its buffer */
    uint64_t kv_bytes;        /* largest allocation of pages of any row */
    uint64_t kv_bytes_per_token;
    char note[256]; /* why there are no limits; "" if there are */
} pico_bench_result;

/* out is filled as far as it got, also on failure. It is large: allocate it. */
pico_status pico_bench_run(pico_model *model, const pico_bench_params *params,
                           pico_bench_result *out, pico_error *err);

/* What the tables say about the run. */
typedef struct pico_bench_about {
    char model[128];   /* "llama-110m F32" */
    const char *dtype; /* the layout that holds most of the weights' bytes: "F32" */
    uint64_t model_bytes, n_params;
    char device[96];     /* "AMD EPYC, avx512, 2 threads"; as the backend says */
    const char *backend; /* "cpu" */
    const char *decoder; /* "greedy" */
    uint32_t threads;
} pico_bench_about;

/* Name, layout, size and parameters from the model; name: what to call it if the file has no name. */
void pico_bench_describe(const pico_model *model, const char *name, pico_bench_about *out);
void pico_bench_print_md(const pico_bench_about *about, const pico_bench_result *result, FILE *to);
void pico_bench_print_csv(const pico_bench_about *about, const pico_bench_result *result, FILE *to);

#endif
