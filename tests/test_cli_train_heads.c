/* layers: cli */
/*
 * train with heads that [shape] adds to a model that is opened: on a frozen trunk the text of the
 * model stays what it was and its tensors the bytes that they were, also when they are codes; a run in
 * pieces ends with the same bits; what is refused.
 */
#include "train_cli_kit.h"

#define HEADS                                                                                      \
    "--data", c->text, "-t", "2", "--set", "trainer.distill.length=24", "--set",                   \
        "trainer.distill.batch=4", "--set", "trainer.eval_rows=8", "--set",                        \
        "trainer.distill.train=heads", "--set", "trainer.distill.steps=6", "--set",                \
        "trainer.distill.draft=1", "--set", "shape.draft_slots=3", "-q"
#define SAY(MODEL) "-m", MODEL, "-p", "a is 0", "-n", "16", "--temp", "0", "-q"

/* The line of a tensor in the list of `inspect`. */
static void tensor_line(context *c, const char *model, const char *name, char *out, size_t size) {
    cli_expect(RUN, 0, "inspect", model);
    const char *line = strstr(c->run.out, name);
    assert_non_null(line);
    (void)snprintf(out, size, "%.*s", (int)strcspn(line, "\n"), line);
}

static void the_trunk_stays_as_it_is(void **state) {
    context *c = *state;
    char model[80], small[80], plain[256], before[256], after[256];
    (void)snprintf(small, sizeof small, "%s/small.gguf", c->folder);
    cli_expect(RUN, 0, "compress", "-m", c->model, "--plugin", "int8", "-o", small, "-q");
    cli_expect(RUN, 0, SAY(small));
    (void)snprintf(plain, sizeof plain, "%s", c->run.out);
    cli_expect(RUN, 0, "train", "-m", small, HEADS, "--out", c->out[0]);
    (void)snprintf(model, sizeof model, "%s/last.gguf", c->out[0]);
    cli_expect(RUN, 0, "inspect", model);
    assert_contains(c->run.out, "slots 3");
    tensor_line(c, small, "blk.1.ffn_down.weight", before, sizeof before);
    tensor_line(c, model, "blk.1.ffn_down.weight", after, sizeof after);
    assert_string_equal(after, before);
    cli_expect(RUN, 0, SAY(model), "--decoder", "greedy");
    assert_string_equal(c->run.out, plain);
    cli_expect(RUN, 0, SAY(model), "--decoder", "spec_draft", "--draft-n", "2");
    assert_string_equal(c->run.out, plain);
    assert_true(logged(c->out[0], 6, "draft") < logged(c->out[0], 1, "draft"));
}

static void pieces_make_the_whole(void **state) {
    context *c = *state;
    char model[80];
    const char *const forms[] = {"shape.draft_head=full", "shape.draft_head=shared"};
    for (size_t i = 0; i < 2; i++) {
        cli_expect(RUN, 0, "train", "-m", c->model, HEADS, "--out", c->out[0], "--set", forms[i],
                   "--set", "shape.mtp_heads=1");
        cli_expect(RUN, 0, "train", "-m", c->model, HEADS, "--out", c->out[1], "--set", forms[i],
                   "--set", "shape.mtp_heads=1", "--set", "trainer.stop_at=2");
        cli_expect(RUN, 0, "train", "-m", c->model, HEADS, "--out", c->out[1], "--set", forms[i],
                   "--set", "shape.mtp_heads=1", "--resume", "-t", "1");
        same_files(c->out[0], c->out[1], "last.gguf");
        same_files(c->out[0], c->out[1], "last.state");
        cli_remove(c->out[0]);
        cli_remove(c->out[1]);
    }
    /* a frozen trunk of fresh values is drawn again when the run goes on */
    cli_expect(RUN, 0, "train", "-m", c->model, HEADS, "--init", "random", "--out", c->out[0]);
    cli_expect(RUN, 0, "train", "-m", c->model, HEADS, "--init", "random", "--out", c->out[1],
               "--set", "trainer.stop_at=2");
    cli_expect(RUN, 0, "train", "-m", c->model, HEADS, "--init", "random", "--out", c->out[1],
               "--resume");
    same_files(c->out[0], c->out[1], "last.gguf");
    /* and the head that was made can be trained on, without asking for one */
    (void)snprintf(model, sizeof model, "%s/last.gguf", c->out[0]);
    cli_expect(RUN, 0, "train", "-m", model, "--data", c->text, "--out", c->out[2], "--set",
               "trainer.distill.length=24", "--set", "trainer.distill.batch=4", "--set",
               "trainer.distill.steps=2", "-q");
}

static void what_is_refused(void **state) {
    context *c = *state;
    cli_expect(RUN, 2, "train", "-m", c->heads, HEADS, "--out", c->out[0]);
    assert_contains(c->run.err, "has a draft head already, of 2 slots");
    cli_expect(RUN, 2, "train", "-m", c->model, HEADS, "--out", c->out[0], "--set",
               "shape.n_embd=32");
    assert_contains(c->run.err, "says what a fresh model is like");
    cli_expect(RUN, 2, "train", "-m", c->model, HEADS, "--out", c->out[0], "--set",
               "shape.draft_slots=0", "--set", "shape.draft_hidden=8");
    assert_contains(c->run.err, "draft_slots says how many");
    cli_expect(RUN, 2, "train", "-m", c->model, HEADS, "--out", c->out[0], "--set",
               "shape.draft_vocab=4");
    assert_contains(c->run.err, "draft_head = shared");
    cli_expect(RUN, 3, "train", "-m", c->text, HEADS, "--out", c->out[0]);
    assert_one_message(RUN);
    assert_false(pico_is_folder(c->out[0]));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(the_trunk_stays_as_it_is, setup, teardown),
        cmocka_unit_test_setup_teardown(pieces_make_the_whole, setup, teardown),
        cmocka_unit_test_setup_teardown(what_is_refused, setup, teardown),
    };
    return cmocka_run_group_tests_name("cli_train_heads", tests, NULL, NULL);
}
