/*
 * backend_cuda: the plugin's descriptor, its options and the table of ops. Ops are queued in one
 * stream; the host waits only where it reads.
 */
#include <stdlib.h>
#include <string.h>

#include "cuda.h"
#include "fuse.h"
#include "train.h"

static const pico_option options[] = {
    {.name = "device",
     .type = PICO_OPT_INT,
     .offset = offsetof(cuda_options, device),
     .def = "0",
     .min = 0,
     .max = 1023,
     .help = "which device, as CUDA numbers those that CUDA_VISIBLE_DEVICES shows"},
    {.name = "deterministic",
     .type = PICO_OPT_BOOL,
     .offset = offsetof(cuda_options, deterministic),
     .def = "off",
     .help =
         "a prompt's bits do not depend on how it is cut or on its company: its products run as "
         "blocks of one fixed shape, which costs time; steps and drafts are so in any case"},
    {.name = "graphs",
     .type = PICO_OPT_BOOL,
     .offset = offsetof(cuda_options, graphs),
     .def = "on",
     .help = "a step of each shape is recorded as a CUDA graph and launched as a whole"},
    {.name = "sync",
     .type = PICO_OPT_BOOL,
     .offset = offsetof(cuda_options, sync),
     .def = "off",
     .help = "waits after each op, so that an error names the op that failed; slow"},
};

static void cuda_destroy(void *self) {
    if (self != NULL) {
        cuda_backend *cuda = self;
        cuda_close_device(cuda);
        free(cuda->pending);
        free(cuda);
    }
}

static pico_status cuda_create(const pico_host *host, const void *bound, void **self,
                               pico_error *err) {
    cuda_backend *cuda = calloc(1, sizeof *cuda);
    if (cuda == NULL) {
        return pico_fail(err, PICO_E_NOMEM, CUDA_SAYS "no host memory for an instance");
    }
    cuda->host = host;
    cuda->options = *(const cuda_options *)bound;
    cuda->pending = calloc(1, sizeof *cuda->pending);
    if (cuda->pending == NULL) {
        cuda_destroy(cuda);
        return pico_fail(err, PICO_E_NOMEM, CUDA_SAYS "no host memory for an instance");
    }
    const pico_status status = cuda_open_device(cuda, err);
    if (status != PICO_OK) {
        cuda_destroy(cuda);
        return status;
    }
    *self = cuda;
    return PICO_OK;
}

static pico_status cuda_caps(void *self, pico_backend_caps *out) {
    const cuda_backend *cuda = cuda_enter(self);
    size_t spare = 0, all = 0;
    pico_backend_caps caps = {.struct_size = sizeof caps,
                              .flags = cuda->options.deterministic ? PICO_CAP_BATCH_INVARIANT : 0};
    memcpy(caps.device, cuda->device, sizeof caps.device);
    if (cudaMemGetInfo(&spare, &all) == cudaSuccess) {
        caps.memory_bytes = all;
        caps.free_bytes = spare;
    }
    *out = caps;
    return PICO_OK;
}

static pico_status cuda_sync(void *self, pico_error *err) {
    return cuda_wait(self, err);
}

static pico_status cuda_supports(void *self, uint32_t op, uint32_t dtype) {
    (void)self;
    int yes = 0;
    switch (op) {
    case PICO_OP_PRODUCT:
    case PICO_OP_LOOKUP:
        yes = (dtype >= PICO_DTYPE_F32 && dtype <= PICO_DTYPE_BF16) ||
              (dtype >= PICO_DTYPE_I8 && dtype <= PICO_DTYPE_NF4);
        break;
    case PICO_OP_KV:
        yes = (dtype >= PICO_DTYPE_F32 && dtype <= PICO_DTYPE_BF16) || dtype == PICO_DTYPE_Q8_0;
        break;
    case PICO_OP_ROPE:
        yes = dtype == PICO_ROPE_PAIRS || dtype == PICO_ROPE_HALVES;
        break;
    case PICO_OP_ACT:
        yes = dtype >= PICO_ACT_SILU && dtype <= PICO_ACT_RELU_SQUARED;
        break;
    default:
        break;
    }
    return yes ? PICO_OK : PICO_E_UNSUPPORTED;
}

static const void *cuda_extension(void *self, const char *id) {
    const cuda_backend *cuda = self;
    if (strcmp(id, PICO_CAPTURE_EXTENSION) == 0) {
        return cuda->options.graphs ? &cuda_capture_table : NULL;
    }
    return strcmp(id, PICO_TRAIN_EXTENSION) == 0 ? &cuda_train_table : NULL;
}

static const pico_backend_ops ops = {
    .struct_size = sizeof(pico_backend_ops),
    .caps = cuda_caps,
    .buffer_alloc = cuda_buffer_alloc,
    .buffer_free = cuda_buffer_free,
    .buffer_write = cuda_buffer_write,
    .buffer_read = cuda_buffer_read,
    .buffer_copy = cuda_buffer_copy,
    .sync = cuda_sync,
    .supports = cuda_supports,
    .reserve = cuda_reserve,
    .kv_page_bytes = cuda_kv_page_bytes,
    .weight_create = cuda_weight_create,
    .weight_free = cuda_weight_free,
    .weight_read = cuda_weight_read,
    .embed = cuda_embed,
    .norm = cuda_norm,
    .linear = cuda_linear,
    .rope = cuda_rope,
    .kv_store = cuda_kv_store,
    .kv_copy = cuda_kv_copy,
    .attend = cuda_attend,
    .activation = cuda_activation,
    .gate = cuda_gate,
    .axpby = cuda_axpby,
    .softcap = cuda_softcap,
    .logit_edit = cuda_logit_edit,
    .argmax = cuda_argmax,
    .top_k = cuda_top_k,
    .linear_many = cuda_linear_many,
    .linear_gated = cuda_linear_gated,
    .extension = cuda_extension,
};

static const pico_plugin plugin = {
    .magic = PICO_PLUGIN_MAGIC,
    .abi_major = PICO_ABI_MAJOR,
    .abi_minor = PICO_ABI_MINOR,
    .struct_size = sizeof(pico_plugin),
    .kind = PICO_KIND_BACKEND,
    .name = CUDA_NAME,
    .version = "0.1.0",
    .summary = "runs on an NVIDIA GPU, compute capability 7.5 and later",
    .options = options,
    .n_options = sizeof options / sizeof *options,
    .option_size = sizeof(pico_option),
    .options_bytes = sizeof(cuda_options),
    .create = cuda_create,
    .destroy = cuda_destroy,
    .ops = &ops,
};

PICO_EXPORT const pico_plugin *pico_plugin_query(uint32_t index) {
    return index == 0 ? &plugin : NULL;
}
