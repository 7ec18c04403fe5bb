/* layers: rig train */
/*
 * The count of floating point operations of training: 6 for each parameter that multiplies and 12
 * for each head, width and visible key of attention, added up here from the tensors' names and the
 * model's description; heads where they run; what is computed again counts once; frozen states
 * count apart, and frozen trunks have no backward pass.
 */
#include "session_kit.h"

#include "train_kit.h"

enum { SEQ = 2, LENGTH = 12, ROWS = SEQ * LENGTH };

typedef struct bench {
    rig rig;
    pico_model *model;
    step_kit kit;
    int32_t token[SEQ * (LENGTH + 1)];
} bench;

static void bench_open_with(bench *b, const char *family, uint32_t draft, uint32_t flags) {
    pico_error err = {0};
    const rig_setup setup = {.search = PICO_BUILD_DIR "/plugins", .n_threads = 1};
    const tiny_model tiny = {.family = family,
                             .n_layer = 3,
                             .n_head = 4,
                             .n_kv_head = 2,
                             .head_dim = 8,
                             .n_ff = 24,
                             .n_vocab = 50,
                             .n_ctx = 32,
                             .window = {0, 5, 30},
                             .draft = draft,
                             .seed = 3};
    *b = (bench){0};
    if (rig_open(&b->rig, &setup, &err) != PICO_OK ||
        pico_device_init(&b->rig.device, &b->rig.backend.loaded->ops.backend, b->rig.backend.self,
                         &err) != PICO_OK ||
        tiny_model_open(&b->rig, &tiny, PICO_DTYPE_F32, &b->model, &err) != PICO_OK) {
        fail_msg("%s: %s", family, err.message);
    }
    step_open(&b->kit, b->model, flags, ROWS, LENGTH, 7);
    for (uint32_t i = 0; i < SEQ * (LENGTH + 1); i++) {
        b->token[i] = (int32_t)(i % tiny.n_vocab);
    }
}

static void bench_open(bench *b, const char *family, uint32_t flags) {
    bench_open_with(b, family, TINY_DRAFT_OWN, flags);
}

static void bench_close(bench *b) {
    step_close(&b->kit);
    pico_model_close(b->model);
    rig_close(&b->rig);
}

/* Parameters of the layers' matrices, and 4 x heads x head_dim x keys of a sequence of LENGTH. */
static double trunk(const bench *b, double *attention) {
    const pico_model_file *file = b->model->file;
    double sum = 0;
    *attention = 0;
    for (uint32_t i = 0; i < file->n_tensor; i++) {
        const char *name = file->tensor[i].name;
        const int norm = strstr(name, "norm") != NULL, bias = strstr(name, ".bias") != NULL;
        const int table = strstr(name, "_embd.") != NULL;
        if ((strncmp(name, "blk.", 4) == 0 && !norm && !bias && !table) ||
            strcmp(name, "smear_gate.weight") == 0) {
            sum += (double)(file->tensor[i].data.rows * file->tensor[i].data.cols);
        }
    }
    for (uint32_t i = 0; i < file->desc.n_layer; i++) {
        const pico_layer_desc *layer = &file->desc.layer[i];
        const double keys = layer->window >= 0 && layer->window < LENGTH ? layer->window : LENGTH;
        *attention += 4.0 * layer->n_head * layer->head_dim * keys;
    }
    return sum;
}

static double counted(const bench *b) {
    double frozen;
    return pico_train_operations(b->kit.train, &frozen);
}

static void same(const char *what, double got, double want) {
    if (got != want) {
        fail_msg("%s: counted %.0f operations, expected %.0f", what, got, want);
    }
}

static void a_step_is_six_for_each_parameter(void **state) {
    (void)state;
    static const char *const families[] = {"llama", "llama-biased", "gpt2", "nanochat",
                                           "nanochat-g4"};
    const step_weights w = {.ce = 1, .temperature = 1};
    for (size_t f = 0; f < sizeof families / sizeof *families; f++) {
        for (uint32_t flags = 0; flags <= PICO_TRAIN_RECOMPUTE; flags += PICO_TRAIN_RECOMPUTE) {
            bench b;
            double attention;
            bench_open(&b, families[f], flags);
            const pico_model_desc *desc = &b.model->desc;
            const double head = (double)desc->n_vocab * desc->n_embd;
            const double params = trunk(&b, &attention) + head;
            same("parameters", pico_train_multiplied(b.kit.train), params);
            (void)step_run(&b.kit, b.token, SEQ, LENGTH, 0, &w, 1);
            same(families[f], counted(&b), ROWS * (6 * params + 3 * attention));
            bench_close(&b);
        }
    }
}

static void heads_count_where_they_run(void **state) {
    (void)state;
    bench b;
    double attention, frozen;
    bench_open(&b, "nanochat-g2", 0);
    const pico_model_desc *desc = &b.model->desc;
    const double matrix = (double)desc->n_vocab * desc->n_embd;
    const double fc1 = (double)desc->draft_hidden * desc->n_embd;
    const double fc2 = (double)desc->draft_hidden * desc->n_draft * desc->n_vocab;
    const double inner = trunk(&b, &attention), mtp = desc->n_mtp_head * matrix;
    same("parameters", pico_train_multiplied(b.kit.train), inner + matrix + mtp + fc1 + fc2);
    const step_weights all = {.ce = 1, .mtp = 1, .draft = 1, .temperature = 1};
    (void)step_run(&b.kit, b.token, SEQ, LENGTH, 0, &all, 1);
    double want = ROWS * (6 * (inner + matrix + mtp + fc1 + fc2) + 3 * attention);
    same("all heads", counted(&b), want);
    const step_weights few = {.mtp = 1, .temperature = 1};
    (void)step_run(&b.kit, b.token, SEQ, LENGTH, 0, &few, 1);
    want += ROWS * (6 * (inner + mtp) + 3 * attention);
    same("multi-token heads", counted(&b), want);
    (void)step_run(&b.kit, b.token, SEQ, LENGTH, 0, &few, 0);
    want += ROWS * (2 * (inner + mtp) + attention);
    same("forward alone", counted(&b), want);
    (void)pico_train_operations(b.kit.train, &frozen);
    same("no teacher", frozen, 0);
    bench_close(&b);

    /* a frozen trunk: no gradient of its rows, but that of what lies inside the draft head */
    bench_open(&b, "nanochat-g2", PICO_TRAIN_HEADS);
    const step_weights heads = {.mtp = 1, .draft = 1, .temperature = 1};
    (void)step_run(&b.kit, b.token, SEQ, LENGTH, 0, &heads, 1);
    same("heads alone", counted(&b), ROWS * (2 * inner + attention + 4 * (mtp + fc1) + 6 * fc2));
    bench_close(&b);
}

/* An output matrix that is shared multiplies once for each slot; where it is frozen it has no gradient
 * of its own. */
static void shared_outputs_count_for_each_slot(void **state) {
    (void)state;
    for (uint32_t draft = TINY_DRAFT_SHARED; draft <= TINY_DRAFT_REDUCED; draft++) {
        bench b;
        double attention;
        const step_weights w = {.draft = 1, .temperature = 1};
        bench_open_with(&b, "llama", draft, 0);
        const pico_model_desc *desc = &b.model->desc;
        const double matrix = (double)desc->n_vocab * desc->n_embd;
        const double fc1 = (double)desc->draft_hidden * desc->n_embd, fc2 = fc1 * desc->n_draft;
        const double out = (double)desc->n_draft * desc->n_embd *
                           (draft == TINY_DRAFT_SHARED ? 50 : 33); /* tokens */
        const double inner = trunk(&b, &attention);
        same("parameters", pico_train_multiplied(b.kit.train), inner + matrix + fc1 + fc2 + out);
        (void)step_run(&b.kit, b.token, SEQ, LENGTH, 0, &w, 1);
        same("all", counted(&b), ROWS * (6 * (inner + fc1 + fc2 + out) + 3 * attention));
        bench_close(&b);
        bench_open_with(&b, "llama", draft, PICO_TRAIN_HEADS);
        (void)step_run(&b.kit, b.token, SEQ, LENGTH, 0, &w, 1);
        same("heads", counted(&b), ROWS * (2 * inner + attention + 4 * (fc1 + out) + 6 * fc2));
        bench_close(&b);
    }
}

static void a_token_that_is_read_counts(void **state) {
    (void)state;
    bench b;
    double attention;
    const step_weights w = {.draft = 1, .temperature = 1};
    bench_open_with(&b, "nanochat-g2", TINY_DRAFT_OWN | TINY_DRAFT_READS, 0);
    const pico_model_desc *desc = &b.model->desc;
    const double fc1 = (double)desc->draft_hidden * desc->n_embd;
    const double fc2 = (double)desc->draft_hidden * desc->n_draft * desc->n_vocab;
    const double inner = trunk(&b, &attention);
    (void)step_run(&b.kit, b.token, SEQ, LENGTH, 0, &w, 1);
    same("all", counted(&b), ROWS * (6 * (inner + 2 * fc1 + fc2) + 3 * attention));
    bench_close(&b);
}

static void teachers_count_apart(void **state) {
    (void)state;
    bench b;
    step_kit teacher;
    double attention, frozen;
    const step_weights w = {.ce = 1, .temperature = 1};
    bench_open(&b, "llama", 0);
    const double head = (double)b.model->desc.n_vocab * b.model->desc.n_embd;
    const double params = trunk(&b, &attention) + head;
    step_open(&teacher, b.model, PICO_TRAIN_FROZEN, ROWS, LENGTH, ROWS);
    (void)step_run(&teacher, b.token, SEQ, LENGTH, 0, &w, 0);
    same("the student", pico_train_operations(b.kit.train, &frozen), 0);
    same("the teacher", frozen, ROWS * (2 * params + attention));
    step_close(&teacher);
    bench_close(&b);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_step_is_six_for_each_parameter),
        cmocka_unit_test(heads_count_where_they_run),
        cmocka_unit_test(shared_outputs_count_for_each_slot),
        cmocka_unit_test(a_token_that_is_read_counts),
        cmocka_unit_test(teachers_count_apart),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
