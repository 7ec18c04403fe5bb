/* A backend that passes everything on and fails when it is told to; see rig.h. */
#include "conform/rig.h"

#include <string.h>

/* 1 if this call of a kind is the one that must fail. */
static int fails(fault *f, uint32_t kind) {
    if (!(f->kinds & kind)) {
        return 0;
    }
    f->n_calls++;
    if (f->left != 0) {
        f->left -= f->left > 0;
        return 0;
    }
    f->left = -1;
    f->n_failed++;
    return 1;
}

void fault_arm(fault *f, uint32_t kinds, int64_t n) {
    f->kinds = kinds;
    f->left = n;
    f->n_calls = 0;
}

#define OP(name, type)                                                                             \
    static pico_status fault_##name(void *self, const type *args) {                                \
        fault *f = self;                                                                           \
        return fails(f, FAULT_OP) ? PICO_E_DEVICE : f->inner->name(f->inner_self, args);           \
    }
OP(embed, pico_embed_args)
OP(norm, pico_norm_args)
OP(linear, pico_linear_args)
OP(rope, pico_rope_args)
OP(kv_store, pico_kv_store_args)
OP(attend, pico_attend_args)
OP(activation, pico_act_args)
OP(gate, pico_gate_args)
OP(axpby, pico_axpby_args)
OP(softcap, pico_softcap_args)
OP(logit_edit, pico_logit_edit_args)
OP(argmax, pico_argmax_args)
OP(top_k, pico_top_k_args)
OP(linear_many, pico_linear_many_args)
OP(linear_gated, pico_linear_gated_args)

static pico_status fault_kv_copy(void *self, const pico_kv_copy_args *args) {
    fault *f = self;
    return fails(f, FAULT_KV_COPY) ? PICO_E_DEVICE : f->inner->kv_copy(f->inner_self, args);
}

static pico_status fault_caps(void *self, pico_backend_caps *out) {
    fault *f = self;
    return f->inner->caps(f->inner_self, out);
}

static pico_status fault_alloc(void *self, uint64_t bytes, pico_buffer **out, pico_error *err) {
    fault *f = self;
    f->n_alloc++;
    if (fails(f, FAULT_ALLOC)) {
        *out = NULL;
        return pico_fail(err, PICO_E_NOMEM, "injected: no memory for %llu bytes",
                         (unsigned long long)bytes);
    }
    return f->inner->buffer_alloc(f->inner_self, bytes, out, err);
}

static void fault_free(void *self, pico_buffer *buffer) {
    fault *f = self;
    f->inner->buffer_free(f->inner_self, buffer);
}

static pico_status fault_write(void *self, pico_buffer *buffer, uint64_t offset, const void *src,
                               uint64_t bytes) {
    fault *f = self;
    return fails(f, FAULT_WRITE)
               ? PICO_E_DEVICE
               : f->inner->buffer_write(f->inner_self, buffer, offset, src, bytes);
}

static pico_status fault_read(void *self, const pico_buffer *buffer, uint64_t offset, void *dst,
                              uint64_t bytes, pico_error *err) {
    fault *f = self;
    return fails(f, FAULT_READ)
               ? pico_fail(err, PICO_E_DEVICE, "injected: the device failed")
               : f->inner->buffer_read(f->inner_self, buffer, offset, dst, bytes, err);
}

static pico_status fault_copy(void *self, pico_buffer *dst, uint64_t dst_offset,
                              const pico_buffer *src, uint64_t src_offset, uint64_t bytes) {
    fault *f = self;
    return fails(f, FAULT_OP)
               ? PICO_E_DEVICE
               : f->inner->buffer_copy(f->inner_self, dst, dst_offset, src, src_offset, bytes);
}

static pico_status fault_sync(void *self, pico_error *err) {
    fault *f = self;
    return f->inner->sync(f->inner_self, err);
}

static pico_status fault_supports(void *self, uint32_t op, uint32_t dtype) {
    fault *f = self;
    return f->inner->supports(f->inner_self, op, dtype);
}

static pico_status fault_reserve(void *self, const pico_reserve *need, pico_error *err) {
    fault *f = self;
    return fails(f, FAULT_ALLOC) ? pico_fail(err, PICO_E_NOMEM, "injected: no scratch memory")
                                 : f->inner->reserve(f->inner_self, need, err);
}

static uint64_t fault_page_bytes(void *self, const pico_kv_desc *kv) {
    fault *f = self;
    return f->inner->kv_page_bytes(f->inner_self, kv);
}

static pico_status fault_weight_create(void *self, const pico_weight_desc *desc, uint32_t uses,
                                       uint32_t stays, pico_weight **out, pico_error *err) {
    fault *f = self;
    f->n_alloc++;
    if (fails(f, FAULT_ALLOC)) {
        *out = NULL;
        return pico_fail(err, PICO_E_NOMEM, "injected: no memory for a weight");
    }
    return f->inner->weight_create(f->inner_self, desc, uses, stays, out, err);
}

static void fault_weight_free(void *self, pico_weight *weight) {
    fault *f = self;
    f->inner->weight_free(f->inner_self, weight);
}

static pico_status fault_weight_read(void *self, const pico_weight *weight, void *codes,
                                     void *scales, pico_error *err) {
    fault *f = self;
    return f->inner->weight_read(f->inner_self, weight, codes, scales, err);
}

static void *fault_host(void *self, pico_buffer *buffer) {
    fault *f = self;
    return f->inner->buffer_host(f->inner_self, buffer);
}

/* ---- pico.capture/1: a launch counts as an op ---- */

static pico_status capture_begin(void *self, pico_error *err) {
    fault *f = self;
    return f->capture->begin(f->inner_self, err);
}

static pico_status capture_end(void *self, uint32_t keep, pico_recording **out, pico_error *err) {
    fault *f = self;
    return f->capture->end(f->inner_self, keep, out, err);
}

static pico_status capture_launch(void *self, const pico_recording *recording) {
    fault *f = self;
    return fails(f, FAULT_OP) ? PICO_E_DEVICE : f->capture->launch(f->inner_self, recording);
}

static void capture_free(void *self, pico_recording *recording) {
    fault *f = self;
    f->capture->free(f->inner_self, recording);
}

static const pico_capture_ops capture_table = {.struct_size = sizeof capture_table,
                                               .begin = capture_begin,
                                               .end = capture_end,
                                               .launch = capture_launch,
                                               .free = capture_free};

static const void *fault_extension(void *self, const char *id) {
    fault *f = self;
    if (strcmp(id, PICO_CAPTURE_EXTENSION) == 0) {
        f->capture = f->inner->extension(f->inner_self, id);
        return f->capture == NULL ? NULL : &capture_table;
    }
    /* Its slots would be called with the fault as their instance, and none would be counted. */
    return strcmp(id, PICO_TRAIN_EXTENSION) == 0 ? NULL : f->inner->extension(f->inner_self, id);
}

void fault_init(fault *f, const pico_backend_ops *inner, void *inner_self) {
    int hide = f->hide_optional;
    memset(f, 0, sizeof *f);
    f->hide_optional = hide;
    f->inner = inner;
    f->inner_self = inner_self;
    f->left = -1;
    f->ops = (pico_backend_ops){.struct_size = sizeof f->ops,
                                .caps = fault_caps,
                                .buffer_alloc = fault_alloc,
                                .buffer_free = fault_free,
                                .buffer_write = fault_write,
                                .buffer_read = fault_read,
                                .buffer_copy = fault_copy,
                                .sync = fault_sync,
                                .supports = fault_supports,
                                .reserve = fault_reserve,
                                .kv_page_bytes = fault_page_bytes,
                                .weight_create = fault_weight_create,
                                .weight_free = fault_weight_free,
                                .weight_read = fault_weight_read,
                                .embed = fault_embed,
                                .norm = fault_norm,
                                .linear = fault_linear,
                                .rope = fault_rope,
                                .kv_store = fault_kv_store,
                                .kv_copy = fault_kv_copy,
                                .attend = fault_attend,
                                .activation = fault_activation,
                                .gate = fault_gate,
                                .axpby = fault_axpby,
                                .softcap = fault_softcap,
                                .logit_edit = fault_logit_edit,
                                .argmax = fault_argmax,
                                .top_k = fault_top_k};
    if (!hide) {
        f->ops.buffer_host = inner->buffer_host == NULL ? NULL : fault_host;
        f->ops.linear_many = inner->linear_many == NULL ? NULL : fault_linear_many;
        f->ops.linear_gated = inner->linear_gated == NULL ? NULL : fault_linear_gated;
        f->ops.extension = inner->extension == NULL ? NULL : fault_extension;
    }
}
