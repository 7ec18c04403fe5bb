/* labels: golden */
/*
 * Training against an independent implementation: losses of distillation and the gradient of every
 * parameter, for a short batch and for one in which the windows matter; cross-entropy with ignored
 * targets; one AdamW and one Muon step; losses after two steps. Portable and best kernels, and with
 * layers computed again; the first step of train_distill. The reference's rope tables take the place of our own, as in the other
 * tests of nanochat's checkpoints.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "golden_kit.h"
#include "train_kit.h"

enum { BLOCK = 48, MAX_ROWS = 160 };

typedef struct oracle {
    json_t *root;
    int32_t *tokens, *tokens_long;
    float *grads, *grads_long, *adamw, *muon;
    double worst_loss, worst_gradient, worst_adamw, worst_muon;
    size_t n_gradient;
} oracle;

static const step_weights all_terms = {
    .kl = 0.7, .ce = 0.3, .mtp = 0.2, .draft = 0.1, .temperature = 4};

/* ---- names and files ---- */

/* nanochat's name of a parameter -> ours */
static const char *canonical(const char *name, char out[96]) {
    static const char *const parts[][2] = {
        {"attn.c_q", "attn_q"},         {"attn.c_k", "attn_k"},         {"attn.c_v", "attn_v"},
        {"attn.c_proj", "attn_output"}, {"attn.ve_gate", "value_gate"}, {"mlp.c_fc", "ffn_up"},
        {"mlp.c_proj", "ffn_down"}};
    unsigned layer = 0;
    char rest[64];
    if (sscanf(name, "transformer.h.%u.%63s", &layer, rest) == 2) {
        for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
            if (strncmp(rest, parts[i][0], strlen(parts[i][0])) == 0) {
                (void)snprintf(out, 96, "blk.%u.%s.weight", layer, parts[i][1]);
            }
        }
    } else if (sscanf(name, "value_embeds.%u.", &layer) == 1) {
        (void)snprintf(out, 96, "blk.%u.value_embd.weight", layer);
    } else if (sscanf(name, "multi_token_heads.head_%u.", &layer) == 1) {
        (void)snprintf(out, 96, "mtp.%u.weight", layer - 2);
    } else if (sscanf(name, "draft_head.fc%u.", &layer) == 1) {
        (void)snprintf(out, 96, "draft_fc%u.weight", layer);
    } else if (strcmp(name, "transformer.wte.weight") == 0) {
        (void)snprintf(out, 96, "token_embd.weight");
    } else if (strcmp(name, "lm_head.weight") == 0) {
        (void)snprintf(out, 96, "output.weight");
    } else {
        (void)snprintf(out, 96, "%s.weight", name); /* lambdas */
    }
    return out;
}

static size_t bytes_of(const json_t *tensors) {
    const json_t *last = json_array_get(tensors, json_array_size(tensors) - 1);
    return (size_t)(json_integer_value(json_object_get(last, "offset")) +
                    json_integer_value(json_object_get(last, "nbytes")));
}

static const json_t *at(const json_t *root, const char *a, const char *b) {
    const json_t *inner = json_object_get(root, a);
    return b == NULL ? inner : json_object_get(inner, b);
}

static float *file_of(const json_t *list, const char *key) {
    return golden_floats("train", json_string_value(json_object_get(list, key)),
                         bytes_of(json_object_get(list, "tensors")) / sizeof(float));
}

static double number(const json_t *root, const char *a, const char *b) {
    const json_t *value = at(root, a, b);
    assert_true(json_is_number(value));
    return json_number_value(value);
}

/* ---- models ---- */

/* The rope tables of a checkpoint in place of the state's own. */
static void set_rope(const test_run *run, pico_train *train, const char *folder) {
    const char *const names[] = {"rope_cos.bin", "rope_sin.bin"};
    pico_tensor tables[2];
    pico_train_rope(train, &tables[0], &tables[1]);
    for (int i = 0; i < 2; i++) {
        char path[4096];
        pico_map map;
        pico_error err = {0};
        const uint64_t bytes = (uint64_t)(tables[i].shape[0] * tables[i].shape[1]) * 4;
        test_check(pico_map_open(golden_path(path, folder, names[i]), &map, &err), &err);
        assert_true(map.size >= bytes);
        assert_int_equal(run->device.ops->buffer_write(run->device.self, tables[i].buffer,
                                                       tables[i].offset, map.data, bytes),
                         PICO_OK);
        pico_map_close(&map);
    }
}

static pico_model *open_model(test_run *run, const char *checkpoint) {
    char path[4096];
    pico_error err = {0};
    pico_model_file *file = NULL;
    pico_model *model = NULL;
    test_check(pico_model_file_open(golden_path(path, NULL, checkpoint), NULL, &file, &err), &err);
    pico_model_params params = {.attention = &run->attention.loaded->ops.attention,
                                .attention_self = run->attention.self,
                                .kv_dtype = PICO_DTYPE_F32};
    test_check(pico_model_open(&run->device, &params, file, &model, &err), &err);
    return model;
}

/* The teacher's logits for a batch go to the student's kit. */
static void run_teacher(test_run *run, step_kit *student, const oracle *o, const int32_t *tokens,
                        uint32_t n_seq, uint32_t length) {
    pico_model *model = open_model(run, json_string_value(at(o->root, "teacher", "checkpoint")));
    const uint32_t rows = n_seq * length, n_vocab = model->desc.n_vocab;
    step_kit kit;
    pico_error err = {0};
    step_open(&kit, model, PICO_TRAIN_FROZEN, MAX_ROWS, MAX_ROWS, BLOCK);
    set_rope(run, kit.train, "nanochat/g0");
    int32_t x[MAX_ROWS];
    float *logits = malloc((size_t)rows * n_vocab * sizeof *logits);
    for (uint32_t r = 0; r < rows; r++) {
        x[r] = tokens[r / length * (length + 1) + r % length];
    }
    test_check(pico_train_table.forward(kit.train, x, n_seq, length, &err), &err);
    for (uint32_t begin = 0; begin < rows; begin += BLOCK) {
        const uint32_t n = rows - begin < BLOCK ? rows - begin : BLOCK;
        pico_tensor block, d;
        test_check(pico_train_table.logits(kit.train, 0, begin, n, &block, &d, &err), &err);
        assert_null(d.buffer);
        golden_read(run, &block, logits + (size_t)begin * n_vocab, (size_t)n * n_vocab);
    }
    /* a frozen state has no way back */
    assert_int_equal(pico_train_table.backward_head(kit.train, &err), PICO_E_INVALID);
    assert_int_equal(pico_train_table.backward(kit.train, &err), PICO_E_INVALID);
    step_set_teacher(student, logits, rows);
    free(logits);
    step_close(&kit);
    pico_model_close(model);
}

/* ---- comparisons ---- */

static void compare_losses(oracle *o, const char *what, const step_losses *got,
                           const json_t *want) {
    const struct {
        const char *name;
        double value;
    } terms[] = {{"kl", got->kl},
                 {"ce", got->ce},
                 {"mtp", got->mtp},
                 {"draft", got->draft},
                 {"total", got->total}};
    for (size_t i = 0; i < sizeof terms / sizeof *terms; i++) {
        const double expected = json_number_value(json_object_get(want, terms[i].name));
        const double off = fabs(terms[i].value - expected);
        o->worst_loss = off > o->worst_loss ? off : o->worst_loss;
        if (!(off <= 1e-5)) {
            fail_msg("%s: %s is %.8f, expected %.8f", what, terms[i].name, terms[i].value,
                     expected);
        }
    }
}

static void compare_gradients(oracle *o, const step_kit *kit, const json_t *tensors,
                              const float *want) {
    const json_t *entry;
    size_t i;
    json_array_foreach(tensors, i, entry) {
        char name[96];
        uint32_t index;
        const char *original = json_string_value(json_object_get(entry, "name"));
        const pico_param p = step_param(kit, canonical(original, name), &index);
        const size_t n = (size_t)(p.grad.shape[0] * p.grad.shape[1]);
        const float *expected = want + json_integer_value(json_object_get(entry, "offset")) / 4;
        assert_int_equal(json_integer_value(json_object_get(entry, "nbytes")), n * 4);
        float *got = step_read(kit, &p.grad);
        double most = 0;
        for (size_t j = 0; j < n; j++) {
            most = fabs((double)expected[j]) > most ? fabs((double)expected[j]) : most;
        }
        const double off = golden_difference(got, expected, n) / most;
        o->worst_gradient = off > o->worst_gradient ? off : o->worst_gradient;
        if (!(off <= 1e-4)) {
            fail_msg("gradient of %s: off by %g of its largest, allowed is 1e-4", original, off);
        }
        free(got);
        o->n_gradient++;
    }
}

static void compare_norms(const step_kit *kit, const json_t *norms) {
    const char *original;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)norms, original, value) {
        char name[96];
        uint32_t index;
        const pico_param p = step_param(kit, canonical(original, name), &index);
        float *got = step_read(kit, &p.grad);
        double square = 0;
        for (int64_t j = 0; j < p.grad.shape[0] * p.grad.shape[1]; j++) {
            square += (double)got[j] * (double)got[j];
        }
        const double want = json_number_value(value);
        if (!(fabs(sqrt(square) - want) <= 1e-4 * want + 1e-9)) {
            fail_msg("norm of the gradient of %s is %g, expected %g", original, sqrt(square), want);
        }
        free(got);
    }
}

/* Values after one update from given gradients. share: of the elements that may be off by more than
 * tight, none by more than loose. */
static void compare_values(const step_kit *kit, const json_t *tensors, const float *want,
                           double tight, double loose, double share, double *worst) {
    const json_t *entry;
    size_t i, n_all = 0, n_off = 0;
    json_array_foreach(tensors, i, entry) {
        char name[96];
        uint32_t index;
        const pico_param p = step_param(
            kit, canonical(json_string_value(json_object_get(entry, "name")), name), &index);
        const size_t n = (size_t)(p.value.shape[0] * p.value.shape[1]);
        const float *expected = want + json_integer_value(json_object_get(entry, "offset")) / 4;
        float *got = step_read(kit, &p.value);
        for (size_t j = 0; j < n; j++) {
            const double off = fabs((double)got[j] - (double)expected[j]);
            *worst = off > *worst ? off : *worst;
            n_off += !(off <= tight);
        }
        n_all += n;
        free(got);
    }
    if (!(*worst <= loose) || (double)n_off > share * (double)n_all) {
        fail_msg("%zu of %zu values are off by more than %g, the worst by %g", n_off, n_all, tight,
                 *worst);
    }
}

static void write_gradients(const step_kit *kit, const json_t *tensors, const float *grads) {
    const json_t *entry;
    size_t i;
    json_array_foreach(tensors, i, entry) {
        char name[96];
        uint32_t index;
        const pico_param p = step_param(
            kit, canonical(json_string_value(json_object_get(entry, "name")), name), &index);
        assert_int_equal(
            kit->ops->buffer_write(kit->self, p.grad.buffer, p.grad.offset,
                                   grads + json_integer_value(json_object_get(entry, "offset")) / 4,
                                   (uint64_t)json_integer_value(json_object_get(entry, "nbytes"))),
            PICO_OK);
    }
}

/* ---- the runs ---- */

static void open_student(test_run *run, step_kit *kit, const oracle *o, const char *isa,
                         uint32_t flags, uint32_t optimizer) {
    char path[4096];
    pico_error err = {0};
    golden_open(run,
                golden_path(path, NULL, json_string_value(at(o->root, "student", "checkpoint"))),
                NULL, isa);
    step_open(kit, run->model, flags, MAX_ROWS, MAX_ROWS, BLOCK);
    set_rope(run, kit->train, "nanochat/g2_mqa");
    for (uint32_t i = 0; i < pico_train_table.n_params(kit->train); i++) {
        pico_param p;
        assert_int_equal(pico_train_table.param(kit->train, i, &p), PICO_OK);
        const int matrix = p.group == PICO_PARAM_MATRIX;
        if (optimizer == PICO_OPTIMIZER_ADAMW || (optimizer == PICO_OPTIMIZER_MUON && matrix)) {
            test_check(pico_train_table.optimizer(kit->train, i, optimizer, &err), &err);
        }
    }
}

static void update_all(const step_kit *kit, const pico_update *update) {
    for (uint32_t i = 0; i < pico_train_table.n_params(kit->train); i++) {
        pico_param p;
        assert_int_equal(pico_train_table.param(kit->train, i, &p), PICO_OK);
        if (p.optimizer != PICO_OPTIMIZER_NONE) {
            assert_int_equal(pico_train_table.update(kit->train, i, update), PICO_OK);
        }
    }
}

static void check_gradients(oracle *o, const char *isa, uint32_t flags) {
    test_run run;
    step_kit kit;
    const json_t *longer = at(o->root, "long_batch", NULL);
    open_student(&run, &kit, o, isa, flags, PICO_OPTIMIZER_NONE);
    run_teacher(&run, &kit, o, o->tokens, 2, 64);
    assert_int_equal(pico_train_table.zero_grad(kit.train), PICO_OK);
    step_losses got = step_run(&kit, o->tokens, 2, 64, 0, &all_terms, 1);
    compare_losses(o, "short batch", &got, at(o->root, "losses_float64", NULL));
    compare_gradients(o, &kit, at(o->root, "grads", "tensors"), o->grads);

    run_teacher(&run, &kit, o, o->tokens_long, 1, 140);
    assert_int_equal(pico_train_table.zero_grad(kit.train), PICO_OK);
    got = step_run(&kit, o->tokens_long, 1, 140, 0, &all_terms, 1);
    compare_losses(o, "long batch", &got, json_object_get(longer, "losses_float64"));
    compare_gradients(o, &kit, at(longer, "grads", "tensors"), o->grads_long);
    compare_norms(&kit, json_object_get(longer, "grad_l2_norm"));

    const step_weights ce = {.ce = 1, .temperature = 1};
    kit.has_teacher = 0;
    assert_int_equal(pico_train_table.zero_grad(kit.train), PICO_OK);
    got = step_run(&kit, o->tokens_long, 1, 140, 3, &ce, 1);
    assert_true(fabs(got.ce - number(longer, "masked_ce", "loss")) <= 1e-5);
    compare_norms(&kit, at(longer, "masked_ce", "grad_l2_norm"));
    step_close(&kit);
    test_run_close(&run);
}

/* AdamW from the reference's gradients; then the losses that two steps of our own arrive at. */
static void check_adamw(oracle *o, const char *isa) {
    test_run run;
    step_kit kit;
    pico_update update = {.struct_size = sizeof update,
                          .lr = 1e-3f,
                          .beta1 = 0.9f,
                          .beta2 = 0.95f,
                          .eps = 1e-8f,
                          .weight_decay = 0.1f,
                          .grad_scale = 1,
                          .step = 1};
    open_student(&run, &kit, o, isa, 0, PICO_OPTIMIZER_ADAMW);
    run_teacher(&run, &kit, o, o->tokens, 2, 64);
    assert_int_equal(pico_train_table.zero_grad(kit.train), PICO_OK);
    write_gradients(&kit, at(o->root, "grads", "tensors"), o->grads);
    update_all(&kit, &update);
    compare_values(&kit, at(o->root, "adamw", "tensors"), o->adamw, 1e-6, 2e-4, 1e-3,
                   &o->worst_adamw);
    step_losses got = step_run(&kit, o->tokens, 2, 64, 0, &all_terms, 0);
    assert_true(fabs(got.total - number(o->root, "losses_after_adamw_step1", "total")) <= 1e-4);
    assert_int_equal(pico_train_table.zero_grad(kit.train), PICO_OK);
    (void)step_run(&kit, o->tokens, 2, 64, 0, &all_terms, 1);
    update.step = 2;
    update_all(&kit, &update);
    got = step_run(&kit, o->tokens, 2, 64, 0, &all_terms, 0);
    const double want = number(o->root, "losses_after_adamw_step2_same_batch", "total");
    if (!(fabs(got.total - want) <= 1e-4)) {
        fail_msg("after two AdamW steps the loss is %.7f, expected %.7f", got.total, want);
    }
    step_close(&kit);
    test_run_close(&run);
}

static void check_muon(oracle *o, const char *isa) {
    test_run run;
    step_kit kit;
    const pico_update update = {.struct_size = sizeof update,
                                .lr = 0.02f,
                                .beta2 = 0.95f,
                                .momentum = 0.95f,
                                .grad_scale = 1,
                                .step = 1};
    open_student(&run, &kit, o, isa, 0, PICO_OPTIMIZER_MUON);
    assert_int_equal(pico_train_table.zero_grad(kit.train), PICO_OK);
    write_gradients(&kit, at(o->root, "grads", "tensors"), o->grads);
    update_all(&kit, &update);
    compare_values(&kit, at(o->root, "muon", "tensors"), o->muon, 1e-6, 1e-6, 0, &o->worst_muon);
    step_close(&kit);
    test_run_close(&run);
}

/* ---- the trainer plugin ---- */

/* What the plugin's host needs beyond a test_run; ctx of its table. */
typedef struct trainer_host {
    test_run *run;
    const oracle *o;
} trainer_host;

static pico_status open_teacher(void *ctx, const char *path, pico_model **out, pico_error *err) {
    const trainer_host *host = ctx;
    (void)path;
    (void)err;
    *out = open_model(host->run, json_string_value(at(host->o->root, "teacher", "checkpoint")));
    return PICO_OK;
}

static const pico_backend_ops *trainer_backend(void *ctx, void **self) {
    const trainer_host *host = ctx;
    *self = host->run->device.self;
    return host->run->device.ops;
}

static pico_status same_batch(void *arg, uint32_t n_seq, uint32_t length, int32_t *tokens,
                              pico_error *err) {
    (void)err;
    memcpy(tokens, arg, (size_t)n_seq * (length + 1) * sizeof *tokens);
    return PICO_OK;
}

/* train_distill's first step: its terms and their sum are the reference's, with our rope tables. */
static void check_plugin(oracle *o) {
    test_run run;
    pico_instance trainer;
    pico_error err = {0};
    char path[4096], ini[] =
                         "[trainer.distill]\ncompute = f32\nteacher = /t\nbatch = 2\nlength = 64\n"
                         "logit_rows = 48\nsteps = 2\naccumulate = 2\n";
    pico_model_file *file = NULL;
    trainer_host ctx = {.run = &run, .o = o};
    test_run_open_plugins(&run, ini);
    const char *checkpoint = json_string_value(at(o->root, "student", "checkpoint"));
    test_check(pico_model_file_open(golden_path(path, NULL, checkpoint), NULL, &file, &err), &err);
    test_run_open_model(&run, file);
    pico_host host = run.host;
    host.ctx = &ctx;
    host.model_open = open_teacher;
    host.backend = trainer_backend;
    test_check(pico_registry_create(run.registry, run.config, PICO_KIND_TRAINER, "distill",
                                    "trainer.distill", &host, &trainer, &err),
               &err);
    const pico_trainer_ops *ops = &trainer.loaded->ops.trainer;
    test_check(ops->begin(trainer.self, run.model, &err), &err);
    pico_train_set_source(pico_train_of(run.model), same_batch, o->tokens);
    set_rope(&run, pico_train_of(run.model), "nanochat/g2_mqa");
    pico_train_metrics m = {.struct_size = sizeof m};
    test_check(ops->step(trainer.self, &m, &err), &err);
    const char *const names[] = {"ce", "kl", "mtp", "draft"};
    assert_int_equal(m.n_term, 4);
    for (uint32_t i = 0; i < 4; i++) {
        assert_string_equal(m.term_name[i], names[i]);
        if (!(fabs(m.term[i] - number(o->root, "losses_float64", names[i])) <= 1e-5)) {
            fail_msg("train_distill: %s is %.8f", names[i], m.term[i]);
        }
    }
    assert_true(fabs(m.loss - number(o->root, "losses_float64", "total")) <= 1e-5);
    assert_int_equal(m.step, 1);
    assert_int_equal(m.n_tokens, 256);
    const double first = m.loss;
    m = (pico_train_metrics){.struct_size = sizeof m};
    test_check(ops->step(trainer.self, &m, &err), &err);
    assert_true(m.finished && m.loss < first);
    ops->end(trainer.self);
    test_run_close(&run);
}

static int32_t *tokens_of(const json_t *entry, size_t n) {
    float *raw = golden_floats("train", json_string_value(json_object_get(entry, "file")), n);
    int32_t *tokens = malloc(n * sizeof *tokens);
    memcpy(tokens, raw, n * sizeof *tokens);
    free(raw);
    return tokens;
}

static void training_is_reproduced(void **state) {
    (void)state;
    json_t *manifest = golden_manifest();
    const json_t *named = json_object_get(manifest, "train");
    oracle o = {0};
    if (named == NULL) {
        print_message("skipped: %s has no training data; set PICOCHAT_FIXTURES\n", golden_folder());
        json_decref(manifest);
        skip();
    }
    o.root = golden_json(NULL, json_string_value(named));
    o.tokens = tokens_of(at(o.root, "tokens", NULL), 2 * 65);
    o.tokens_long = tokens_of(at(o.root, "long_batch", "tokens"), 141);
    o.grads = file_of(at(o.root, "grads", NULL), "file");
    o.grads_long = file_of(at(o.root, "long_batch", "grads"), "file");
    o.adamw = file_of(at(o.root, "adamw", NULL), "file");
    o.muon = file_of(at(o.root, "muon", NULL), "exact_file");
    check_gradients(&o, "isa = auto", 0);
    check_gradients(&o, "isa = auto", PICO_TRAIN_RECOMPUTE);
    check_gradients(&o, "isa = portable", 0);
    check_adamw(&o, "isa = auto");
    check_adamw(&o, "isa = portable");
    if (golden_has_avx2()) {
        check_adamw(&o, "isa = avx2");
    }
    check_muon(&o, "isa = auto");
    check_muon(&o, "isa = portable");
    if (golden_has_avx2()) {
        check_muon(&o, "isa = avx2");
    }
    check_plugin(&o);
    print_message("compared %zu gradients (worst %.1e of the largest), losses (worst %.1e), AdamW "
                  "(worst %.1e), Muon (worst %.1e)\n",
                  o.n_gradient, o.worst_gradient, o.worst_loss, o.worst_adamw, o.worst_muon);
    float *const arrays[] = {o.grads, o.grads_long, o.adamw, o.muon};
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++) {
        free(arrays[i]);
    }
    free(o.tokens);
    free(o.tokens_long);
    json_decref(o.root);
    json_decref(manifest);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(training_is_reproduced)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
