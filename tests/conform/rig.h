/*
 * What the conformance kit and the tests of the core share: a host with every service, plugins
 * through the registry, small random models, and a backend that fails when it is told to. It
 * asserts nothing itself: every function reports, the caller decides.
 */
#ifndef PICO_TESTS_RIG_H
#define PICO_TESTS_RIG_H

#include "config/config.h"
#include "decode/decode.h"
#include "host/host.h"
#include "model/model.h"
#include "registry/registry.h"
#include "session/session.h"

/* ---- a backend that fails when it is told to ---- */

enum { FAULT_OP = 1, FAULT_WRITE = 2, FAULT_READ = 4, FAULT_ALLOC = 8, FAULT_KV_COPY = 16 };

/* Passes every slot on to inner. Counts the calls of the kinds in `kinds`; when `left` reaches 0
 * that call fails with PICO_E_DEVICE (PICO_E_NOMEM for FAULT_ALLOC), once. */
typedef struct fault {
    pico_backend_ops ops; /* use this with self = the fault */
    const pico_backend_ops *inner;
    void *inner_self;
    uint32_t kinds;
    int64_t left;                    /* calls until the failure; negative: never */
    uint64_t n_calls;                /* calls of those kinds so far */
    uint64_t n_failed;               /* failures so far */
    uint64_t n_alloc;                /* buffers and weights made so far */
    int hide_optional;               /* 1: the optional slots are NULL (set before fault_init) */
    const pico_capture_ops *capture; /* of the inner backend; NULL until it was asked for */
} fault;

void fault_init(fault *f, const pico_backend_ops *inner, void *inner_self);
/* Fails the (n + 1)-th call of these kinds from now on. */
void fault_arm(fault *f, uint32_t kinds, int64_t n);

/* ---- the rig ---- */

typedef struct rig_setup {
    const char *search;     /* plugin folders, colon-separated; NULL: the registry's own order */
    const char *backend;    /* name or path; NULL: "cpu" */
    const char *attention;  /* NULL: "mha"; "": none */
    const char *sampler;    /* NULL: none */
    const char *decoder;    /* NULL: none */
    const char *const *set; /* NULL-terminated "section.key=value" */
    uint32_t n_threads;     /* 0: 1 */
    int hide_optional;      /* 1: the backend's optional slots are hidden from the core */
} rig_setup;

/* ---- small random models ---- */

/* Draft heads: that of the family; one that shares the output matrix, in any family; one that knows two
 * tokens of three; each of them may read the next token. The rest of the model is the same. */
enum {
    TINY_DRAFT_OWN = 0,
    TINY_DRAFT_SHARED = 1,
    TINY_DRAFT_REDUCED = 2,
    TINY_DRAFT_FORM = 3, /* mask of those */
    TINY_DRAFT_READS = 4
};

typedef struct tiny_model {
    /* "llama", "llama-biased" (everywhere), "gpt2", "nanochat" (its generation g0), "nanochat-g2"
     * (with multi-token and draft heads), "nanochat-g4" */
    const char *family;
    uint32_t n_layer, n_head, n_kv_head, head_dim, n_ff, n_vocab, n_ctx;
    int32_t window[4]; /* of layer i % 4; 0 reads as -1 */
    double heat;       /* spread of the logits; 0: 2 */
    uint32_t draft;    /* TINY_DRAFT_x */
    uint64_t seed;
} tiny_model;

/* host->model_open opens a file, or, where the last part of the path is one of these words, a model
 * like the last one that tiny_model_open made: "twin" is the same, "cousin" has nearly the same
 * weights, "stranger" has a token more. */
typedef struct rig {
    pico_pool *pool;
    pico_host host; /* host.ctx is the rig */
    pico_registry *registry;
    pico_config *config;
    pico_instance backend, attention, sampler, decoder;
    fault fault; /* between the core and the backend */
    pico_device device;
    tiny_model last; /* that tiny_model_open made */
    uint32_t n_log;  /* messages that plugins logged */
} rig;

pico_status rig_open(rig *r, const rig_setup *setup, pico_error *err);
void rig_close(rig *r);
/* The host table alone, for plugins that are made by other means; no backend behind it. */
pico_status rig_open_host(rig *r, uint32_t n_threads, pico_error *err);

/* Reads a device tensor of n contiguous values. */
pico_status rig_read(const rig *r, const pico_tensor *tensor, float *out, size_t n);

/* A model file in memory with seeded random F32 weights; close it as any other. */
pico_status tiny_model_file(const tiny_model *tiny, pico_model_file **out, pico_error *err);
/* A model of one layer whose logits are these, whatever the tokens. */
pico_status fixed_model_file(const float *logits, uint32_t n_vocab, pico_model_file **out,
                             pico_error *err);
/* A file opened on the rig's device, which takes it over whatever happens. */
pico_status rig_model_open(rig *r, pico_model_file *file, uint32_t kv_dtype, pico_model **out,
                           pico_error *err);
/* A random model, opened on the rig's device. */
pico_status tiny_model_open(rig *r, const tiny_model *tiny, uint32_t kv_dtype, pico_model **out,
                            pico_error *err);

/* A vocabulary whose token i is the text "<letters>" and whose last token ends the text; kind SPM.
 * Pieces live in the arena. */
pico_status tiny_vocab(uint32_t n, pico_arena *arena, pico_vocab *out, pico_error *err);

/* Seeded random numbers for tests: reproducible, no global state. */
static inline uint64_t rig_random(uint64_t *state) {
    uint64_t x = *state += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}
static inline uint32_t rig_below(uint64_t *state, uint32_t n) {
    return (uint32_t)((rig_random(state) >> 32) * n >> 32);
}
static inline double rig_uniform(uint64_t *state) {
    return ((double)(rig_random(state) >> 11) + 0.5) * 0x1p-53;
}

#endif
