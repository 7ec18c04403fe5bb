/* layers: host */
/* The host layer: random numbers, thread pool, thread count, cancellation, log. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "host/host.h"

/* The three published vectors of philox4x32 with 10 rounds (Random123, kat_vectors). */
static void philox_gives_the_known_answers(void **state) {
    (void)state;
    static const struct {
        uint32_t counter[4], key[2], out[4];
    } known[] = {
        {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
         {0xffffffff, 0xffffffff},
         {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
         {0xa4093822, 0x299f31d0},
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        uint32_t out[4];
        pico_philox4x32(known[i].counter, known[i].key, out);
        assert_memory_equal(out, known[i].out, sizeof out);
    }
}

/* Every field of the key and the index matter. */
static void random_depends_on_every_field(void **state) {
    (void)state;
    const pico_random_key base = {42, 1, PICO_RANDOM_TARGET, 7};
    uint64_t reference = pico_random_u64(&base, 3);
    assert_true(reference == pico_random_u64(&base, 3));
    pico_random_key other[6] = {base, base, base, base, base, base};
    other[0].seed += 1;
    other[1].seed += (uint64_t)1 << 32;
    other[2].sample += 1;
    other[3].purpose = PICO_RANDOM_DRAFT;
    other[4].t += 1;
    other[5].t += (uint64_t)1 << 32;
    for (int i = 0; i < 6; i++) {
        assert_true(pico_random_u64(&other[i], 3) != reference);
    }
    assert_true(pico_random_u64(&base, 4) != reference);
    assert_true(pico_random_u64(&base, 3 + ((uint64_t)1 << 32)) != reference);
}

/* Moments of the uniform distribution; a wrong conversion of bits would be far outside these bounds. */
static void random_has_the_right_moments(void **state) {
    (void)state;
    enum { N = 200000 };
    double sum = 0.0, square = 0.0;
    for (uint64_t t = 0; t < N; t++) {
        const pico_random_key key = {1, 0, PICO_RANDOM_TARGET, t};
        double u = pico_random_uniform(&key, 0);
        assert_true(u > 0.0 && u < 1.0);
        sum += u;
        square += u * u;
    }
    assert_true(fabs(sum / N - 0.5) < 0.004);
    assert_true(fabs(square / N - 1.0 / 3.0) < 0.004);
}

typedef struct cover {
    atomic_uint *seen; /* (n) */
    uint64_t n, grain;
    uint32_t n_threads;
    atomic_int wrong;
} cover;

static void mark(void *arg, uint64_t begin, uint64_t end, uint32_t thread) {
    cover *c = arg;
    if (begin >= end || end > c->n || thread >= c->n_threads || begin % c->grain != 0 ||
        (end != c->n && end % c->grain != 0)) {
        atomic_store(&c->wrong, 1);
        return;
    }
    for (uint64_t i = begin; i < end; i++) {
        atomic_fetch_add(&c->seen[i], 1);
    }
}

/* Each element exactly once, in ranges on multiples of the grain, for many sizes and grains. */
static void pool_covers_every_element_once(void **state) {
    (void)state;
    enum { MAX_N = 3000 };
    static const uint32_t threads[] = {1, 2, 3, 5};
    static const uint64_t sizes[] = {0, 1, 2, 3, 7, 64, 65, 1000, MAX_N};
    static const uint64_t grains[] = {1, 2, 16, 63, 5000};
    atomic_uint *seen = calloc(MAX_N, sizeof *seen);
    assert_non_null(seen);
    for (size_t t = 0; t < 4; t++) {
        pico_pool *pool = NULL;
        pico_error err;
        assert_int_equal(pico_pool_open(threads[t], &pool, &err), PICO_OK);
        assert_int_equal(pico_pool_n_threads(pool), threads[t]);
        for (size_t s = 0; s < sizeof sizes / sizeof sizes[0]; s++) {
            for (size_t g = 0; g < sizeof grains / sizeof grains[0]; g++) {
                cover c = {seen, sizes[s], grains[g], threads[t], 0};
                memset(seen, 0, MAX_N * sizeof *seen);
                pico_pool_for(pool, c.n, c.grain, mark, &c);
                assert_int_equal(atomic_load(&c.wrong), 0);
                for (uint64_t i = 0; i < MAX_N; i++) {
                    assert_int_equal(atomic_load(&seen[i]), i < c.n);
                }
            }
        }
        pico_pool_close(pool);
    }
    free(seen);
}

typedef struct sum_job {
    const uint64_t *values;  /* (n) plain memory, written by the caller just before the job */
    uint64_t *squares;       /* (n) plain memory, read by the caller just after */
    uint64_t per_thread[16]; /* spaced by nothing on purpose: ownership, not speed, is tested */
} sum_job;

static void square_range(void *arg, uint64_t begin, uint64_t end, uint32_t thread) {
    sum_job *job = arg;
    for (uint64_t i = begin; i < end; i++) {
        job->squares[i] = job->values[i] * job->values[i];
        job->per_thread[thread]++;
    }
}

/* A hint, different each time and now and then one that leads nowhere. */
static void hint(pico_pool *pool, uint64_t j, const uint64_t *values) {
    pico_range range[8];
    for (uint64_t i = 0; i < 8; i++) {
        range[i].data = (j + i) % 3 == 0 ? (const void *)(uintptr_t)(j * 4096) : values;
        range[i].bytes = (j + i) % 5 * 1000;
    }
    pico_pool_will_read(pool, range, (uint32_t)(j % 3));
}

/* Many short jobs of changing size over plain memory, with pauses that let workers fall asleep: a
 * worker that mixed up two jobs, or a missing memory barrier, gives wrong squares (and a report of
 * the thread sanitizer). Hints change nothing, whatever they point to. */
static void pool_keeps_jobs_apart(void **state) {
    (void)state;
    enum { N = 512, JOBS = 20000 };
    uint64_t values[N], squares[N];
    sum_job job = {values, squares, {0}};
    pico_pool *pool = NULL;
    pico_error err;
    assert_int_equal(pico_pool_open(4, &pool, &err), PICO_OK);
    uint64_t elements = 0, counted = 0;
    for (uint64_t j = 0; j < JOBS; j++) {
        uint64_t n = 1 + (j * 37) % N;
        for (uint64_t i = 0; i < n; i++) {
            values[i] = i + j;
            squares[i] = 0;
        }
        if (j % 7 == 0) {
            hint(pool, j, values);
        }
        pico_pool_for(pool, n, 1 + j % 5, square_range, &job);
        for (uint64_t i = 0; i < n; i++) {
            assert_true(squares[i] == (i + j) * (i + j));
        }
        elements += n;
        if (j % 2000 == 0) {
            const struct timespec pause = {0, 2000000};
            (void)nanosleep(&pause, NULL);
        }
    }
    for (size_t t = 0; t < 4; t++) {
        counted += job.per_thread[t];
    }
    assert_true(counted == elements);
    pico_pool_close(pool);
}

static void count_elements(void *arg, uint64_t begin, uint64_t end, uint32_t thread) {
    (void)thread;
    atomic_fetch_add((atomic_ullong *)arg, end - begin);
}

/* More units than 32 bits can count: the ranges become coarser, not wrong. */
static void pool_handles_huge_counts(void **state) {
    (void)state;
    pico_pool *pool = NULL;
    pico_error err;
    atomic_ullong total = 0;
    assert_int_equal(pico_pool_open(2, &pool, &err), PICO_OK);
    pico_pool_for(pool, (uint64_t)1 << 40, 3, count_elements, &total);
    assert_true(atomic_load(&total) == (unsigned long long)1 << 40);
    atomic_store(&total, 0);
    pico_pool_for(pool, UINT64_MAX, UINT64_MAX / 2, count_elements, &total);
    assert_true(atomic_load(&total) == UINT64_MAX);
    pico_pool_close(pool);
}

static void pool_refuses_absurd_counts(void **state) {
    (void)state;
    pico_pool *pool = NULL;
    pico_error err;
    assert_int_equal(pico_pool_open(100000, &pool, &err), PICO_E_INVALID);
    assert_null(pool);
    assert_non_null(strstr(err.message, "100000"));
    pico_pool_close(NULL);
}

/* About two microseconds of arithmetic for each element. */
static void toil(void *arg, uint64_t begin, uint64_t end, uint32_t thread) {
    atomic_uint *sink = arg;
    (void)thread;
    for (uint64_t i = begin; i < end; i++) {
        unsigned x = (unsigned)i;
        for (int k = 0; k < 2000; k++) {
            x = (x * 1664525u + 1013904223u) ^ (x >> 7);
        }
        atomic_store_explicit(&sink[i], x, memory_order_relaxed);
    }
}

static double seconds(void) {
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static int compare_doubles(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Prints what two threads cost beyond half the time of one: while the workers spin, and after they
 * fell asleep. Asserts only that no dispatch waits for something that times out. */
static void pool_dispatch_is_cheap(void **state) {
    (void)state;
    enum { JOBS = 4001, COLD = 51 };
    static double hot[JOBS], cold[COLD];
    atomic_uint sink[2] = {0, 0};
    pico_pool *pool = NULL;
    pico_error err;
    assert_int_equal(pico_pool_open(2, &pool, &err), PICO_OK);
    for (int i = 0; i < JOBS; i++) {
        double begin = seconds();
        toil(sink, 0, 2, 0);
        hot[i] = seconds() - begin;
    }
    qsort(hot, JOBS, sizeof hot[0], compare_doubles);
    double alone = hot[JOBS / 2];
    for (int i = 0; i < JOBS; i++) {
        double begin = seconds();
        pico_pool_for(pool, 2, 1, toil, sink);
        hot[i] = seconds() - begin;
    }
    for (int i = 0; i < COLD; i++) {
        const struct timespec pause = {0, 1000000};
        (void)nanosleep(&pause, NULL);
        double begin = seconds();
        pico_pool_for(pool, 2, 1, toil, sink);
        cold[i] = seconds() - begin;
    }
    qsort(hot, JOBS, sizeof hot[0], compare_doubles);
    qsort(cold, COLD, sizeof cold[0], compare_doubles);
    print_message("a job of %.2f us alone, on 2 threads %.2f us hot (overhead %.2f us), %.2f us "
                  "after sleep\n",
                  alone * 1e6, hot[JOBS / 2] * 1e6, (hot[JOBS / 2] - alone / 2) * 1e6,
                  cold[COLD / 2] * 1e6);
    assert_true(hot[JOBS / 2] < 1e-3);
    assert_true(cold[COLD / 2] < 1e-2);
    pico_pool_close(pool);
}

/* A tree of small files below a temporary folder. */
static void put(const char *root, const char *path, const char *text) {
    char full[512];
    int n = snprintf(full, sizeof full, "%s%s", root, path);
    assert_true(n > 0 && (size_t)n < sizeof full);
    for (char *slash = strchr(full + strlen(root) + 1, '/'); slash;
         slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        (void)mkdir(full, 0755);
        *slash = '/';
    }
    FILE *file = fopen(full, "w");
    assert_non_null(file);
    assert_true(fputs(text, file) >= 0);
    assert_int_equal(fclose(file), 0);
}

static void remove_tree(const char *root) {
    char command[256];
    int n = snprintf(command, sizeof command, "rm -rf '%s'", root);
    assert_true(n > 0 && (size_t)n < sizeof command);
    assert_int_equal(system(command), 0);
}

static const uint32_t four_cpus[] = {0, 1, 2, 3};

/* cgroup v2: the tightest cpu.max on the way up counts; sibling threads are one core. */
static void threads_follow_cgroup_v2_and_cores(void **state) {
    (void)state;
    char root[] = "/tmp/pico_threads_XXXXXX";
    char why[128];
    pico_threads_limits limits;
    assert_non_null(mkdtemp(root));
    put(root, "/proc/self/cgroup", "0::/a/b\n");
    put(root, "/sys/fs/cgroup/cpu.max", "max 100000\n");
    put(root, "/sys/fs/cgroup/a/cpu.max", "250000 100000\n");
    put(root, "/sys/fs/cgroup/a/b/cpu.max", "300000 100000\n");
    for (int cpu = 0; cpu < 4; cpu++) {
        char path[128], siblings[16];
        (void)snprintf(path, sizeof path,
                       "/sys/devices/system/cpu/cpu%d/topology/thread_siblings_list", cpu);
        (void)snprintf(siblings, sizeof siblings, "%d,%d\n", cpu % 3, cpu % 3 + 3);
        put(root, path, siblings);
    }
    pico_threads_read(root, four_cpus, 4, &limits);
    assert_int_equal(limits.affinity, 4);
    assert_int_equal(limits.cores, 3); /* CPUs 0 and 3 share one */
    assert_true(limits.quota == 2.5);
    assert_int_equal(pico_threads_choose(&limits, why, sizeof why), 2);
    assert_string_equal(why, "2: affinity 4, quota 2.50, cores 3");
    remove_tree(root);
}

/* cgroup v1: -1 is no quota; half a CPU still gives one thread. Unknown cores do not limit. */
static void threads_follow_cgroup_v1(void **state) {
    (void)state;
    char root[] = "/tmp/pico_threads_XXXXXX";
    char why[128];
    pico_threads_limits limits;
    assert_non_null(mkdtemp(root));
    put(root, "/proc/self/cgroup", "5:cpuset:/x\n4:cpu,cpuacct:/x\n");
    put(root, "/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "-1\n");
    put(root, "/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n");
    pico_threads_read(root, four_cpus, 4, &limits);
    assert_true(limits.quota == 0.0);
    assert_int_equal(pico_threads_choose(&limits, why, sizeof why), 4);
    assert_string_equal(why, "4: affinity 4, quota none, cores unknown");
    put(root, "/sys/fs/cgroup/cpu,cpuacct/x/cpu.cfs_quota_us", "50000\n");
    put(root, "/sys/fs/cgroup/cpu,cpuacct/x/cpu.cfs_period_us", "100000\n");
    pico_threads_read(root, four_cpus, 4, &limits);
    assert_true(limits.quota == 0.5);
    assert_int_equal(pico_threads_choose(&limits, NULL, 0), 1);
    remove_tree(root);
}

/* Nonsense in these files is no limit and no crash. */
static void threads_survive_nonsense(void **state) {
    (void)state;
    char root[] = "/tmp/pico_threads_XXXXXX";
    pico_threads_limits limits;
    assert_non_null(mkdtemp(root));
    put(root, "/proc/self/cgroup", "::::\n0::\nno colon\n0::/../../x\n");
    put(root, "/sys/fs/cgroup/cpu.max", "99999999999999999999999 0\n");
    pico_threads_read(root, four_cpus, 4, &limits);
    assert_true(limits.quota == 0.0);
    remove_tree(root);
    pico_threads_read("/nonexistent", four_cpus, 0, &limits);
    assert_int_equal(pico_threads_choose(&limits, NULL, 0), 1);
    char why[128];
    uint32_t n = pico_threads_default(why, sizeof why);
    assert_true(n >= 1);
    print_message("threads here: %s\n", why);
}

static void cancel_sets_a_flag(void **state) {
    (void)state;
    pico_error err;
    assert_int_equal(pico_cancel_requested(), 0);
    assert_int_equal(pico_cancel_install(&err), PICO_OK);
    assert_int_equal(raise(SIGINT), 0);
    assert_int_equal(pico_cancel_requested(), 1);
    pico_cancel_clear();
    assert_int_equal(pico_cancel_requested(), 0);
    pico_cancel_request();
    assert_int_equal(pico_cancel_requested(), 1);
    pico_cancel_clear();
}

/* The second SIGINT without an answer in between ends the process with 130. */
static void second_interrupt_exits_130(void **state) {
    (void)state;
    pico_error err;
    fflush(NULL);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        if (pico_cancel_install(&err) != PICO_OK || raise(SIGINT) != 0) {
            _exit(1);
        }
        (void)raise(SIGINT);
        _exit(2);
    }
    int status = 0;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 130);
}

/* What a child process writes to stderr when fn runs there. */
static void capture_stderr(void (*fn)(void), char *text, size_t size) {
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    fflush(NULL);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        (void)dup2(ends[1], STDERR_FILENO);
        fn();
        fflush(NULL);
        _exit(0);
    }
    (void)close(ends[1]);
    size_t used = 0;
    for (;;) {
        ssize_t got = read(ends[0], text + used, size - 1 - used);
        if (got <= 0) {
            break;
        }
        used += (size_t)got;
    }
    text[used] = '\0';
    (void)close(ends[0]);
    int status = 0;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void write_log_lines(void) {
    pico_log log;
    pico_log_init(&log, PICO_LOG_INFO);
    pico_log_write(&log, PICO_LOG_DEBUG, "hidden");
    pico_log_write(&log, PICO_LOG_INFO, "loaded %d", 3);
    pico_log_write(&log, PICO_LOG_WARN, "slow");
    pico_log_progress(&log, "work", 1, 2); /* not a terminal: nothing */
    pico_log_write(&log, PICO_LOG_ERROR, "bad");
    char *longest = malloc(10001);
    if (longest != NULL) {
        memset(longest, 'x', 10000);
        longest[10000] = '\0';
        pico_log_write(&log, PICO_LOG_INFO, "%s", longest);
        free(longest);
    }
}

/* Levels are respected, lines are plain off a terminal, and a long one is cut, not overrun. */
static void log_writes_plain_lines(void **state) {
    (void)state;
    char text[16384];
    capture_stderr(write_log_lines, text, sizeof text);
    const char *expected = "loaded 3\nwarning: slow\nerror: bad\nxxx";
    assert_memory_equal(text, expected, strlen(expected));
    size_t length = strlen(text);
    assert_true(length > 4000 && length < 4200);
    assert_string_equal(text + length - 5, "x...\n");
}

static void write_terminal_lines(void) {
    pico_log log = {.level = PICO_LOG_INFO, .color = 1, .progress = 1};
    pico_log_progress(&log, "work", 1, 4);
    pico_log_progress(&log, "work", 2, 4); /* too soon after the first */
    pico_log_write(&log, PICO_LOG_WARN, "note");
    pico_log_progress(&log, "work", 4, 4);
    pico_log_write(&log, PICO_LOG_INFO, "done");
}

/* A message clears an open progress line first; a finished one ends its line. */
static void log_draws_progress_on_a_terminal(void **state) {
    (void)state;
    char text[1024];
    capture_stderr(write_terminal_lines, text, sizeof text);
    assert_string_equal(text, "\r\x1b[Kwork  25 %"
                              "\r\x1b[K\x1b[33mwarning: note\x1b[0m\n"
                              "\r\x1b[Kwork 100 %\n"
                              "done\n");
}

static void write_resumed_lines(void) {
    pico_log log = {.level = PICO_LOG_INFO, .progress = 1};
    pico_log_progress(&log, "work", 1000, 2000);
    const struct timespec wait = {.tv_nsec = 150000000};
    (void)nanosleep(&wait, NULL);
    pico_log_progress(&log, "work", 1001, 2000);
}

/* A job that goes on in its middle is judged by what it has done since. */
static void log_estimates_from_where_a_job_began(void **state) {
    (void)state;
    char text[1024];
    double left = 0;
    capture_stderr(write_resumed_lines, text, sizeof text);
    const char *second = strstr(text, "work  50 %, ");
    assert_non_null(second);
    assert_int_equal(sscanf(second, "work  50 %%, %lf s left", &left), 1);
    assert_true(left >= 149); /* 999 times 0.15 s or more */
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(philox_gives_the_known_answers),
        cmocka_unit_test(random_depends_on_every_field),
        cmocka_unit_test(random_has_the_right_moments),
        cmocka_unit_test(pool_covers_every_element_once),
        cmocka_unit_test(pool_keeps_jobs_apart),
        cmocka_unit_test(pool_handles_huge_counts),
        cmocka_unit_test(pool_refuses_absurd_counts),
        cmocka_unit_test(pool_dispatch_is_cheap),
        cmocka_unit_test(threads_follow_cgroup_v2_and_cores),
        cmocka_unit_test(threads_follow_cgroup_v1),
        cmocka_unit_test(threads_survive_nonsense),
        cmocka_unit_test(cancel_sets_a_flag),
        cmocka_unit_test(second_interrupt_exits_130),
        cmocka_unit_test(log_writes_plain_lines),
        cmocka_unit_test(log_draws_progress_on_a_terminal),
        cmocka_unit_test(log_estimates_from_where_a_job_began),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
