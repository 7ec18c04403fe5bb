/* layers: cli */
/*
 * The train command: a loss that falls, a model that can be used, a run in pieces that ends with the
 * same bits as one in one piece (after stop_at and after Ctrl-C), logs that go on, samples, a teacher,
 * heads on a frozen trunk, and what is refused, with its exit code.
 */
#include "train_cli_kit.h"

#include <jansson.h>
#include <math.h>

static void a_run_in_pieces_ends_with_the_same_bits(void **state) {
    context *c = *state;
    cli_expect(RUN, 0, "train", "-m", c->model, COMMON, "--out", c->out[0], "--set",
               "trainer.distill.steps=12");
    assert_contains(c->run.err, "bits per byte");
    assert_true(logged(c->out[0], 12, "loss") < logged(c->out[0], 1, "loss"));
    assert_true(logged(c->out[0], 12, "validation_bpb") > 0); /* validated at the end */
    cli_expect(RUN, 0, "train", "-m", c->model, COMMON, "--out", c->out[1], "--set",
               "trainer.distill.steps=12", "--set", "trainer.stop_at=5", "-q");
    /* a folder with a run in it is not written over */
    cli_expect(RUN, 2, "train", "-m", c->model, COMMON, "--out", c->out[1], "-q");
    assert_contains(c->run.err, "--resume");
    /* with other threads, and from a model that holds other values */
    cli_expect(RUN, 0, "train", "-m", c->model, COMMON, "--out", c->out[1], "--resume", "--set",
               "trainer.distill.steps=12", "-t", "1", "--set", "trainer.distill.recompute=on");
    same_files(c->out[0], c->out[1], "last.state");
    same_files(c->out[0], c->out[1], "last.gguf");
    same_files(c->out[0], c->out[1], "best.gguf");
    char last[96];
    (void)snprintf(last, sizeof last, "%s/last.gguf", c->out[0]);
    cli_expect(RUN, 0, "-m", last, "-p", "a is", "-n", "8", "--temp", "0");
    assert_true(c->run.n_out > 0);
    /* the seed is part of a run */
    cli_expect(RUN, 2, "train", "-m", c->model, COMMON, "--out", c->out[1], "--resume", "--set",
               "trainer.seed=1");
    assert_contains(c->run.err, "seed");
}

/* Lines that begin with `begin` and go on with the numbers 1 to n, once each and in order. */
static void logs_each_step_once(const char *folder, const char *name, const char *begin, int n,
                                int n_before) {
    uint64_t size;
    char *log = slurp(folder, name, &size), want[64];
    const char *at = log;
    for (int i = 0; i < n_before; i++) {
        at = strchr(at, '\n') + 1;
    }
    for (int step = 1; step <= n; step++) {
        const int length = snprintf(want, sizeof want, "%s%d,", begin, step);
        if (strncmp(at, want, (size_t)length) != 0) {
            fail_msg("%s: expected %s, there is %.40s", name, want, at);
        }
        at = strchr(at, '\n') + 1;
    }
    assert_true(*at == '\0');
    free(log);
}

/* The log of a run that was killed behind a checkpoint goes on as if it had not been. */
static void logs_go_on_from_the_checkpoint(void **state) {
    context *c = *state;
    for (int i = 0; i < 2; i++) {
        const char *format = i == 0 ? "trainer.log=csv" : "trainer.log=json";
        cli_expect(RUN, 0, "train", "-m", c->model, COMMON, "--out", c->out[i], "-q", "--set",
                   "trainer.distill.steps=9", "--set", "trainer.stop_at=5", "--set", format);
    }
    append(c->out[0], "log.csv", "6,5.0,0.1,576,9.5,1.0,1.0,5.0,,\n7,5.0,0.1,672,9.");
    append(c->out[1], "log.jsonl", "{\"step\":6,\"seconds\":9.5}\n{\"step\":7,\"sec");
    for (int i = 0; i < 2; i++) {
        const char *format = i == 0 ? "trainer.log=csv" : "trainer.log=json";
        cli_expect(RUN, 0, "train", "-m", c->model, COMMON, "--out", c->out[i], "--set",
                   "trainer.distill.steps=9", "--resume", "--set", format);
        assert_contains(c->run.err, "tokens/s in steps");
        assert_contains(c->run.err, "GFLOP/s with");
        assert_contains(c->run.err, "2 threads multiply in F32");
    }
    logs_each_step_once(c->out[0], "log.csv", "", 9, 1);
    logs_each_step_once(c->out[1], "log.jsonl", "{\"step\":", 9, 0);
    for (int step = 2; step <= 9; step++) { /* seconds go on, and nothing else is in them */
        const double before = logged(c->out[0], step - 1, "seconds"),
                     after = logged(c->out[0], step, "seconds"),
                     took = 24 * 4 / logged(c->out[0], step, "tokens_per_s");
        if (!(fabs(after - before - took) < 0.00012 + 0.00001 * took)) {
            fail_msg("step %d: %.3f s, then %.3f s, for %.4f s", step, before, after, took);
        }
    }
    uint64_t n;
    char *log = slurp(c->out[1], "log.jsonl", &n), *line = log;
    for (int step = 1; step <= 9; step++, line = strchr(line, '\n') + 1) {
        json_t *object = json_loads(line, JSON_DISABLE_EOF_CHECK, NULL);
        assert_non_null(object);
        assert_int_equal(json_integer_value(json_object_get(object, "tokens")), step * 96);
        assert_true(json_real_value(json_object_get(object, "ce")) > 0);
        assert_true(json_real_value(json_object_get(object, "gflops")) > 0);
        const int validated = step == 4 || step == 8 || step == 9;
        assert_true((json_object_get(object, "validation_bpb") != NULL) == validated);
        json_decref(object);
    }
    free(log);
    /* other columns are not mixed in */
    log = slurp(c->out[0], "log.csv", &n);
    memcpy(log, "pets", 4);
    char path[128];
    (void)snprintf(path, sizeof path, "%s/log.csv", c->out[0]);
    cli_write(path, log, n);
    free(log);
    cli_expect(RUN, 1, "train", "-m", c->model, COMMON, "--out", c->out[0], "--set",
               "trainer.distill.steps=12", "--resume");
    assert_contains(c->run.err, "has the columns pets,loss");
}

/* What the model says after the last validation is what the written model says, and saying it changes
 * no bit of the run. */
static void samples_are_the_models_own_words(void **state) {
    context *c = *state;
    char last[96], want[256];
#define STEPS "--set", "trainer.distill.steps=60", "--set", "trainer.distill.compute=f32"
    cli_expect(RUN, 0, "train", "-m", c->model, COMMON, "--out", c->out[0], "-q", STEPS);
    cli_expect(RUN, 0, "train", "-m", c->model, COMMON, "--out", c->out[1], STEPS, "--set",
               "trainer.sample=a is\nb\\nc is", "--set", "trainer.sample_tokens=9");
    same_files(c->out[0], c->out[1], "last.state");
    const char *at = c->run.err;
    int n_sample = 0;
    for (; (at = strstr(at, "\nsample: ")) != NULL; at++) {
        n_sample++;
    }
    assert_int_equal(n_sample, 2 * 60 / 4);
    assert_contains(c->run.err, "\nsample: b\\nc is");
    char *said = strdup(c->run.err);
    const char *text = said;
    for (const char *next = said; (next = strstr(next, "\nsample: a is")) != NULL; next++) {
        text = next + strlen("\nsample: a is");
    }
    (void)snprintf(last, sizeof last, "%s/last.gguf", c->out[1]);
    cli_expect(RUN, 0, "-m", last, "-p", "a is", "-n", "9", "--temp", "0", "-q");
    (void)snprintf(want, sizeof want, "%.*s", (int)strcspn(c->run.out, "\n"), c->run.out);
    assert_int_equal(strlen(want), 9);
    assert_memory_equal(text, want, 9);
    assert_int_equal(text[9], '\n');
    free(said);
    /* a prompt as long as a sequence */
    cli_expect(RUN, 2, "train", "-m", c->model, COMMON, "--out", c->out[2], "--set",
               "trainer.sample=it is far too long, this one");
    assert_one_message(RUN);
    assert_contains(c->run.err, "far too long");
#undef STEPS
}

/* A run that makes the file of tokens, one that takes it and one without it end with the same bits; a
 * damaged file, or one of other texts, is made again. */
static void kept_tokens_change_no_bit(void **state) {
    context *c = *state;
    char cache[64], path[64];
    uint64_t n, n_again;
#define CACHED "--set", "trainer.distill.steps=3", "--set", cache
    (void)snprintf(cache, sizeof cache, "trainer.cache=%s/tokens", c->folder);
    (void)snprintf(path, sizeof path, "%s/tokens", c->folder);
    cli_expect(RUN, 0, "train", "-m", c->model, COMMON, "--out", c->out[0], "--set",
               "trainer.distill.steps=3");
    cli_expect(RUN, 0, "train", "-m", c->model, COMMON, "--out", c->out[1], CACHED);
    same_files(c->out[0], c->out[1], "last.state");
    same_files(c->out[0], c->out[1], "best.gguf");
    char *made = slurp(c->folder, "tokens", &n);
    for (int i = 0; i < 3; i++) {
        cli_remove(c->out[1]);
        if (i == 1) {
            cli_write(path, made, n / 2);
        }
        cli_expect(RUN, 0, "train", "-m", c->model, COMMON, "--out", c->out[1], CACHED);
        assert_contains(c->run.err,
                        i == 1 ? "it is made again" : "holds the tokens of these texts");
        same_files(c->out[0], c->out[1], "last.state");
        same_files(c->out[0], c->out[1], "best.gguf");
        char *now = slurp(c->folder, "tokens", &n_again);
        assert_true(n_again == n);
        assert_memory_equal(now, made, n);
        free(now);
    }
    append(c->folder, "text.txt", "some more of it");
    cli_remove(c->out[1]);
    cli_expect(RUN, 0, "train", "-m", c->model, COMMON, "--out", c->out[1], CACHED);
    assert_contains(c->run.err, "other texts; it is made again");
    free(made);
    /* where it cannot be written, nothing begins */
    cli_expect(RUN, 2, "train", "-m", c->model, COMMON, "--out", c->out[2], "--set",
               "trainer.cache=/proc/nothing");
    assert_contains(c->run.err, "/proc/nothing");
#undef CACHED
}

/* Starts the program, waits until the log has some steps, and interrupts it. */
static int interrupted(const char *const *words, const char *log) {
    const char *argv[MAX_WORDS] = {"picochat"};
    struct stat info;
    int status = 0;
    for (int i = 0; words[i] != NULL; i++) {
        argv[i + 1] = words[i];
    }
    const pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        (void)signal(SIGINT, SIG_DFL);
        (void)execv(PROGRAM, (char *const *)(uintptr_t)argv);
        _exit(127);
    }
    for (int i = 0; i < 2000 && (stat(log, &info) != 0 || info.st_size < 300); i++) {
        const struct timespec wait = {.tv_nsec = 5000000};
        (void)nanosleep(&wait, NULL);
    }
    (void)kill(child, SIGINT);
    assert_true(waitpid(child, &status, 0) == child);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 256;
}

static void an_interrupted_run_goes_on(void **state) {
    context *c = *state;
    char log[96];
    (void)snprintf(log, sizeof log, "%s/log.csv", c->out[1]);
    const int code =
        interrupted(CLI_WORDS("train", "-m", c->model, COMMON, "--out", c->out[1], "-q", "--set",
                              "trainer.distill.steps=300", "--set", "trainer.eval_every=0"),
                    log);
    assert_int_equal(code, 130);
    cli_expect(RUN, 0, "train", "-m", c->model, COMMON, "--out", c->out[1], "--resume", "-q",
               "--set", "trainer.distill.steps=300", "--set", "trainer.eval_every=0");
    cli_expect(RUN, 0, "train", "-m", c->model, COMMON, "--out", c->out[0], "-q", "--set",
               "trainer.distill.steps=300", "--set", "trainer.eval_every=0");
    same_files(c->out[0], c->out[1], "last.state");
}

static void a_student_learns_from_a_teacher(void **state) {
    context *c = *state;
    char teacher[128];
    cli_expect(RUN, 0, "train", "-m", c->model, COMMON, "--out", c->out[0], "-q", "--set",
               "trainer.distill.steps=20");
    (void)snprintf(teacher, sizeof teacher, "trainer.distill.teacher=%s/last.gguf", c->out[0]);
    cli_expect(RUN, 0, "train", "-m", c->heads, COMMON, "--out", c->out[1], "-q", "--set",
               "trainer.distill.steps=20", "--set", teacher, "--set",
               "trainer.distill.optimizer=adamw", "--set", "trainer.distill.accumulate=2");
    uint64_t n;
    char *log = slurp(c->out[1], "log.csv", &n);
    assert_contains(log,
                    "step,loss,learning_rate,tokens,seconds,tokens_per_s,gflops,ce,kl,mtp,draft,"
                    "validation");
    free(log);
    static const char *const terms[] = {"ce", "kl", "mtp", "draft"};
    for (int i = 0; i < 4; i++) {
        assert_true(logged(c->out[1], 20, terms[i]) < logged(c->out[1], 1, terms[i]));
    }
    /* heads alone: the trunk keeps its values, the heads' losses fall */
    char last[96];
    (void)snprintf(last, sizeof last, "%s/last.gguf", c->out[1]);
    cli_expect(RUN, 0, "train", "-m", last, COMMON, "--init", "model", "--out", c->out[2], "-q",
               "--set", "trainer.distill.steps=10", "--set", teacher, "--set",
               "trainer.distill.train=heads", "--set", "trainer.distill.head_lr=0.05");
    assert_true(logged(c->out[2], 10, "mtp") < logged(c->out[2], 1, "mtp"));
    assert_true(logged(c->out[2], 4, "validation_nats") == logged(c->out[2], 8, "validation_nats"));
    /* a teacher that is cut to its best token is an other one; to more tokens than there are, is not */
    static const char *const cut[] = {"trainer.distill.teacher_top_k=1",
                                      "trainer.distill.teacher_top_k=0",
                                      "trainer.distill.teacher_top_k=1000"};
    double kl[3], draft[3];
    for (int i = 0; i < 3; i++) {
        cli_remove(c->out[2]);
        cli_expect(RUN, 0, "train", "-m", c->heads, COMMON, "--out", c->out[2], "-q", "--set",
                   "trainer.distill.steps=1", "--set", teacher, "--set", cut[i]);
        kl[i] = logged(c->out[2], 1, "kl");
        draft[i] = logged(c->out[2], 1, "draft");
    }
    assert_true(kl[0] > kl[1] && draft[0] > draft[1]);
    assert_true(kl[2] == kl[1] && draft[2] == draft[1]);
    /* tokens of the teacher that mean something else */
    (void)snprintf(teacher, sizeof teacher, "trainer.distill.teacher=%s",
                   PICO_SOURCE_DIR "/models/tiny.gguf");
    cli_remove(c->out[2]);
    cli_expect(RUN, 2, "train", "-m", c->model, COMMON, "--out", c->out[2], "--set", teacher);
    assert_one_message(RUN);
    assert_contains(c->run.err, "tokenizer");
}

static void what_makes_no_sense_is_refused(void **state) {
    context *c = *state;
    cli_expect(RUN, 2, "train", "-m", c->model, "--data", c->text);
    assert_contains(c->run.err, "--out");
    cli_expect(RUN, 2, "train", "-m", c->model, "--data", "/nonexistent", "--out", c->out[0]);
    assert_one_message(RUN);
    cli_expect(RUN, 1, "train", "-m", c->model, COMMON, "--out", "/proc/nothing");
    assert_contains(c->run.err, "/proc/nothing");
    cli_expect(RUN, 2, "train", "-m", c->model, COMMON, "--out", c->out[0], "--resume");
    assert_contains(c->run.err, "no state");
    cli_expect(RUN, 2, "train", "-m", c->model, COMMON, "--out", c->out[0], "--set",
               "trainer.distill.train=heads");
    assert_contains(c->run.err, "no heads beyond");
    cli_expect(RUN, 2, "train", "-m", c->model, COMMON, "--out", c->out[0], "--set",
               "trainer.distill.warmup=0.8");
    assert_contains(c->run.err, "warmdown");
    cli_expect(RUN, 2, "train", "-m", c->model, "--data", c->text, "--out", c->out[0], "--set",
               "trainer.distill.length=5000");
    assert_contains(c->run.err, "do not fill one row");
}

/* Draft heads that share the output matrix, whole or for 60 bytes, learn alone on a trunk that has
 * learned: their loss falls, and nothing else changes. With a teacher and micro-batches too. */
static void shared_draft_heads_learn(void **state) {
    context *c = *state;
    char model[80], trunk[80], head[80], teacher[120];
    int32_t known[60];
    for (int32_t i = 0; i < 60; i++) {
        known[i] = i < 20 ? 3 + ' ' + i : 3 + 'a' - 20 + i; /* not the digits from 4 on */
    }
    (void)snprintf(model, sizeof model, "%s/shared.gguf", c->folder);
    (void)snprintf(trunk, sizeof trunk, "%s/last.gguf", c->out[0]);
    (void)snprintf(head, sizeof head, "%s/last.gguf", c->out[1]);
    (void)snprintf(teacher, sizeof teacher, "trainer.distill.teacher=%s", trunk);
    for (int i = 0; i < 4; i++) {
        pico_layer_desc layer[2];
        pico_model_desc desc = cli_tiny_desc(layer, 2);
        pico_model_file *before = NULL, *after = NULL;
        pico_error err = {0};
        desc.n_draft = 2;
        desc.draft_hidden = 16;
        desc.draft_flags = PICO_DRAFT_SHARED_OUTPUT;
        desc.n_draft_vocab = i % 2 == 0 ? 0 : 60;
        desc.draft_vocab = i % 2 == 0 ? NULL : known;
        cli_make_model(model, &desc, NULL);
        cli_remove(c->out[0]);
        cli_remove(c->out[1]);
        cli_expect(RUN, 0, "train", "-m", model, COMMON, "--out", c->out[0], "-q", "--set",
                   "trainer.distill.steps=40", "--set", "trainer.distill.draft=0");
        cli_expect(RUN, 0, "train", "-m", trunk, COMMON, "--init", "model", "--out", c->out[1],
                   "-q", "--set", "trainer.distill.steps=40", "--set",
                   "trainer.distill.train=heads", "--set", "trainer.distill.head_lr=0.05", "--set",
                   i < 2 ? "trainer.distill.accumulate=2" : teacher);
        const double first = logged(c->out[1], 1, "draft"), last = logged(c->out[1], 40, "draft");
        if (!(last < 0.9 * first && last > 0)) {
            fail_msg("run %d: the loss of the draft head was %g and is %g", i, first, last);
        }
        assert_int_equal(pico_model_file_open(trunk, NULL, &before, &err), PICO_OK);
        assert_int_equal(pico_model_file_open(head, NULL, &after, &err), PICO_OK);
        assert_int_equal(after->desc.draft_flags, PICO_DRAFT_SHARED_OUTPUT);
        assert_int_equal(after->desc.n_draft_vocab, desc.n_draft_vocab);
        for (uint32_t t = 0; t < desc.n_draft_vocab; t++) {
            assert_int_equal(after->desc.draft_vocab[t], known[t]);
        }
        for (uint32_t t = 0; t < before->n_tensor; t++) {
            const pico_weight_desc *x = &before->tensor[t].data, *y = &after->tensor[t].data;
            const int same = memcmp(x->codes, y->codes, x->codes_bytes) == 0;
            assert_int_equal(same, strncmp(before->tensor[t].name, "draft_", 6) != 0);
        }
        pico_model_file_close(before);
        pico_model_file_close(after);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_run_in_pieces_ends_with_the_same_bits, setup, teardown),
        cmocka_unit_test_setup_teardown(logs_go_on_from_the_checkpoint, setup, teardown),
        cmocka_unit_test_setup_teardown(samples_are_the_models_own_words, setup, teardown),
        cmocka_unit_test_setup_teardown(kept_tokens_change_no_bit, setup, teardown),
        cmocka_unit_test_setup_teardown(an_interrupted_run_goes_on, setup, teardown),
        cmocka_unit_test_setup_teardown(a_student_learns_from_a_teacher, setup, teardown),
        cmocka_unit_test_setup_teardown(shared_draft_heads_learn, setup, teardown),
        cmocka_unit_test_setup_teardown(what_makes_no_sense_is_refused, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
