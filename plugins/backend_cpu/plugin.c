/*
 * backend_cpu: the plugin's descriptor, its options and the table of ops. All work happens when an
 * op is called, on the calling thread and the host's pool: nothing is queued.
 */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cpu.h"

typedef struct cpu_options {
    uint32_t isa;
    uint32_t activations;
} cpu_options;

static const char *const isa_choices[] = {"auto", "portable", "avx2", "avx512", "amx", NULL};
static const char *const activation_choices[] = {"auto", "f32", NULL};

static const pico_option options[] = {
    {.name = "isa",
     .type = PICO_OPT_ENUM,
     .offset = offsetof(cpu_options, isa),
     .def = "auto",
     .choices = isa_choices,
     .help =
         "instruction set: the best that the CPU has, plain C, AVX2 (with FMA and F16C), AVX-512 "
         "(F, BW, VL, DQ; VNNI where there), or AMX"},
    {.name = "activations",
     .type = PICO_OPT_ENUM,
     .offset = offsetof(cpu_options, activations),
     .def = "auto",
     .choices = activation_choices,
     .help = "what products see of their input: rounded as the weights ask (int8), or as the "
             "kernels are fastest (BF16 in prompts, with AMX); f32: never rounded, and slow"},
};

static pico_status cpu_create(const pico_host *host, const void *bound, void **self,
                              pico_error *err) {
    const cpu_options *opt = bound;
    if (host == NULL || host->n_threads == NULL || host->parallel_for == NULL) {
        return pico_fail(err, PICO_E_ABI, "backend cpu: the host offers no parallel_for");
    }
    const cpu_kernels *kernels = NULL;
    pico_status status = cpu_choose_kernels(opt == NULL ? CPU_ISA_AUTO : opt->isa, &kernels, err);
    if (status != PICO_OK) {
        return status;
    }
    cpu_backend *cpu = calloc(1, sizeof *cpu);
    if (cpu == NULL) {
        return pico_fail(err, PICO_E_NOMEM, "backend cpu: no memory for an instance");
    }
    cpu->host = host;
    cpu->kernels = kernels;
    cpu->float_input = opt != NULL && opt->activations != 0;
    cpu->n_threads = host->n_threads(host->ctx);
    if (cpu->n_threads == 0) {
        cpu->n_threads = 1;
    }
    if (host->will_read != NULL && cpu->n_threads > 1) {
        cpu->ranges = calloc((size_t)cpu->n_threads * 2, sizeof *cpu->ranges);
        if (cpu->ranges == NULL) {
            free(cpu);
            return pico_fail(err, PICO_E_NOMEM, "backend cpu: no memory for an instance");
        }
    }
    char model[64];
    cpu_model_name(model);
    (void)snprintf(cpu->device, sizeof cpu->device, "%s, %s, %u thread%s", model, kernels->name,
                   cpu->n_threads, cpu->n_threads == 1 ? "" : "s");
    *self = cpu;
    return PICO_OK;
}

static void cpu_destroy(void *self) {
    cpu_backend *cpu = self;
    if (cpu != NULL) {
        free(cpu->scratch);
        free(cpu->pack);
        free(cpu->ranges);
        cpu_train_free(cpu);
        free(cpu);
    }
}

static pico_status cpu_caps(void *self, pico_backend_caps *out) {
    const cpu_backend *cpu = self;
    pico_backend_caps caps = {.struct_size = sizeof caps,
                              .flags = PICO_CAP_BATCH_INVARIANT | PICO_CAP_HOST_MEMORY};
    memcpy(caps.device, cpu->device, sizeof caps.device);
    long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
    long spare = sysconf(_SC_AVPHYS_PAGES);
    if (pages > 0 && page > 0) {
        caps.memory_bytes = (uint64_t)pages * (uint64_t)page;
        caps.free_bytes = spare > 0 ? (uint64_t)spare * (uint64_t)page : 0;
    }
    *out = caps;
    return PICO_OK;
}

static pico_status cpu_sync(void *self, pico_error *err) {
    (void)self;
    (void)err;
    return PICO_OK; /* every op has run when it returns */
}

static pico_status cpu_supports(void *self, uint32_t op, uint32_t dtype) {
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

static const pico_backend_ops ops = {
    .struct_size = sizeof(pico_backend_ops),
    .caps = cpu_caps,
    .buffer_alloc = cpu_buffer_alloc,
    .buffer_free = cpu_buffer_free,
    .buffer_write = cpu_buffer_write,
    .buffer_read = cpu_buffer_read,
    .buffer_copy = cpu_buffer_copy,
    .sync = cpu_sync,
    .supports = cpu_supports,
    .reserve = cpu_reserve,
    .kv_page_bytes = cpu_kv_page_bytes,
    .weight_create = cpu_weight_create,
    .weight_free = cpu_weight_free,
    .weight_read = cpu_weight_read,
    .embed = cpu_embed,
    .norm = cpu_norm,
    .linear = cpu_linear,
    .rope = cpu_rope,
    .kv_store = cpu_kv_store,
    .kv_copy = cpu_kv_copy,
    .attend = cpu_attend,
    .activation = cpu_activation,
    .gate = cpu_gate,
    .axpby = cpu_axpby,
    .softcap = cpu_softcap,
    .logit_edit = cpu_logit_edit,
    .argmax = cpu_argmax,
    .top_k = cpu_top_k,
    .buffer_host = cpu_buffer_host,
    .linear_many = cpu_linear_many,
    .linear_gated = cpu_linear_gated,
    .extension = cpu_extension,
};

static const pico_plugin plugin = {
    .magic = PICO_PLUGIN_MAGIC,
    .abi_major = PICO_ABI_MAJOR,
    .abi_minor = PICO_ABI_MINOR,
    .struct_size = sizeof(pico_plugin),
    .kind = PICO_KIND_BACKEND,
    .name = "cpu",
    .version = "0.1.0",
    .summary = "runs on the CPU: portable C, AVX2, AVX-512 or AMX, chosen when it starts",
    .options = options,
    .n_options = sizeof options / sizeof *options,
    .option_size = sizeof(pico_option),
    .options_bytes = sizeof(cpu_options),
    .create = cpu_create,
    .destroy = cpu_destroy,
    .ops = &ops,
};

PICO_EXPORT const pico_plugin *pico_plugin_query(uint32_t index) {
    return index == 0 ? &plugin : NULL;
}
