/* layers: cli */
/*
 * What may go wrong in a training run. A process that is killed while it saves leaves whole files, and
 * the run goes on to the same bits as one that was not; a folder that cannot be written and files that
 * may not be as large as a checkpoint are reported before training begins; a disk that is full later
 * ends the run with the name of the last good checkpoint, which is one; so does a loss that is no
 * number, with the step and the rows of data that it was given.
 */
#include <dirent.h>

#include "train_cli_kit.h"

#define FAST                                                                                       \
    "--data", c->text, "-t", "1", "--init", "random", "--set", "trainer.distill.length=24",        \
        "--set", "trainer.distill.batch=4", "--set", "trainer.eval_every=3", "--set",              \
        "trainer.save_every=1", "--set", "trainer.eval_rows=4", "-q"
#define STEPS "--set", "trainer.distill.steps=40"

static pid_t start(const char *const *words) {
    const char *argv[MAX_WORDS] = {"picochat"};
    for (int i = 0; words[i] != NULL; i++) {
        assert_true(i + 2 < MAX_WORDS);
        argv[i + 1] = words[i];
    }
    const pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        const int null = open("/dev/null", O_WRONLY);
        (void)dup2(null, 2);
        (void)execv(PROGRAM, (char *const *)(uintptr_t)argv);
        _exit(127);
    }
    return child;
}

static int finished(pid_t child) {
    int status = 0;
    assert_true(waitpid(child, &status, 0) == child);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 256 + WTERMSIG(status);
}

static void wait_ms(uint32_t ms) {
    const struct timespec wait = {.tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000};
    (void)nanosleep(&wait, NULL);
}

/* Files in a folder whose names say that they are being written. */
static int left_overs(const char *folder) {
    int n = 0;
    DIR *dir = opendir(folder);
    for (struct dirent *entry; dir != NULL && (entry = readdir(dir)) != NULL;) {
        n += strncmp(entry->d_name, "last.state.", 11) == 0 ||
             strncmp(entry->d_name, "last.gguf.", 10) == 0 ||
             strncmp(entry->d_name, "best.gguf.", 10) == 0;
    }
    if (dir != NULL) {
        (void)closedir(dir);
    }
    return n;
}

static int has_state(const char *folder) {
    char path[128];
    struct stat info;
    (void)snprintf(path, sizeof path, "%s/last.state", folder);
    return stat(path, &info) == 0;
}

/* Whether a model that is there can be opened, and a state that is there gone on from: it is, by no
 * step at all where stop_at is behind it. */
static int state_is_whole(context *c, const char *folder) {
    static const char *const names[] = {"last.gguf", "best.gguf"};
    for (int i = 0; i < 2; i++) {
        char path[128];
        struct stat info;
        (void)snprintf(path, sizeof path, "%s/%s", folder, names[i]);
        if (stat(path, &info) == 0) {
            cli_expect(RUN, 0, "inspect", path);
        }
    }
    return has_state(folder);
}

/* Frequent saves, killed at moments that are spread over the run. */
static void a_killed_process_leaves_whole_files(void **state) {
    context *c = *state;
    uint32_t random = 12345, n_killed = 0, n_left = 0;
    int code = 256 + SIGKILL;
    for (int turn = 0; turn < 60 && code != 0; turn++) {
        const int goes_on = has_state(c->out[0]);
        random = random * 1664525u + 1013904223u;
        const pid_t child =
            goes_on ? start(CLI_WORDS("train", "-m", c->model, FAST, STEPS, "--out", c->out[0],
                                      "--resume"))
                    : start(CLI_WORDS("train", "-m", c->model, FAST, STEPS, "--out", c->out[0]));
        wait_ms(40 + (turn < 12 ? random >> 26 : 5000));
        (void)kill(child, SIGKILL);
        code = finished(child);
        assert_true(code == 0 || code == 256 + SIGKILL);
        n_killed += code != 0;
        n_left += left_overs(c->out[0]) != 0;
        (void)state_is_whole(c, c->out[0]);
    }
    assert_int_equal(code, 0);
    assert_true(n_killed > 1);
    assert_int_equal(left_overs(c->out[0]), 0); /* the next process has removed them */
    cli_expect(RUN, 0, "train", "-m", c->model, FAST, STEPS, "--out", c->out[1]);
    same_files(c->out[0], c->out[1], "last.state");
    same_files(c->out[0], c->out[1], "last.gguf");
    same_files(c->out[0], c->out[1], "best.gguf");
    print_message("killed %u times, %u times with a file half written\n", n_killed, n_left);
}

static uint64_t file_bytes(const char *folder, const char *name) {
    char path[128];
    struct stat info = {0};
    (void)snprintf(path, sizeof path, "%s/%s", folder, name);
    assert_int_equal(stat(path, &info), 0);
    return (uint64_t)info.st_size;
}

/* Runs the program with files limited to so many bytes. */
static void limited(cli_run *run, uint64_t bytes, int exit_code, const char *const *words) {
    struct rlimit before, limit;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    limit = before;
    limit.rlim_cur = bytes;
    void (*handler)(int) = signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
    cli_expect_with(run, exit_code, &(const cli_setup){0}, words);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    (void)signal(SIGXFSZ, handler);
}

static void too_little_room_is_reported_before_training(void **state) {
    context *c = *state;
    cli_expect(RUN, 0, "train", "-m", c->model, FAST, "--set", "trainer.distill.steps=1", "--out",
               c->out[0]);
    const uint64_t bytes = file_bytes(c->out[0], "last.state");
    limited(RUN, bytes - 1, 1, CLI_WORDS("train", "-m", c->model, FAST, STEPS, "--out", c->out[1]));
    assert_one_message(RUN);
    assert_contains(c->run.err, "ulimit -f");
    assert_contains(c->run.err, c->out[1]);
    assert_true(!has_state(c->out[1]) && left_overs(c->out[1]) == 0);
    limited(RUN, bytes, 0,
            CLI_WORDS("train", "-m", c->model, FAST, "--set", "trainer.distill.steps=1", "--out",
                      c->out[2]));
    same_files(c->out[0], c->out[2], "last.state");
    /* a folder in which nobody may write */
    cli_spawn(RUN, &(const cli_setup){0},
              CLI_WORDS("train", "-m", c->model, FAST, STEPS, "--out", "/proc/self"));
    assert_in_range(c->run.code, 1, 2);
    assert_one_message(RUN);
    assert_contains(c->run.err, "/proc/self");
}

/* The limit falls while the run is on its way: saving fails, the last checkpoint stays. */
static void a_disk_that_fills_up_ends_the_run(void **state) {
    context *c = *state;
    char err[64];
    (void)snprintf(err, sizeof err, "%s/stderr", c->folder);
    const char *argv[MAX_WORDS] = {"picochat"};
    const char *const *words =
        CLI_WORDS("train", "-m", c->model, FAST, "--set", "trainer.distill.steps=100000", "--set",
                  "trainer.log=json", "--out", c->out[0]);
    for (int i = 0; words[i] != NULL; i++) {
        argv[i + 1] = words[i];
    }
    const pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        (void)dup2(open(err, O_WRONLY | O_CREAT | O_TRUNC, 0600), 2);
        (void)execv(PROGRAM, (char *const *)(uintptr_t)argv);
        _exit(127);
    }
    for (int i = 0; i < 4000 && !has_state(c->out[0]); i++) {
        wait_ms(2);
    }
    const struct rlimit limit = {4096, 4096};
    assert_int_equal(prlimit(child, RLIMIT_FSIZE, &limit, NULL), 0);
    assert_int_equal(finished(child), 1);
    FILE *file = fopen(err, "r");
    assert_non_null(file);
    const size_t n = fread(c->run.err, 1, sizeof c->run.err - 1, file);
    c->run.err[n] = '\0';
    assert_int_equal(fclose(file), 0);
    assert_contains(c->run.err, "File too large");
    assert_contains(c->run.err, "The last good checkpoint is");
    const char *at = strstr(c->run.err, "last.state, step ");
    assert_non_null(at);
    const unsigned long long good = strtoull(at + strlen("last.state, step "), NULL, 10);
    assert_true(state_is_whole(c, c->out[0]));
    assert_int_equal(left_overs(c->out[0]), 0);
    /* one more step from there */
    char stop[64];
    (void)snprintf(stop, sizeof stop, "trainer.stop_at=%llu", good + 1);
    cli_expect(RUN, 0, "train", "-m", c->model, FAST, "--set", "trainer.distill.steps=100000",
               "--out", c->out[0], "--resume", "--set", stop, "--log", "info");
    (void)snprintf(stop, sizeof stop, "step %llu of", good + 1);
    assert_contains(c->run.err, stop);
}

static void a_loss_that_is_no_number_stops_the_run(void **state) {
    context *c = *state;
    cli_expect(RUN, 1, "train", "-m", c->model, COMMON, "--out", c->out[0], "-q", "--set",
               "trainer.distill.steps=200", "--set", "trainer.distill.optimizer=adamw", "--set",
               "trainer.distill.lr=100", "--set", "trainer.distill.warmup=0", "--set",
               "trainer.eval_every=0", "--set", "trainer.save_every=1");
    assert_one_message(RUN);
    assert_contains(c->run.err, "no number");
    unsigned long long failed = 0, first = 0, end = 0, good = 0;
    const char *at = strstr(c->run.err, "the loss of step "), *rows = strstr(c->run.err, "rows "),
               *last = strstr(c->run.err, "last.state, step ");
    assert_true(at != NULL && rows != NULL && last != NULL);
    assert_int_equal(sscanf(at, "the loss of step %llu", &failed), 1);
    assert_int_equal(sscanf(rows, "rows %llu to %llu", &first, &end), 2);
    assert_int_equal(sscanf(last, "last.state, step %llu", &good), 1);
    assert_true(failed > 1 && good == failed - 1);
    assert_true(first == 4 * good + 1 && end == 4 * failed); /* of 4 rows each */
    assert_true(state_is_whole(c, c->out[0]));
}

/* A state that is damaged or cut off is refused before anything is changed; what the message advises
 * goes on from the model. */
static void a_damaged_state_is_refused(void **state) {
    static const char *const names[] = {"last.gguf", "best.gguf", "log.csv", "last.state"};
    context *c = *state;
    char path[128], last[128], *before[4];
    uint64_t n[4], now;
    cli_expect(RUN, 0, "train", "-m", c->model, FAST, "--out", c->out[0], "-q", "--set",
               "trainer.distill.steps=3");
    for (int i = 0; i < 4; i++) {
        before[i] = slurp(c->out[0], names[i], &n[i]);
    }
    (void)snprintf(path, sizeof path, "%s/last.state", c->out[0]);
    (void)snprintf(last, sizeof last, "%s/last.gguf", c->out[0]);
    const uint64_t flips[] = {0, 7, 9, 30, 50, 58, 66, 72, n[3] / 2, n[3] - 1};
    const uint64_t lengths[] = {0, 5, 71, 72, n[3] / 3, n[3] - 1};
    for (size_t k = 0; k < 16; k++) {
        char *damaged = malloc((size_t)n[3]);
        assert_non_null(damaged);
        memcpy(damaged, before[3], (size_t)n[3]);
        damaged[k < 10 ? flips[k] : 0] ^= (char)(k < 10 ? 1 << k % 8 : 0);
        const uint64_t size = k < 10 ? n[3] : lengths[k - 10];
        cli_write(path, damaged, (size_t)size);
        cli_expect(RUN, 3, "train", "-m", c->model, FAST, "--out", c->out[0], "--resume", "-q",
                   "--set", "trainer.distill.steps=6");
        assert_one_message(RUN);
        assert_contains(c->run.err, path);
        assert_contains(c->run.err, last);
        assert_int_equal(left_overs(c->out[0]), 0);
        for (int i = 0; i < 4; i++) {
            char *after = slurp(c->out[0], names[i], &now);
            assert_int_equal(now, i < 3 ? n[i] : size);
            assert_memory_equal(after, i < 3 ? before[i] : damaged, now);
            free(after);
        }
        free(damaged);
    }
    cli_expect(RUN, 0, "train", "-m", last, "--data", c->text, "--out", c->out[1], "-q", "--set",
               "trainer.distill.steps=1", "--set", "trainer.distill.length=24");
    cli_write(path, before[3], (size_t)n[3]); /* a good copy in its place */
    cli_expect(RUN, 0, "train", "-m", c->model, FAST, "--out", c->out[0], "--resume", "-q", "--set",
               "trainer.distill.steps=3");
    for (int i = 0; i < 4; i++) {
        free(before[i]);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_killed_process_leaves_whole_files, setup, teardown),
        cmocka_unit_test_setup_teardown(too_little_room_is_reported_before_training, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(a_disk_that_fills_up_ends_the_run, setup, teardown),
        cmocka_unit_test_setup_teardown(a_damaged_state_is_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(a_loss_that_is_no_number_stops_the_run, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
