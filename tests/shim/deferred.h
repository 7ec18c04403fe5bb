/*
 * A backend that behaves like a device far away, around any other backend: its memory cannot be
 * looked at, ops wait in a queue until something is read, nothing may be allocated between the
 * first op and the next reserve, and a failure shows itself late. Code that passes on it makes no
 * use of what only a CPU can do. It is for tests; it makes nothing faster and adds no arithmetic.
 */
#ifndef PICO_SHIM_DEFERRED_H
#define PICO_SHIM_DEFERRED_H

#include "plugin.h"

/* Kinds of queued calls. */
enum {
    CALL_WRITE = 1,
    CALL_COPY,
    CALL_EMBED,
    CALL_NORM,
    CALL_LINEAR,
    CALL_ROPE,
    CALL_KV_STORE,
    CALL_KV_COPY,
    CALL_ATTEND,
    CALL_ACTIVATION,
    CALL_GATE,
    CALL_AXPBY,
    CALL_SOFTCAP,
    CALL_LOGIT_EDIT,
    CALL_ARGMAX,
    CALL_TOP_K,
    CALL_LINEAR_MANY,
    CALL_TRAIN
};

typedef struct write_call {
    pico_buffer *buffer;
    uint64_t offset, bytes;
    uint8_t *data; /* owned by the queue */
} write_call;

typedef struct copy_call {
    pico_buffer *to;
    uint64_t to_offset;
    const pico_buffer *from;
    uint64_t from_offset, bytes;
} copy_call;

typedef struct attend_call {
    pico_attend_args args;
    pico_batch batch; /* args.batch is set to it when the call runs */
} attend_call;

/* The slots of pico.train/1 that are queued, with the types of their arguments. */
#define DEFERRED_TRAIN_SLOTS(X)                                                                    \
    X(gemm, pico_gemm_args)                                                                        \
    X(gather, pico_gather_args)                                                                    \
    X(scatter, pico_gather_args)                                                                   \
    X(norm_backward, pico_norm_backward_args)                                                      \
    X(act_backward, pico_act_backward_args)                                                        \
    X(gate_backward, pico_gate_backward_args)                                                      \
    X(softcap_backward, pico_softcap_backward_args)                                                \
    X(attend, pico_train_attend_args)                                                              \
    X(attend_backward, pico_attend_backward_args)                                                  \
    X(loss, pico_loss_args)                                                                        \
    X(reduce, pico_reduce_args)                                                                    \
    X(scale, pico_scale_args)                                                                      \
    X(adamw, pico_adamw_args)                                                                      \
    X(muon, pico_muon_args)

#define DEFERRED_SLOT_NUMBER(name, type) TRAIN_SLOT_##name,
#define DEFERRED_SLOT_MEMBER(name, type) type name;
enum { DEFERRED_TRAIN_SLOTS(DEFERRED_SLOT_NUMBER) TRAIN_SLOT_COUNT };

typedef struct train_call {
    uint32_t slot;
    union {
        DEFERRED_TRAIN_SLOTS(DEFERRED_SLOT_MEMBER)
    } as;
} train_call;

/* One queued call with a copy of its arguments; buffers and weights are the shim's own. */
typedef struct call {
    uint32_t kind;
    union {
        write_call write;
        copy_call copy;
        pico_embed_args embed;
        pico_norm_args norm;
        pico_linear_args linear;
        pico_rope_args rope;
        pico_kv_store_args kv_store;
        pico_kv_copy_args kv_copy;
        attend_call attend;
        pico_act_args activation;
        pico_gate_args gate;
        pico_axpby_args axpby;
        pico_softcap_args softcap;
        pico_logit_edit_args logit_edit;
        pico_argmax_args argmax;
        pico_top_k_args top_k;
        pico_linear_many_args linear_many;
        train_call train;
    } as;
} call;

struct pico_buffer {
    pico_buffer *inner;
    uint64_t bytes;
};

struct pico_weight {
    pico_weight *inner;
};

enum { QUEUE_MOST = 1 << 16 };

typedef struct deferred {
    const pico_host *host;
    const pico_plugin *plugin; /* the inner one */
    pico_backend_ops inner;
    pico_train_ops train; /* the inner backend's; filled by deferred_train */
    void *inner_self;
    void *bound; /* the inner plugin's options */
    call *queue; /* (QUEUE_MOST) */
    uint32_t n_queue;
    call *record; /* (QUEUE_MOST) the calls being recorded; NULL: none */
    uint32_t n_record, recording, swallowing;
    call *capture; /* (QUEUE_MOST) the calls being captured; NULL: none */
    uint32_t n_capture;
    uint32_t generation;  /* reserves so far: recordings before the last one are stale */
    uint32_t n_launched;  /* recordings launched */
    uint32_t sealed;      /* 1: an op has run since the last reserve: no allocation */
    pico_status failure;  /* latched, reported by the next read or sync */
    uint32_t failed_kind; /* CALL_x */
    int64_t fail_left;    /* ops until one is made to fail; negative: never */
    uint32_t spoil;       /* SPOIL_x */
    uint32_t n_spoiled;
} deferred;

/* inner.c: finds the plugin in a file and makes an instance with its default options, changed by
 * set ("key=value,key=value", may be NULL). */
pico_status inner_open(deferred *d, const char *path, const char *set, pico_error *err);
void inner_close(deferred *d);

/* queue.c */
/* Adds a call; PICO_E_LIMIT when the queue is full. */
pico_status queue_add(deferred *d, const call *c);
/* Runs everything; a failure is latched and the calls behind it are dropped. */
void queue_run(deferred *d);
/* Runs the queue and gives the latched failure, once. */
pico_status queue_wait(deferred *d, pico_error *err);

/* memory.c, ops.c: the slots */
pico_status deferred_alloc(void *self, uint64_t bytes, pico_buffer **out, pico_error *err);
void deferred_free(void *self, pico_buffer *buffer);
pico_status deferred_write(void *self, pico_buffer *buffer, uint64_t offset, const void *src,
                           uint64_t bytes);
pico_status deferred_read(void *self, const pico_buffer *buffer, uint64_t offset, void *dst,
                          uint64_t bytes, pico_error *err);
pico_status deferred_copy(void *self, pico_buffer *dst, uint64_t dst_offset, const pico_buffer *src,
                          uint64_t src_offset, uint64_t bytes);
pico_status deferred_sync(void *self, pico_error *err);
pico_status deferred_reserve(void *self, const pico_reserve *need, pico_error *err);
pico_status deferred_weight_create(void *self, const pico_weight_desc *desc, uint32_t uses,
                                   uint32_t stays, pico_weight **out, pico_error *err);
void deferred_weight_free(void *self, pico_weight *weight);
pico_status deferred_weight_read(void *self, const pico_weight *weight, void *codes, void *scales,
                                 pico_error *err);

pico_status deferred_embed(void *self, const pico_embed_args *args);
pico_status deferred_norm(void *self, const pico_norm_args *args);
pico_status deferred_linear(void *self, const pico_linear_args *args);
pico_status deferred_rope(void *self, const pico_rope_args *args);
pico_status deferred_kv_store(void *self, const pico_kv_store_args *args);
pico_status deferred_kv_copy(void *self, const pico_kv_copy_args *args);
pico_status deferred_attend(void *self, const pico_attend_args *args);
pico_status deferred_activation(void *self, const pico_act_args *args);
pico_status deferred_gate(void *self, const pico_gate_args *args);
pico_status deferred_axpby(void *self, const pico_axpby_args *args);
pico_status deferred_softcap(void *self, const pico_softcap_args *args);
pico_status deferred_logit_edit(void *self, const pico_logit_edit_args *args);
pico_status deferred_argmax(void *self, const pico_argmax_args *args);
pico_status deferred_top_k(void *self, const pico_top_k_args *args);
pico_status deferred_linear_many(void *self, const pico_linear_many_args *args);

/* capture.c: the extension pico.capture/1. */
extern const pico_capture_ops deferred_capture_table;

/* spoil.c: what a broken backend would do after an op, so that the conformance kit can show that it
 * finds it. */
enum {
    SPOIL_NONE = 0,
    SPOIL_VALUE = 1,   /* a product is slightly wrong */
    SPOIL_GUARD = 2,   /* an activation writes one value too many */
    SPOIL_COMPANY = 3, /* a product depends on how many rows there are */
    SPOIL_DRIFT = 4    /* attention is not the same twice */
};
pico_status spoil(deferred *d, const call *c);

/* train.c: the extension pico.train/1; NULL if the inner backend has none. */
const void *deferred_train(deferred *d);
pico_status run_train(deferred *d, train_call c);

/* Runs one call on the inner backend, with its buffers and weights in place of the shim's. */
pico_status call_run(deferred *d, const call *c);

#include "record.h"
extern const deferred_record deferred_record_table;

#endif
