/*
 * The thread pool. A job is cut into units of `grain` elements. Every thread owns a slice of the
 * units, takes shrinking pieces of it, and then helps with the slices of others, so that a thread
 * that the system keeps from running delays a job by the piece it holds and no more; a thread that
 * has not even woken up delays it not at all. While a thread spins it asks memory for what it was
 * told it will read. It refuses to nest.
 *
 * How a late worker is kept from touching the wrong job: a slice is one 64-bit word, generation of
 * the job and units left. Pieces are taken by compare-and-swap on that word. A job is over only
 * when no unit is left, so a successful swap for generation g proves that job g was still running,
 * and with it that fn, arg, n and unit, read before the swap, were those of job g.
 */
#include <assert.h>
#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "host/host.h"

enum { CACHE_LINE = 64, MAX_THREADS = 1024, SPIN_NS = 50000, PAUSES_PER_LOOK = 16, MAX_RANGES = 2 };

typedef void (*range_fn)(void *arg, uint64_t begin, uint64_t end, uint32_t thread);

typedef struct pool_slice {
    _Alignas(CACHE_LINE) _Atomic uint64_t word; /* generation << 32 | units left */
} pool_slice;

/* What a thread will read soon. The caller writes it while the thread may be reading it: a mixture of
 * two hints is as harmless as a wrong one. */
typedef struct pool_hint {
    _Alignas(CACHE_LINE) _Atomic uint32_t version; /* of the hint */
    _Atomic(const char *) data[MAX_RANGES];
    _Atomic uint64_t bytes[MAX_RANGES];
    /* the thread's own: how far it is, and with which version */
    _Alignas(CACHE_LINE) uint32_t seen;
    uint64_t done;
} pool_hint;

typedef struct pool_worker {
    pico_pool *pool;
    pthread_t thread;
    uint32_t index;
} pool_worker;

struct pico_pool {
    /* The job. Written by the caller between jobs. */
    _Alignas(CACHE_LINE) _Atomic range_fn fn;
    _Atomic(void *) arg;
    _Atomic uint64_t n, unit, n_units;
    /* What workers watch while they spin. */
    _Alignas(CACHE_LINE) _Atomic uint32_t generation;
    _Atomic uint32_t stop;
    /* Units that are not computed yet; the caller waits for 0. */
    _Alignas(CACHE_LINE) _Atomic uint32_t remaining;
    _Atomic uint32_t caller_sleeps;
    /* Sleeping workers, and the word they sleep on. */
    _Alignas(CACHE_LINE) _Atomic uint32_t sleepers;
    _Atomic uint32_t wake;
    _Alignas(CACHE_LINE) atomic_flag busy; /* catches nested calls */
    uint32_t n_threads;
    uint32_t n_started;
    uint64_t spin_ns;
    pool_worker *workers;
    pool_slice *slices; /* (n_threads) */
    pool_hint *hints;   /* (n_threads) */
};

static void cpu_pause(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static void futex_wait(_Atomic uint32_t *word, uint32_t expected) {
    (void)syscall(SYS_futex, (void *)word, FUTEX_WAIT_PRIVATE, expected, NULL, NULL, 0);
}

static void futex_wake(_Atomic uint32_t *word, uint32_t n) {
    int count = n > (uint32_t)INT_MAX ? INT_MAX : (int)n;
    (void)syscall(SYS_futex, (void *)word, FUTEX_WAKE_PRIVATE, count, NULL, NULL, 0);
}

static uint64_t now_ns(void) {
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* Asks memory for the next line of each range that thread will read; 0: there is none. */
static int ask_memory(pool_hint *hint) {
    const uint32_t version = atomic_load_explicit(&hint->version, memory_order_acquire);
    if (version != hint->seen) {
        hint->seen = version;
        hint->done = 0;
    }
    int asked = 0;
    for (int i = 0; i < MAX_RANGES; i++) {
        if (hint->done < atomic_load_explicit(&hint->bytes[i], memory_order_relaxed)) {
            __builtin_prefetch(
                atomic_load_explicit(&hint->data[i], memory_order_relaxed) + hint->done, 0, 2);
            asked = 1;
        }
    }
    hint->done += asked ? CACHE_LINE : 0;
    return asked;
}

/* Spins until *word differs from value or the time is over; whether it differs. */
static int spin_while_equal(const pico_pool *pool, _Atomic uint32_t *word, uint32_t value,
                            uint32_t thread) {
    uint64_t deadline = 0;
    for (;;) {
        for (int i = 0; i < PAUSES_PER_LOOK; i++) {
            if (atomic_load_explicit(word, memory_order_acquire) != value) {
                return 1;
            }
            if (!ask_memory(&pool->hints[thread])) {
                cpu_pause();
            }
        }
        uint64_t now = now_ns();
        if (deadline == 0) {
            deadline = now + pool->spin_ns;
        }
        if (now >= deadline) {
            return 0;
        }
    }
}

/* First unit of a slice: units are dealt out as evenly as they go. */
static uint64_t slice_begin(uint64_t n_units, uint32_t n_threads, uint32_t slice) {
    uint64_t base = n_units / n_threads, extra = n_units % n_threads;
    return base * slice + (slice < extra ? slice : extra);
}

/* Takes pieces of one slice until nothing is left; returns the units computed. */
static uint64_t drain_slice(pico_pool *pool, uint32_t generation, uint32_t slice, uint32_t thread) {
    _Atomic uint64_t *word = &pool->slices[slice].word;
    uint64_t seen = atomic_load_explicit(word, memory_order_acquire);
    if ((uint32_t)(seen >> 32) != generation || (uint32_t)seen == 0) {
        return 0;
    }
    range_fn fn = atomic_load_explicit(&pool->fn, memory_order_acquire);
    void *arg = atomic_load_explicit(&pool->arg, memory_order_acquire);
    uint64_t n = atomic_load_explicit(&pool->n, memory_order_acquire);
    uint64_t unit = atomic_load_explicit(&pool->unit, memory_order_acquire);
    uint64_t n_units = atomic_load_explicit(&pool->n_units, memory_order_acquire);
    uint64_t slice_end = slice_begin(n_units, pool->n_threads, slice + 1);
    uint64_t computed = 0;
    while ((uint32_t)(seen >> 32) == generation && (uint32_t)seen != 0) {
        uint64_t left = (uint32_t)seen;
        uint64_t take = (left + 3) / 4;
        if (!atomic_compare_exchange_weak_explicit(word, &seen, seen - take, memory_order_acq_rel,
                                                   memory_order_acquire)) {
            continue;
        }
        uint64_t begin = (slice_end - left) * unit;
        uint64_t length = take * unit;
        fn(arg, begin, length > n - begin ? n : begin + length, thread);
        computed += take;
        seen = atomic_load_explicit(word, memory_order_acquire);
    }
    return computed;
}

/* Works on job `generation` as long as it has pieces: one's own slice first, then the others'. */
static void work(pico_pool *pool, uint32_t generation, uint32_t thread) {
    uint64_t computed = 0;
    for (uint32_t i = 0; i < pool->n_threads; i++) {
        uint32_t slice = thread + i < pool->n_threads ? thread + i : thread + i - pool->n_threads;
        computed += drain_slice(pool, generation, slice, thread);
    }
    if (computed == 0) {
        return;
    }
    uint32_t done = (uint32_t)computed;
    if (atomic_fetch_sub_explicit(&pool->remaining, done, memory_order_seq_cst) == done &&
        atomic_load_explicit(&pool->caller_sleeps, memory_order_seq_cst) != 0) {
        futex_wake(&pool->remaining, 1);
    }
}

/* Returns when the generation is no longer `seen`. */
static void wait_for_job(pico_pool *pool, uint32_t seen, uint32_t thread) {
    while (!spin_while_equal(pool, &pool->generation, seen, thread)) {
        uint32_t token = atomic_load_explicit(&pool->wake, memory_order_seq_cst);
        atomic_fetch_add_explicit(&pool->sleepers, 1, memory_order_seq_cst);
        /* Either this sees the new generation, or the caller sees the sleeper and changes `wake`.
         */
        if (atomic_load_explicit(&pool->generation, memory_order_seq_cst) == seen) {
            futex_wait(&pool->wake, token);
        }
        atomic_fetch_sub_explicit(&pool->sleepers, 1, memory_order_seq_cst);
    }
}

static void *worker_main(void *arg) {
    pool_worker *worker = arg;
    pico_pool *pool = worker->pool;
    uint32_t seen = 0;
    for (;;) {
        wait_for_job(pool, seen, worker->index);
        seen = atomic_load_explicit(&pool->generation, memory_order_acquire);
        if (atomic_load_explicit(&pool->stop, memory_order_acquire) != 0) {
            return NULL;
        }
        work(pool, seen, worker->index);
    }
}

/* Makes a new generation visible and wakes up to n sleeping workers. */
static void publish(pico_pool *pool, uint32_t generation, uint32_t n) {
    atomic_store_explicit(&pool->generation, generation, memory_order_seq_cst);
    if (atomic_load_explicit(&pool->sleepers, memory_order_seq_cst) != 0) {
        atomic_fetch_add_explicit(&pool->wake, 1, memory_order_seq_cst);
        futex_wake(&pool->wake, n);
    }
}

static void wait_for_workers(pico_pool *pool) {
    uint32_t left = atomic_load_explicit(&pool->remaining, memory_order_acquire);
    while (left != 0) {
        if (!spin_while_equal(pool, &pool->remaining, left, 0)) {
            atomic_store_explicit(&pool->caller_sleeps, 1, memory_order_seq_cst);
            uint32_t now = atomic_load_explicit(&pool->remaining, memory_order_seq_cst);
            if (now != 0) {
                futex_wait(&pool->remaining, now);
            }
            atomic_store_explicit(&pool->caller_sleeps, 0, memory_order_relaxed);
        }
        left = atomic_load_explicit(&pool->remaining, memory_order_acquire);
    }
}

void pico_pool_for(pico_pool *pool, uint64_t n, uint64_t grain, range_fn fn, void *arg) {
    uint64_t unit = grain == 0 ? 1 : grain;
    if (n == 0) {
        return;
    }
    if (n <= unit || pool->n_threads == 1) {
        fn(arg, 0, n, 0);
        return;
    }
    int nested = atomic_flag_test_and_set_explicit(&pool->busy, memory_order_acquire);
    assert(!nested && "parallel_for was called from inside a parallel_for");
    (void)nested;
    /* The unit count has to fit 32 bits; a huge job gets a coarser unit. */
    uint64_t limit = UINT32_MAX;
    uint64_t n_units = (n - 1) / unit + 1;
    if (n_units > limit) {
        uint64_t factor = (n_units - 1) / limit + 1;
        unit = unit > UINT64_MAX / factor ? n : unit * factor;
        n_units = (n - 1) / unit + 1;
    }
    uint32_t generation = atomic_load_explicit(&pool->generation, memory_order_relaxed) + 1;
    atomic_store_explicit(&pool->fn, fn, memory_order_release);
    atomic_store_explicit(&pool->arg, arg, memory_order_release);
    atomic_store_explicit(&pool->n, n, memory_order_release);
    atomic_store_explicit(&pool->unit, unit, memory_order_release);
    atomic_store_explicit(&pool->n_units, n_units, memory_order_release);
    atomic_store_explicit(&pool->remaining, (uint32_t)n_units, memory_order_release);
    for (uint32_t i = 0; i < pool->n_threads; i++) {
        uint64_t units =
            slice_begin(n_units, pool->n_threads, i + 1) - slice_begin(n_units, pool->n_threads, i);
        atomic_store_explicit(&pool->slices[i].word, (uint64_t)generation << 32 | units,
                              memory_order_release);
    }
    uint32_t helpers =
        n_units - 1 < pool->n_threads - 1 ? (uint32_t)n_units - 1 : pool->n_threads - 1;
    publish(pool, generation, helpers);
    work(pool, generation, 0);
    wait_for_workers(pool);
    atomic_flag_clear_explicit(&pool->busy, memory_order_release);
}

void pico_pool_will_read(pico_pool *pool, const pico_range *range, uint32_t n) {
    assert(n <= MAX_RANGES);
    for (uint32_t t = 0; t < pool->n_threads; t++) {
        pool_hint *hint = &pool->hints[t];
        for (uint32_t i = 0; i < MAX_RANGES; i++) {
            const pico_range r = i < n ? range[t * n + i] : (pico_range){NULL, 0};
            atomic_store_explicit(&hint->data[i], r.data, memory_order_relaxed);
            atomic_store_explicit(&hint->bytes[i], r.bytes, memory_order_relaxed);
        }
        atomic_fetch_add_explicit(&hint->version, 1, memory_order_release);
    }
}

/* CPUs that this process may run on; 0: unknown. */
static uint32_t cpus_available(void) {
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) != 0) {
        return 0;
    }
    return (uint32_t)CPU_COUNT(&set);
}

static pico_status start_workers(pico_pool *pool, pico_error *err) {
    sigset_t all, before;
    int failure = 0;
    /* Signals belong to the thread that runs main. */
    (void)sigfillset(&all);
    (void)pthread_sigmask(SIG_SETMASK, &all, &before);
    for (uint32_t i = 0; i + 1 < pool->n_threads && failure == 0; i++) {
        pool->workers[i].pool = pool;
        pool->workers[i].index = i + 1;
        failure = pthread_create(&pool->workers[i].thread, NULL, worker_main, &pool->workers[i]);
        pool->n_started += failure == 0;
    }
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (failure != 0) {
        return pico_fail(err, PICO_E_LIMIT,
                         "cannot start thread %u of %u: %s; ask for fewer with [host] threads",
                         pool->n_started + 2, pool->n_threads, strerror(failure));
    }
    return PICO_OK;
}

pico_status pico_pool_open(uint32_t n_threads, pico_pool **out, pico_error *err) {
    *out = NULL;
    uint32_t n = n_threads == 0 ? pico_threads_default(NULL, 0) : n_threads;
    if (n > MAX_THREADS) {
        return pico_fail(err, PICO_E_INVALID, "%u threads were asked for; at most %d are possible",
                         n, MAX_THREADS);
    }
    pico_pool *pool = aligned_alloc(CACHE_LINE, sizeof *pool);
    if (pool == NULL) {
        return pico_fail(err, PICO_E_NOMEM, "out of memory for a pool of %u threads", n);
    }
    memset(pool, 0, sizeof *pool);
    atomic_flag_clear(&pool->busy);
    pool->n_threads = n;
    uint32_t cpus = cpus_available();
    /* With more threads than CPUs a spinning thread takes the CPU from one that has work. */
    pool->spin_ns = cpus != 0 && n > cpus ? 0 : SPIN_NS;
    pool->workers = calloc(n, sizeof *pool->workers);
    pool->slices = aligned_alloc(CACHE_LINE, n * sizeof *pool->slices);
    pool->hints = aligned_alloc(CACHE_LINE, n * sizeof *pool->hints);
    pico_status status = PICO_OK;
    if (pool->workers == NULL || pool->slices == NULL || pool->hints == NULL) {
        status = pico_fail(err, PICO_E_NOMEM, "out of memory for a pool of %u threads", n);
        goto cleanup;
    }
    memset(pool->hints, 0, n * sizeof *pool->hints);
    for (uint32_t i = 0; i < n; i++) {
        atomic_init(&pool->slices[i].word, 0);
    }
    status = start_workers(pool, err);
    if (status == PICO_OK) {
        *out = pool;
        pool = NULL;
    }
cleanup:
    pico_pool_close(pool);
    return status;
}

void pico_pool_close(pico_pool *pool) {
    if (pool == NULL) {
        return;
    }
    if (pool->n_started != 0) {
        uint32_t generation = atomic_load_explicit(&pool->generation, memory_order_relaxed) + 1;
        atomic_store_explicit(&pool->stop, 1, memory_order_release);
        publish(pool, generation, INT_MAX);
        for (uint32_t i = 0; i < pool->n_started; i++) {
            (void)pthread_join(pool->workers[i].thread, NULL);
        }
    }
    free(pool->hints);
    free(pool->slices);
    free(pool->workers);
    free(pool);
}

uint32_t pico_pool_n_threads(const pico_pool *pool) {
    return pool->n_threads;
}
