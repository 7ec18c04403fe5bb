/*
 * Pruning as users meet it: one plan, with shapes; the same text and the same perplexity from a file
 * and from a stage at load; then int8, a draft model, the model's own heads, and training that goes
 * on from the file; what is refused, with its exit code.
 */
#include "cli_support.h"

typedef struct context {
    char *folder;
    char model[64], heads[64], out[64], other[64], text[64], trained[64];
    cli_run run, plain;
} context;

#define RUN (&c->run)
#define PRUNE(key) "--set", "compress.1.prune." key
#define HALF PRUNE("heads=0.5"), PRUNE("neurons=0.25")
#define STAGE "--set", "compress.1.plugin=prune"

static int setup(void **state) {
    context *c = calloc(1, sizeof *c);
    pico_layer_desc layer[3];
    char text[6000];
    size_t n = 0;
    assert_non_null(c);
    c->folder = cli_folder();
    (void)snprintf(c->model, sizeof c->model, "%s/model.gguf", c->folder);
    (void)snprintf(c->heads, sizeof c->heads, "%s/heads.gguf", c->folder);
    (void)snprintf(c->out, sizeof c->out, "%s/out.gguf", c->folder);
    (void)snprintf(c->other, sizeof c->other, "%s/other.gguf", c->folder);
    (void)snprintf(c->text, sizeof c->text, "%s/text.txt", c->folder);
    (void)snprintf(c->trained, sizeof c->trained, "%s/trained", c->folder);
    pico_model_desc desc = cli_tiny_desc(layer, 3);
    cli_make_model(c->model, &desc, NULL);
    desc.n_mtp_head = 2;
    desc.n_draft = 2;
    desc.draft_hidden = 16;
    cli_make_model(c->heads, &desc, NULL);
    for (int i = 0; n + 40 < sizeof text; i++) {
        n += (size_t)snprintf(text + n, sizeof text - n, "%c is %d, ", 'a' + i % 6, i % 6);
    }
    cli_write(c->text, text, n);
    (void)setenv("NO_COLOR", "1", 1);
    *state = c;
    return 0;
}

static int teardown(void **state) {
    context *c = *state;
    cli_remove(c->folder);
    free(c->folder);
    free(c);
    return 0;
}

static void assert_same_text(const context *c) {
    assert_int_equal(c->plain.n_out, c->run.n_out);
    assert_memory_equal(c->plain.out, c->run.out, c->run.n_out);
}

static void writes_a_smaller_model(void **state) {
    context *c = *state;
    cli_expect(RUN, 0, "compress", "-m", c->model, "--plugin", "prune", HALF, PRUNE("layers=0.3"),
               "--dry-run");
    assert_contains(c->run.out, "blk.0.attn_q.weight              F32   F32             4096");
    assert_contains(c->run.out, "  (32, 32) -> (16, 32)\n");
    assert_contains(c->run.out, "  (32, 64) -> (32, 48)\n");
    assert_contains(c->run.out, "F32   none"); /* a layer that goes */
    assert_int_equal(access(c->out, F_OK), -1);
    cli_expect(RUN, 0, "compress", "-m", c->model, "--plugin", "prune", HALF, PRUNE("layers=0.3"),
               "-o", c->out);
    assert_contains(c->run.err, "prune: these layers go, with their scores: ");
    assert_contains(c->run.err, "heads 8 -> 4, KV heads 4 -> 4, neurons 128 -> 96");
    cli_expect(RUN, 0, "inspect", c->out);
    assert_contains(c->run.out, "n_layer          2\n");
    assert_contains(c->run.out, "n_head 2, n_kv_head 2, head_dim 8, n_ff 48");
    /* The same stage at load gives the same text and the same likelihood. */
    cli_expect(&c->plain, 0, "run", "-m", c->out, "-p", "abc", "-n", "20", "--temp", "0.8");
    cli_expect(RUN, 0, "run", "-m", c->model, STAGE, HALF, PRUNE("layers=0.3"), "-p", "abc", "-n",
               "20", "--temp", "0.8");
    assert_same_text(c);
    cli_expect(&c->plain, 0, "eval", "-m", c->out, "-f", c->text, "-o", "json");
    cli_expect(RUN, 0, "eval", "-m", c->model, STAGE, HALF, PRUNE("layers=0.3"), "-f", c->text,
               "-o", "json");
    const char *a = strstr(c->plain.out, "\"ppl\""), *b = strstr(c->run.out, "\"ppl\"");
    assert_true(a != NULL && b != NULL && strncmp(a, b, 24) == 0);
}

static void a_text_scores(void **state) {
    context *c = *state;
    char calibration[128];
    (void)snprintf(calibration, sizeof calibration, "compress.1.prune.calibration=%s", c->text);
    cli_expect(RUN, 0, "compress", "-m", c->model, "--plugin", "prune", HALF, PRUNE("layers=0.3"),
               PRUNE("score=activation"), "--set", calibration, "-o", c->out);
    cli_expect(RUN, 0, "compress", "-m", c->model, "--plugin", "prune", HALF, PRUNE("layers=0.3"),
               PRUNE("score=activation"), "--set", calibration, "-o", c->other);
    char command[160];
    (void)snprintf(command, sizeof command, "cmp -s '%s' '%s'", c->out, c->other);
    assert_int_equal(system(command), 0);
    cli_expect(RUN, 0, "run", "-m", c->out, "-p", "abc", "-n", "8");
}

/* Pruned, pooled, then int8, in one go and in two. */
static void chains_with_int8(void **state) {
    context *c = *state;
    cli_expect(RUN, 0, "compress", "-m", c->model, STAGE, HALF, PRUNE("convert=mean"), "--set",
               "compress.2.plugin=int8", "-o", c->out);
    assert_contains(c->run.out, "2 int8     blk.0.attn_k.weight              F32   Q8_0 ");
    cli_expect(RUN, 0, "compress", "-m", c->model, STAGE, HALF, PRUNE("convert=mean"), "-o",
               c->other);
    cli_expect(&c->plain, 0, "run", "-m", c->other, "--set", "compress.1.plugin=int8", "-p", "abc",
               "-n", "20", "--temp", "0", "--attention", "mqa");
    cli_expect(RUN, 0, "run", "-m", c->out, "-p", "abc", "-n", "20", "--temp", "0", "--attention",
               "mqa");
    assert_same_text(c);
}

/* A draft model that is pruned at load or in a file, and a pruned target with heads of its own. */
static void drafts_leave_the_text_alone(void **state) {
    context *c = *state;
    char draft[128];
    const char *const temperatures[] = {"0", "0.9"};
    for (int i = 0; i < 2; i++) {
        const char *temperature = temperatures[i];
        cli_expect(&c->plain, 0, "-m", c->model, "-p", "abcabc", "-n", "40", "--temp", temperature);
        (void)snprintf(draft, sizeof draft, "decoder.spec_model.draft_model=%s", c->model);
        cli_expect(RUN, 0, "-m", c->model, "-p", "abcabc", "-n", "40", "--temp", temperature,
                   "--draft-n", "4", "--decoder", "spec_model", "--set", draft, STAGE, "--set",
                   "compress.1.apply_to=draft", PRUNE("neurons=0.25"));
        assert_same_text(c);
        assert_contains(c->run.err, "drafts accepted");
        cli_expect(RUN, 0, "compress", "-m", c->model, "--plugin", "prune", HALF,
                   PRUNE("layers=0.3"), "-o", c->out);
        (void)snprintf(draft, sizeof draft, "decoder.spec_model.draft_model=%s", c->out);
        cli_expect(RUN, 0, "-m", c->model, "-p", "abcabc", "-n", "40", "--temp", temperature,
                   "--draft-n", "4", "--decoder", "spec_model", "--set", draft);
        assert_same_text(c);
        cli_expect(&c->plain, 0, "-m", c->heads, STAGE, HALF, PRUNE("layers=0.3"), "-p", "abcabc",
                   "-n", "40", "--temp", temperature);
        for (int k = 0; k < 2; k++) {
            cli_expect(RUN, 0, "-m", c->heads, STAGE, HALF, PRUNE("layers=0.3"), "-p", "abcabc",
                       "-n", "40", "--temp", temperature, "--draft-n", "2", "--decoder",
                       "spec_draft", "--set",
                       k == 0 ? "decoder.spec_draft.heads=mtp" : "decoder.spec_draft.heads=draft");
            assert_same_text(c);
            assert_contains(c->run.err, "drafts accepted");
        }
    }
}

/* A few steps lower the loss, and the model that is written has the widths of the pruned one. */
static void training_goes_on_from_it(void **state) {
    context *c = *state;
    char last[96];
    double before = 0, after = 0;
    cli_expect(RUN, 0, "compress", "-m", c->heads, "--plugin", "prune", HALF, PRUNE("layers=0.3"),
               "-o", c->out);
    cli_expect(RUN, 0, "eval", "-m", c->out, "-f", c->text, "-o", "json");
    const char *found = strstr(c->run.out, "\"ppl\": ");
    assert_true(found != NULL && sscanf(found, "\"ppl\": %lf", &before) == 1);
    cli_expect(RUN, 0, "train", "-m", c->out, "--data", c->text, "--out", c->trained, "-t", "2",
               "--set", "trainer.distill.length=24", "--set", "trainer.distill.batch=4", "--set",
               "trainer.distill.steps=10", "--set", "trainer.eval_rows=8");
    (void)snprintf(last, sizeof last, "%s/last.gguf", c->trained);
    cli_expect(RUN, 0, "inspect", last);
    assert_contains(c->run.out, "n_layer          2\n");
    assert_contains(c->run.out, "n_head 2, n_kv_head 2, head_dim 8, n_ff 48");
    cli_expect(RUN, 0, "eval", "-m", last, "-f", c->text, "-o", "json");
    found = strstr(c->run.out, "\"ppl\": ");
    assert_true(found != NULL && sscanf(found, "\"ppl\": %lf", &after) == 1);
    if (!(after < 0.9 * before)) {
        fail_msg("perplexity %g before training, %g after", before, after);
    }
}

static void refuses_with_advice(void **state) {
    context *c = *state;
    cli_expect(RUN, 2, "compress", "-m", c->model, "--plugin", "prune", PRUNE("heads=0.2"), "-o",
               c->out);
    assert_contains(c->run.err, "[compress.1] prune: layer 0: heads = 0.2 of 2 query heads");
    assert_contains(c->run.err, "groups = whole");
    assert_one_message(RUN);
    cli_expect(RUN, 2, "compress", "-m", c->model, "--plugin", "prune", PRUNE("heads=1"), "-o",
               c->out);
    cli_expect(RUN, 2, "compress", "-m", c->model, "--plugin", "prune", HALF,
               PRUNE("score=activation"), "-o", c->out);
    assert_contains(c->run.err, "set calibration = FILE");
    cli_expect(RUN, 2, "compress", "-m", c->model, "--plugin", "prune", HALF,
               PRUNE("score=activation"), PRUNE("calibration=/nowhere.txt"), "-o", c->out);
    assert_contains(c->run.err, "/nowhere.txt");
    cli_expect(RUN, 0, "compress", "-m", c->model, "--plugin", "int8", "-o", c->other);
    cli_expect(RUN, 2, "compress", "-m", c->other, "--plugin", "prune", HALF, "-o", c->out);
    assert_contains(c->run.err, "set dequantise = f16");
    (void)unlink(c->out);
    cli_expect(RUN, 0, "compress", "-m", c->other, "--plugin", "prune", HALF,
               PRUNE("dequantise=f16"), "-o", c->out);
    /* Nothing asked for: a copy, and a warning. */
    cli_expect(RUN, 0, "compress", "-m", c->model, "--plugin", "prune", "-o", c->out);
    assert_contains(c->run.err, "there is nothing to do");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(writes_a_smaller_model),   cmocka_unit_test(a_text_scores),
        cmocka_unit_test(chains_with_int8),         cmocka_unit_test(drafts_leave_the_text_alone),
        cmocka_unit_test(training_goes_on_from_it), cmocka_unit_test(refuses_with_advice),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
