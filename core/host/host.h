/*
 * The host's services: log, cancellation, random numbers, the one thread pool. Each hangs off a
 * struct of its own, so that tests can have several; the exception is the signal flag.
 */
#ifndef PICO_HOST_HOST_H
#define PICO_HOST_HOST_H

#include "plugin.h"

typedef struct pico_pool pico_pool;

/* The default thread count: min(affinity mask, floor(cgroup CPU quota) but at least 1, physical
 * cores). why (may be NULL) gets a short text such as "2: affinity 2, quota none, cores 2". */
uint32_t pico_threads_default(char *why, size_t why_size);

/* Its parts, read below a root folder ("" for the real one), so that tests can bring their own
 * /proc and /sys. cpus: (n) the numbers of the CPUs that the process may use. */
typedef struct pico_threads_limits {
    uint32_t affinity; /* CPUs of the affinity mask */
    uint32_t cores;    /* physical cores among them; 0: unknown */
    double quota;      /* CPUs that the cgroup may use; 0: no quota */
} pico_threads_limits;
void pico_threads_read(const char *root, const uint32_t *cpus, uint32_t n,
                       pico_threads_limits *out);
uint32_t pico_threads_choose(const pico_threads_limits *limits, char *why, size_t why_size);

/* A pool of n_threads - 1 workers and the calling thread. Workers spin for a short while after each
 * job, then sleep. n_threads 0 = the default. */
pico_status pico_pool_open(uint32_t n_threads, pico_pool **out, pico_error *err);
void pico_pool_close(pico_pool *pool); /* NULL is allowed */
uint32_t pico_pool_n_threads(const pico_pool *pool);
/* As pico_host.parallel_for. */
void pico_pool_for(pico_pool *pool, uint64_t n, uint64_t grain,
                   void (*fn)(void *arg, uint64_t begin, uint64_t end, uint32_t thread), void *arg);

/* As pico_host.will_read; by the thread that calls pico_pool_for, between its calls. */
void pico_pool_will_read(pico_pool *pool, const pico_range *range, uint32_t n);

/* 64 bits from a key and an index: Philox 4x32-10 (Salmon et al. 2011). Pure. */
uint64_t pico_random_u64(const pico_random_key *key, uint64_t index);
/* 52 of 64 random bits and a half as a double in (0, 1): the largest result is 1 - 2^-53, which a
 * double can hold, so never 0 or 1. */
static inline double pico_uniform_of_bits(uint64_t bits) {
    return ((double)(bits >> 12) + 0.5) * 0x1p-52;
}
/* Uniform in (0, 1), never 0 or 1. */
double pico_random_uniform(const pico_random_key *key, uint64_t index);
/* The block function itself: 128 bits from a 128-bit counter and a 64-bit key. */
void pico_philox4x32(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4]);

/* Logging to stderr. level: the least severe that is printed. */
typedef struct pico_log {
    uint32_t level; /* PICO_LOG_x */
    int color;      /* 1: may use colour; decided once from the terminal and NO_COLOR */
    int progress;   /* 1: stderr is a terminal, progress lines are drawn */
    int line_open;  /* 1: a progress line is on screen and must be cleared first */
    /* of the progress line being drawn; nanoseconds of the monotonic clock */
    uint64_t start_ns, drawn_ns, first_done, last_done;
} pico_log;

void pico_log_init(pico_log *log, uint32_t level);
/* Writes one line to stderr, cut at about 4000 bytes. [any] */
void pico_log_write(pico_log *log, uint32_t level, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
/* Draws a progress line if stderr is a terminal, at most ten times a second. */
void pico_log_progress(pico_log *log, const char *what, uint64_t done, uint64_t total);

/* Cancellation: the first SIGINT sets a flag, the second ends the process with exit code 130.
 * Blocking reads and writes are interrupted (EINTR), so that a prompt can notice. */
pico_status pico_cancel_install(pico_error *err);
int pico_cancel_requested(void);
void pico_cancel_clear(void);   /* at the start of each answer */
void pico_cancel_request(void); /* what the signal does; for tests */

#endif
