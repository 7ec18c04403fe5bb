/*
 * The ops: queueing a copy of the arguments, and running it later on the inner backend with the
 * inner buffers and weights in place of the handles.
 */
#include <stddef.h>

#include "deferred.h"

/* ---- queueing ---- */

#define OP(name, type, which)                                                                      \
    pico_status deferred_##name(void *self, const type *args) {                                    \
        call c = {.kind = which};                                                                  \
        c.as.name = *args;                                                                         \
        return queue_add(self, &c);                                                                \
    }
OP(embed, pico_embed_args, CALL_EMBED)
OP(norm, pico_norm_args, CALL_NORM)
OP(linear, pico_linear_args, CALL_LINEAR)
OP(rope, pico_rope_args, CALL_ROPE)
OP(kv_store, pico_kv_store_args, CALL_KV_STORE)
OP(kv_copy, pico_kv_copy_args, CALL_KV_COPY)
OP(activation, pico_act_args, CALL_ACTIVATION)
OP(gate, pico_gate_args, CALL_GATE)
OP(axpby, pico_axpby_args, CALL_AXPBY)
OP(softcap, pico_softcap_args, CALL_SOFTCAP)
OP(logit_edit, pico_logit_edit_args, CALL_LOGIT_EDIT)
OP(argmax, pico_argmax_args, CALL_ARGMAX)
OP(top_k, pico_top_k_args, CALL_TOP_K)
OP(linear_many, pico_linear_many_args, CALL_LINEAR_MANY)

pico_status deferred_attend(void *self, const pico_attend_args *args) {
    call c = {.kind = CALL_ATTEND};
    c.as.attend.args = *args;
    c.as.attend.batch = *args->batch;
    return queue_add(self, &c);
}

/* ---- running ---- */

static void enter(pico_tensor *tensor) {
    tensor->buffer = tensor->buffer == NULL ? NULL : tensor->buffer->inner;
}

static pico_status run_attend(deferred *d, const attend_call *c) {
    pico_attend_args args = c->args;
    pico_batch batch = c->batch;
    pico_tensor *const tensors[] = {&args.page_table, &args.q,        &args.out,   &batch.token,
                                    &batch.prev,      &batch.pos,     &batch.slot, &batch.base,
                                    &batch.anc_begin, &batch.anc_cell};
    for (size_t i = 0; i < sizeof tensors / sizeof *tensors; i++) {
        enter(tensors[i]);
    }
    args.pages = args.pages->inner;
    args.batch = &batch;
    return d->inner.attend(d->inner_self, &args);
}

/* As several products where the inner backend has no linear_many; plugin.h says that it is the
 * same.
 */
static pico_status run_linear_many(deferred *d, const pico_linear_many_args *c) {
    pico_linear_many_args args = *c;
    pico_status status = PICO_OK;
    enter(&args.x);
    for (uint32_t i = 0; i < args.n; i++) {
        args.weight[i] = args.weight[i]->inner;
        enter(&args.bias[i]);
        enter(&args.y[i]);
    }
    if (d->inner.linear_many != NULL) {
        return d->inner.linear_many(d->inner_self, &args);
    }
    for (uint32_t i = 0; status == PICO_OK && i < args.n; i++) {
        const pico_linear_args one = {.weight = args.weight[i],
                                      .x = args.x,
                                      .bias = args.bias[i],
                                      .y = args.y[i],
                                      .n_decode = args.n_decode};
        status = d->inner.linear(d->inner_self, &one);
    }
    return status;
}

static pico_status run_memory(deferred *d, const call *c) {
    if (c->kind == CALL_WRITE) {
        const write_call *w = &c->as.write;
        return d->inner.buffer_write(d->inner_self, w->buffer->inner, w->offset, w->data, w->bytes);
    }
    const copy_call *m = &c->as.copy;
    return d->inner.buffer_copy(d->inner_self, m->to->inner, m->to_offset, m->from->inner,
                                m->from_offset, m->bytes);
}

static pico_status run_kv(deferred *d, call c) {
    if (c.kind == CALL_KV_STORE) {
        c.as.kv_store.pages = c.as.kv_store.pages->inner;
        enter(&c.as.kv_store.k);
        enter(&c.as.kv_store.v);
        enter(&c.as.kv_store.cell);
        return d->inner.kv_store(d->inner_self, &c.as.kv_store);
    }
    c.as.kv_copy.pages = c.as.kv_copy.pages->inner;
    enter(&c.as.kv_copy.from);
    enter(&c.as.kv_copy.to);
    return d->inner.kv_copy(d->inner_self, &c.as.kv_copy);
}

static pico_status run_logits(deferred *d, call c) {
    if (c.kind == CALL_ARGMAX) {
        enter(&c.as.argmax.logits);
        enter(&c.as.argmax.index);
        return d->inner.argmax(d->inner_self, &c.as.argmax);
    }
    if (c.kind == CALL_TOP_K) {
        enter(&c.as.top_k.logits);
        enter(&c.as.top_k.index);
        enter(&c.as.top_k.value);
        enter(&c.as.top_k.log_sum);
        return d->inner.top_k(d->inner_self, &c.as.top_k);
    }
    if (c.kind == CALL_SOFTCAP) {
        enter(&c.as.softcap.x);
        return d->inner.softcap(d->inner_self, &c.as.softcap);
    }
    enter(&c.as.logit_edit.logits);
    enter(&c.as.logit_edit.row);
    enter(&c.as.logit_edit.token);
    enter(&c.as.logit_edit.sub);
    enter(&c.as.logit_edit.rep);
    enter(&c.as.logit_edit.bias);
    return d->inner.logit_edit(d->inner_self, &c.as.logit_edit);
}

static pico_status run_elements(deferred *d, call c) {
    if (c.kind == CALL_ACTIVATION) {
        enter(&c.as.activation.x);
        enter(&c.as.activation.gate);
        enter(&c.as.activation.y);
        return d->inner.activation(d->inner_self, &c.as.activation);
    }
    if (c.kind == CALL_GATE) {
        enter(&c.as.gate.scalar);
        enter(&c.as.gate.g);
        enter(&c.as.gate.u);
        enter(&c.as.gate.y);
        return d->inner.gate(d->inner_self, &c.as.gate);
    }
    enter(&c.as.axpby.a_scalar);
    enter(&c.as.axpby.b_scalar);
    enter(&c.as.axpby.x);
    enter(&c.as.axpby.y);
    return d->inner.axpby(d->inner_self, &c.as.axpby);
}

static pico_status run_rows(deferred *d, call c) {
    if (c.kind == CALL_EMBED) {
        c.as.embed.table = c.as.embed.table->inner;
        enter(&c.as.embed.index);
        enter(&c.as.embed.out);
        return d->inner.embed(d->inner_self, &c.as.embed);
    }
    if (c.kind == CALL_NORM) {
        enter(&c.as.norm.x);
        enter(&c.as.norm.weight);
        enter(&c.as.norm.bias);
        enter(&c.as.norm.y);
        return d->inner.norm(d->inner_self, &c.as.norm);
    }
    if (c.kind == CALL_LINEAR) {
        c.as.linear.weight = c.as.linear.weight->inner;
        enter(&c.as.linear.x);
        enter(&c.as.linear.bias);
        enter(&c.as.linear.y);
        return d->inner.linear(d->inner_self, &c.as.linear);
    }
    enter(&c.as.rope.x);
    enter(&c.as.rope.pos);
    enter(&c.as.rope.cos);
    enter(&c.as.rope.sin);
    return d->inner.rope(d->inner_self, &c.as.rope);
}

pico_status call_run(deferred *d, const call *c) {
    switch (c->kind) {
    case CALL_WRITE:
    case CALL_COPY:
        return run_memory(d, c);
    case CALL_EMBED:
    case CALL_NORM:
    case CALL_LINEAR:
    case CALL_ROPE:
        return run_rows(d, *c);
    case CALL_KV_STORE:
    case CALL_KV_COPY:
        return run_kv(d, *c);
    case CALL_ATTEND:
        return run_attend(d, &c->as.attend);
    case CALL_LINEAR_MANY:
        return run_linear_many(d, &c->as.linear_many);
    case CALL_TRAIN:
        return run_train(d, c->as.train);
    case CALL_ACTIVATION:
    case CALL_GATE:
    case CALL_AXPBY:
        return run_elements(d, *c);
    default:
        return run_logits(d, *c);
    }
}
