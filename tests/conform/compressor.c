/* Compressors: plans that are kept, tensors that are left alone. */
#include "conform/kit.h"
#include "transform/compress.h"
#include "transform/tensors.h"

enum { MAX_TENSOR = 128 };

typedef struct stage {
    rig r;
    pico_instance instance;
    const pico_compressor_ops *ops;
    pico_model_file *file;
    pico_tensors tensors;
    uint32_t n;
    pico_tensor_info info[MAX_TENSOR];
} stage;

/* With widths that are multiples of 32, so that every layout is possible. */
static void stage_open(conform *c, stage *s, const char *family) {
    const tiny_model tiny = {.family = family,
                             .n_layer = 2,
                             .n_head = 4,
                             .n_kv_head = 4,
                             .head_dim = 16,
                             .n_ff = 128,
                             .n_vocab = 96,
                             .n_ctx = 64,
                             .seed = 8};
    char section[160];
    memset(s, 0, sizeof *s);
    CHECK_OK(c, rig_open_host(&s->r, 2, error), "the host");
    s->r.host.tensors = &pico_tensors_table;
    CHECK_OK(c, pico_registry_open(NULL, &s->r.registry, error), "the registry");
    CHECK_OK(c, pico_config_open(&s->r.config, error), "the configuration");
    for (uint32_t i = 0; i < c->n_set; i++) {
        CHECK_OK(c, pico_config_set(s->r.config, c->set[i], "--set", error), "--set");
    }
    (void)snprintf(section, sizeof section, "%s.%s", pico_kind_name(c->kind), c->name);
    CHECK_OK(c,
             pico_registry_create(s->r.registry, s->r.config, c->kind, c->path, section, &s->r.host,
                                  &s->instance, error),
             "create");
    s->ops = &s->instance.loaded->ops.compressor;
    CHECK_OK(c, tiny_model_file(&tiny, &s->file, error), "a model");
    s->tensors.file = s->file;
    s->n = pico_tensors_table.count(&s->tensors);
    CHECK(c, s->n <= MAX_TENSOR, "the kit's model has too many tensors");
    for (uint32_t i = 0; i < s->n; i++) {
        CHECK(c, pico_tensors_table.info(&s->tensors, i, &s->info[i]) == PICO_OK, "tensor %u", i);
    }
}

static pico_status plan(stage *s, pico_tensor_plan *out, pico_layer_desc *layer, pico_error *err) {
    memcpy(layer, s->file->desc.layer, s->file->desc.n_layer * sizeof *layer);
    for (uint32_t i = 0; i < s->n; i++) {
        out[i] = (pico_tensor_plan){.dtype = s->info[i].dtype, .bytes = s->info[i].bytes};
        memcpy(out[i].shape, s->info[i].shape, sizeof out[i].shape);
    }
    return s->ops->plan(s->instance.self, &s->file->desc, s->info, s->n, out, layer, err);
}

static int is_unchanged(const pico_tensor_info *info, const pico_tensor_plan *p) {
    return p->dtype == info->dtype && memcmp(p->shape, info->shape, sizeof p->shape) == 0;
}

static const char *const families[] = {"llama", "gpt2", "nanochat"};

/* The plan is pure, keeps the width of the residual stream, and is what apply does; tensors that
 * the plan leaves alone keep their bits. */
static void plans_are_kept(conform *c) {
    uint32_t n_run = 0;
    pico_error why = {0};
    for (uint32_t f = 0; f < 3; f++) {
        stage s;
        pico_tensor_plan first[MAX_TENSOR], again[MAX_TENSOR];
        pico_layer_desc layer[2], layer_again[2];
        stage_open(c, &s, families[f]);
        pico_status status = plan(&s, first, layer, &why);
        if (status != PICO_OK) {
            CHECK(c, why.message[0] != '\0', "plan fails with %d and says nothing", (int)status);
            continue;
        }
        CHECK_OK(c, plan(&s, again, layer_again, error), "the same plan again");
        CHECK(c, memcmp(first, again, s.n * sizeof *first) == 0, "planned twice, two plans");
        CHECK(c, memcmp(layer, layer_again, sizeof layer) == 0, "planned twice, two plans");
        void *bits[MAX_TENSOR];
        for (uint32_t i = 0; i < s.n; i++) {
            const pico_weight_desc *data = &s.file->tensor[i].data;
            bits[i] = conform_alloc(c, data->codes_bytes, 1);
            memcpy(bits[i], data->codes, data->codes_bytes);
        }
        CHECK_OK(c, s.ops->apply(s.instance.self, &s.file->desc, &s.tensors, error), "apply");
        for (uint32_t i = 0; i < s.n; i++) {
            pico_tensor_info now;
            const char *name = s.info[i].name;
            CHECK(c, pico_tensors_table.info(&s.tensors, i, &now) == PICO_OK, "tensor %u", i);
            CHECK(c, strcmp(now.name, name) == 0, "tensor %u is now called %s", i, now.name);
            CHECK(c, now.dtype == first[i].dtype, "%s: planned as %s, written as %s", name,
                  pico_dtype_name(first[i].dtype), pico_dtype_name(now.dtype));
            CHECK(c, memcmp(now.shape, first[i].shape, sizeof now.shape) == 0,
                  "%s: another shape than planned", name);
            CHECK(c, now.bytes == first[i].bytes, "%s: %llu bytes, planned %llu", name,
                  (unsigned long long)now.bytes, (unsigned long long)first[i].bytes);
            CHECK(c,
                  !is_unchanged(&s.info[i], &first[i]) ||
                      memcmp(bits[i], s.file->tensor[i].data.codes,
                             s.file->tensor[i].data.codes_bytes) == 0,
                  "%s: planned as unchanged, but its bits changed", name);
            int residual = strstr(name, "attn_output.weight") != NULL ||
                           strstr(name, "ffn_down.weight") != NULL;
            CHECK(c, !residual || now.shape[0] == s.info[i].shape[0],
                  "%s: the width of the residual stream changed", name);
            free(bits[i]);
        }
        n_run++;
        pico_model_file_close(s.file);
        rig_close(&s.r);
    }
    if (n_run == 0) {
        conform_skip(c, "%s", why.message);
    }
}

/* Through the core's chain, which compares plan and result on its own, to a model that runs. */
static void results_can_be_run(conform *c) {
    stage s;
    rig r;
    pico_model *model = NULL;
    pico_session *session = NULL;
    pico_error err = {0};
    stage_open(c, &s, "llama");
    const pico_stage chain = {.number = 1, .name = c->name, .ops = s.ops, .self = s.instance.self};
    const pico_chain_callbacks callbacks = {0};
    pico_status status = pico_compress_chain(s.file, &chain, 1, &callbacks, &err);
    int calibrates = s.ops->calibrate != NULL &&
                     (s.ops->calibrates == NULL || s.ops->calibrates(s.instance.self));
    if (status == PICO_E_UNSUPPORTED || calibrates) {
        conform_skip(c, "%s", calibrates ? "it calibrates" : err.message);
    }
    CHECK(c, status == PICO_OK, "the chain: %s", err.message);
    rig_setup setup = {.n_threads = 1};
    CHECK(c, rig_open(&r, &setup, &err) == PICO_OK, "%s", err.message);
    CHECK(c, rig_model_open(&r, s.file, PICO_DTYPE_F32, &model, &err) == PICO_OK, "%s",
          err.message);
    const pico_session_params params = {.n_slots = 1, .max_rows = 8, .max_logit_rows = 8};
    CHECK_OK(c, pico_session_open(model, &params, &session, error), "a session");
    pico_row row = {.token = 3, .prev = -1, .parent = -1, .want = PICO_ROW_LOGITS};
    pico_forward_out out;
    float logits[96];
    CHECK_OK(c, pico_session_forward(session, &row, 1, &out, error), "a forward pass");
    CHECK_OK(c, rig_read(&r, &out.logits, logits, 96), "logits");
    for (uint32_t i = 0; i < 96; i++) {
        CHECK(c, logits[i] - logits[i] == 0, "logit %u is not finite", i);
    }
}

const conform_test conform_compressor[] = {{"compressor/plans_are_kept", plans_are_kept},
                                           {"compressor/results_can_be_run", results_can_be_run},
                                           {NULL, NULL}};
