/*
 * The extension pico.train/1 behind the queue: each slot queues a copy of its arguments, which run
 * later with the inner buffers in place of the handles. Offered where the inner backend has it.
 */
#include <stddef.h>
#include <string.h>

#include "deferred.h"

#define QUEUE(name, type)                                                                          \
    static pico_status train_##name(void *self, const type *args) {                                \
        call c = {.kind = CALL_TRAIN, .as.train.slot = TRAIN_SLOT_##name};                         \
        c.as.train.as.name = *args;                                                                \
        return queue_add(self, &c);                                                                \
    }
DEFERRED_TRAIN_SLOTS(QUEUE)

static pico_status train_reserve(void *self, const pico_train_reserve *need, pico_error *err) {
    deferred *d = self;
    for (uint32_t i = 0; i < d->n_queue; i++) {
        if (d->queue[i].kind > CALL_COPY) {
            return pico_fail(err, PICO_E_INVALID, "backend deferred: reserve while ops are queued");
        }
    }
    return d->train.reserve(d->inner_self, need, err);
}

static uint32_t train_features(void *self) {
    deferred *d = self;
    return d->train.features == NULL ? 0 : d->train.features(d->inner_self);
}

#define SLOT(name, type) .name = train_##name,
static const pico_train_ops table = {.struct_size = sizeof table,
                                     .reserve = train_reserve,
                                     .features = train_features,
                                     DEFERRED_TRAIN_SLOTS(SLOT)};

const void *deferred_train(deferred *d) {
    const pico_train_ops *inner =
        d->inner.extension == NULL ? NULL : d->inner.extension(d->inner_self, PICO_TRAIN_EXTENSION);
    if (inner == NULL) {
        return NULL;
    }
    memcpy(&d->train, inner,
           inner->struct_size < sizeof d->train ? inner->struct_size : sizeof d->train);
    return &table;
}

/* ---- running ---- */

/* Where the tensors of a slot's arguments are. */
typedef struct tensor_list {
    uint32_t slot, n;
    size_t offset[10];
} tensor_list;

#define AT(type, member) offsetof(type, member)
#define FORWARD(member) offsetof(pico_attend_backward_args, forward.member)
static const tensor_list lists[] = {
    {TRAIN_SLOT_gemm,
     4,
     {AT(pico_gemm_args, a), AT(pico_gemm_args, b), AT(pico_gemm_args, bias),
      AT(pico_gemm_args, c)}},
    {TRAIN_SLOT_gather,
     3,
     {AT(pico_gather_args, table), AT(pico_gather_args, index), AT(pico_gather_args, rows)}},
    {TRAIN_SLOT_scatter,
     3,
     {AT(pico_gather_args, table), AT(pico_gather_args, index), AT(pico_gather_args, rows)}},
    {TRAIN_SLOT_norm_backward,
     6,
     {AT(pico_norm_backward_args, x), AT(pico_norm_backward_args, dy),
      AT(pico_norm_backward_args, weight), AT(pico_norm_backward_args, dx),
      AT(pico_norm_backward_args, dweight), AT(pico_norm_backward_args, dbias)}},
    {TRAIN_SLOT_act_backward,
     5,
     {AT(pico_act_backward_args, x), AT(pico_act_backward_args, dy),
      AT(pico_act_backward_args, gate), AT(pico_act_backward_args, dx),
      AT(pico_act_backward_args, dgate)}},
    {TRAIN_SLOT_gate_backward,
     7,
     {AT(pico_gate_backward_args, scalar), AT(pico_gate_backward_args, g),
      AT(pico_gate_backward_args, u), AT(pico_gate_backward_args, dy),
      AT(pico_gate_backward_args, dg), AT(pico_gate_backward_args, du),
      AT(pico_gate_backward_args, dscalar)}},
    {TRAIN_SLOT_softcap_backward,
     2,
     {AT(pico_softcap_backward_args, y), AT(pico_softcap_backward_args, dy)}},
    {TRAIN_SLOT_attend,
     5,
     {AT(pico_train_attend_args, q), AT(pico_train_attend_args, k), AT(pico_train_attend_args, v),
      AT(pico_train_attend_args, out), AT(pico_train_attend_args, lse)}},
    {TRAIN_SLOT_attend_backward,
     10,
     {FORWARD(q), FORWARD(k), FORWARD(v), FORWARD(out), FORWARD(lse),
      AT(pico_attend_backward_args, dout), AT(pico_attend_backward_args, dq),
      AT(pico_attend_backward_args, dk), AT(pico_attend_backward_args, dv),
      AT(pico_attend_backward_args, work)}},
    {TRAIN_SLOT_loss,
     8,
     {AT(pico_loss_args, logits), AT(pico_loss_args, target), AT(pico_loss_args, teacher),
      AT(pico_loss_args, teacher_row), AT(pico_loss_args, mask), AT(pico_loss_args, d),
      AT(pico_loss_args, ce), AT(pico_loss_args, kl)}},
    {TRAIN_SLOT_reduce,
     3,
     {AT(pico_reduce_args, x), AT(pico_reduce_args, y), AT(pico_reduce_args, out)}},
    {TRAIN_SLOT_scale, 2, {AT(pico_scale_args, scalar), AT(pico_scale_args, x)}},
    {TRAIN_SLOT_adamw,
     4,
     {AT(pico_adamw_args, p), AT(pico_adamw_args, grad), AT(pico_adamw_args, m),
      AT(pico_adamw_args, v)}},
    {TRAIN_SLOT_muon,
     3,
     {AT(pico_muon_args, x), AT(pico_muon_args, p), AT(pico_muon_args, second)}},
};

static void enter_all(train_call *c) {
    for (size_t i = 0; i < sizeof lists / sizeof *lists; i++) {
        for (uint32_t j = 0; lists[i].slot == c->slot && j < lists[i].n; j++) {
            pico_tensor *tensor = (void *)((char *)&c->as + lists[i].offset[j]);
            tensor->buffer = tensor->buffer == NULL ? NULL : tensor->buffer->inner;
        }
    }
}

#define RUN(name, type)                                                                            \
    case TRAIN_SLOT_##name:                                                                        \
        return d->train.name(d->inner_self, &c.as.name);

pico_status run_train(deferred *d, train_call c) {
    enter_all(&c);
    switch (c.slot) {
        DEFERRED_TRAIN_SLOTS(RUN)
    default:
        return PICO_E_INVALID;
    }
}
