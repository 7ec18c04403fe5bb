/* Speed of a training run; see train_speed.h. */
#include "cli/train_speed.h"

#include <time.h>

#include "measure/probe.h"

static double now(void) {
    struct timespec t;
    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

void pico_train_speed_begin(pico_train_speed *speed, const pico_train *train) {
    speed->own = pico_train_operations(train, &speed->frozen);
    speed->begun = now();
}

void pico_train_speed_end(pico_train_speed *speed, const pico_train *train, uint64_t n_tokens) {
    double frozen;
    speed->step.seconds = now() - speed->begun;
    speed->step.tokens = n_tokens;
    speed->step.operations = pico_train_operations(train, &frozen) - speed->own;
    speed->step.frozen = frozen - speed->frozen;
    speed->all.seconds += speed->step.seconds;
    speed->all.tokens += n_tokens;
    speed->all.operations += speed->step.operations;
    speed->all.frozen += speed->step.frozen;
}

double pico_train_tokens_per_s(const pico_train_work *work) {
    return work->seconds > 0 ? (double)work->tokens / work->seconds : 0;
}

double pico_train_gflops(const pico_train_work *work) {
    return work->seconds > 0 ? work->operations / work->seconds * 1e-9 : 0;
}

/* "; 71.2 % of ...": the share of the threads' multiply-adds, which are a limit for F32 and a
 * yardstick for BF16. Empty where it means nothing. */
static void describe_share(double flops, int is_bf16, pico_runtime *runtime, char *out,
                           size_t size) {
    pico_probe *probe = NULL;
    pico_error err = {0};
    out[0] = '\0';
    if (!(runtime->device.caps.flags & PICO_CAP_HOST_MEMORY)) {
        return;
    }
    if (pico_probe_open(runtime->pool, 1, &probe, &err) != PICO_OK) {
        (void)snprintf(out, size, "; no limit: %.200s", err.message);
        return;
    }
    const double limit = pico_probe_flops(probe);
    const char *instructions = pico_probe_instructions(probe);
    const uint32_t threads = pico_pool_n_threads(runtime->pool);
    if (is_bf16) {
        (void)snprintf(out, size, "; in BF16, %.2f x the %.0f that %u threads multiply in F32 (%s)",
                       flops / limit, limit * 1e-9, threads, instructions);
    } else {
        (void)snprintf(out, size, "; %.1f %% of the %.0f that %u threads multiply in F32 (%s)",
                       100 * flops / limit, limit * 1e-9, threads, instructions);
    }
    pico_probe_close(probe);
}

void pico_train_speed_print(const pico_train_speed *speed, const pico_train *train,
                            pico_runtime *runtime) {
    const pico_train_work *all = &speed->all;
    char teacher[64] = "", share[256];
    if (all->seconds <= 0 || runtime->log.level > PICO_LOG_INFO) {
        return;
    }
    if (all->frozen > 0) {
        (void)snprintf(teacher, sizeof teacher, ", %.1f more for the teacher",
                       all->frozen / all->seconds * 1e-9);
    }
    describe_share((all->operations + all->frozen) / all->seconds, pico_train_is_bf16(train),
                   runtime, share, sizeof share);
    pico_log_write(&runtime->log, PICO_LOG_INFO,
                   "%.0f tokens/s in steps; %.1f GFLOP/s with %.2f M parameters that multiply%s%s",
                   pico_train_tokens_per_s(all), pico_train_gflops(all),
                   pico_train_multiplied(train) * 1e-6, teacher, share);
}
