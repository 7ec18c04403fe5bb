/* The probes of memory and arithmetic; see probe.h. Wider kernels are chosen at run time. */
#include "measure/probe.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#if defined(__x86_64__)
#include <immintrin.h>
#define PROBE_X86 1
#endif

enum {
    LINE = 64,
    GROUP = 8,          /* lines that a kernel takes at a time */
    SLACK = 16384,      /* behind the buffer: a prefetch looks beyond what is read */
    FLOP_UNITS = 32,    /* pieces of arithmetic for each thread */
    FLOP_ROUNDS = 2048, /* rounds of a piece */
    FLOP_CHAINS = 12,   /* independent sums: covers the latency of two units */
    FLOP_BURSTS = 8
};

/* Read ways: each kernel reads n lines at p and returns something that depends on all of them. Which
 * is fastest depends on the caches that the buffer lies in, and on the machine. */
enum { ONE_STREAM, ONE_AHEAD, FOUR_STREAMS, FOUR_NEAR, FOUR_FAR };
_Static_assert(FOUR_FAR + 1 == PICO_PROBE_WAYS, "a rate for each way");

typedef struct kernels {
    const char *name;
    uint64_t (*read[PICO_PROBE_WAYS])(const unsigned char *p, uint64_t n);
    float (*flops)(uint32_t rounds);
    uint32_t lanes; /* multiply-adds of one instruction */
} kernels;

typedef struct sink {
    _Alignas(LINE) uint64_t value;
    float sum;
} sink;

struct pico_probe {
    pico_pool *pool;
    unsigned char *data;
    uint64_t bytes; /* of the mapping */
    const kernels *kernels;
    sink *sinks; /* (threads) results, so that no load is optimised away */
};

/*
 * One body for all widths: the vector type V makes the compiler use registers of its size inside a
 * function compiled for an instruction set that has them. Four sums hide the latency of the xor.
 */
#define READ_LINE(V, acc, p)                                                                       \
    for (size_t w_ = 0; w_ < LINE / sizeof(V); w_++) {                                             \
        acc ^= ((const V *)(const void *)(p))[w_];                                                 \
    }

#define DEFINE_FOLD(NAME, V, TARGET)                                                               \
    TARGET static uint64_t fold_##NAME(V a, V b, V c, V d) {                                       \
        uint64_t words[sizeof(V) / 8], sum = 0;                                                    \
        a ^= b ^ c ^ d;                                                                            \
        memcpy(words, &a, sizeof a);                                                               \
        for (size_t i = 0; i < sizeof(V) / 8; i++) {                                               \
            sum ^= words[i];                                                                       \
        }                                                                                          \
        return sum;                                                                                \
    }

/* Four lines at a time: neighbours (one stream), or the next of each quarter (four streams). AHEAD:
 * bytes that each is prefetched ahead; 0 leaves that to the hardware. */
#define DEFINE_WAY(WAY, NAME, V, TARGET, STREAMS, AHEAD)                                           \
    TARGET static uint64_t WAY##_##NAME(const unsigned char *p, uint64_t n) {                      \
        V a = {0}, b = {0}, c = {0}, d = {0};                                                      \
        uint64_t quarter = n / 4, gap = STREAMS == 1 ? LINE : quarter * LINE;                      \
        const uint64_t step = STREAMS == 1 ? 4 * LINE : LINE;                                      \
        const unsigned char *end = p + quarter * step;                                             \
        for (const unsigned char *at = p; at < end; at += step) {                                  \
            if (AHEAD != 0) {                                                                      \
                __builtin_prefetch(at + AHEAD, 0, 2);                                              \
                __builtin_prefetch(at + gap + AHEAD, 0, 2);                                        \
                __builtin_prefetch(at + 2 * gap + AHEAD, 0, 2);                                    \
                __builtin_prefetch(at + 3 * gap + AHEAD, 0, 2);                                    \
            }                                                                                      \
            READ_LINE(V, a, at)                                                                    \
            READ_LINE(V, b, at + gap)                                                              \
            READ_LINE(V, c, at + 2 * gap)                                                          \
            READ_LINE(V, d, at + 3 * gap)                                                          \
        }                                                                                          \
        for (uint64_t i = 4 * quarter; i < n; i++) {                                               \
            READ_LINE(V, a, p + i * LINE)                                                          \
        }                                                                                          \
        return fold_##NAME(a, b, c, d);                                                            \
    }

#define DEFINE_READ(NAME, V, TARGET)                                                               \
    DEFINE_FOLD(NAME, V, TARGET)                                                                   \
    DEFINE_WAY(one_stream, NAME, V, TARGET, 1, 0)                                                  \
    DEFINE_WAY(one_ahead, NAME, V, TARGET, 1, 8192)                                                \
    DEFINE_WAY(four_streams, NAME, V, TARGET, 4, 0)                                                \
    DEFINE_WAY(four_near, NAME, V, TARGET, 4, 512)                                                 \
    DEFINE_WAY(four_far, NAME, V, TARGET, 4, 2048)
#define READ_WAYS(NAME)                                                                            \
    { one_stream_##NAME, one_ahead_##NAME, four_streams_##NAME, four_near_##NAME, four_far_##NAME }

/* Twelve chains of x = x * m + c; the compiler sees twelve named variables, which stay in
 * registers. */
#define CHAINS(DO) DO(0) DO(1) DO(2) DO(3) DO(4) DO(5) DO(6) DO(7) DO(8) DO(9) DO(10) DO(11)

typedef uint64_t v16 __attribute__((vector_size(16), may_alias));
typedef float f16x4 __attribute__((vector_size(16)));
DEFINE_READ(portable, v16, )

static float flops_portable(uint32_t rounds) {
    const f16x4 m = {0.5f, 0.5f, 0.5f, 0.5f}, c = {1.0f, 1.5f, 1.25f, 1.75f};
#define BEGIN(i) f16x4 x##i = c + (float)i;
#define STEP(i) x##i = x##i * m + c;
#define END(i) c_sum += x##i;
    CHAINS(BEGIN)
    for (uint32_t r = 0; r < rounds; r++) {
        CHAINS(STEP)
    }
    f16x4 c_sum = c;
    CHAINS(END)
#undef BEGIN
#undef STEP
#undef END
    return c_sum[0] + c_sum[1] + c_sum[2] + c_sum[3];
}

static const kernels portable = {"portable", READ_WAYS(portable), flops_portable, 4};

#ifdef PROBE_X86
#define AVX2 __attribute__((target("avx2,fma")))
#define AVX512 __attribute__((target("avx512f")))
typedef uint64_t v32 __attribute__((vector_size(32), may_alias));
typedef uint64_t v64 __attribute__((vector_size(64), may_alias));
DEFINE_READ(avx2, v32, AVX2)
DEFINE_READ(avx512, v64, AVX512)

#define DEFINE_FLOPS(NAME, TARGET, TYPE, SET1, FMA, STORE, LANES)                                  \
    TARGET static float flops_##NAME(uint32_t rounds) {                                            \
        const TYPE m = SET1(0.5f), c = SET1(1.25f);                                                \
        float out[LANES], sum = 0.0f;                                                              \
        CHAINS(BEGIN)                                                                              \
        for (uint32_t r = 0; r < rounds; r++) {                                                    \
            CHAINS(STEP)                                                                           \
        }                                                                                          \
        CHAINS(END)                                                                                \
        STORE(out, x0);                                                                            \
        for (int i = 0; i < LANES; i++) {                                                          \
            sum += out[i];                                                                         \
        }                                                                                          \
        return sum;                                                                                \
    }

#define BEGIN(i) __m256 x##i = _mm256_set1_ps((float)i);
#define STEP(i) x##i = _mm256_fmadd_ps(x##i, m, c);
#define END(i) x0 = _mm256_fmadd_ps(x##i, m, x0);
DEFINE_FLOPS(avx2, AVX2, __m256, _mm256_set1_ps, _mm256_fmadd_ps, _mm256_storeu_ps, 8)
#undef BEGIN
#undef STEP
#undef END
#define BEGIN(i) __m512 x##i = _mm512_set1_ps((float)i);
#define STEP(i) x##i = _mm512_fmadd_ps(x##i, m, c);
#define END(i) x0 = _mm512_fmadd_ps(x##i, m, x0);
DEFINE_FLOPS(avx512, AVX512, __m512, _mm512_set1_ps, _mm512_fmadd_ps, _mm512_storeu_ps, 16)
#undef BEGIN
#undef STEP
#undef END

static const kernels avx2 = {"AVX2", READ_WAYS(avx2), flops_avx2, 8};
static const kernels avx512 = {"AVX-512", READ_WAYS(avx512), flops_avx512, 16};
#endif

static const kernels *choose_kernels(void) {
#ifdef PROBE_X86
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f")) {
        return &avx512;
    }
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
        return &avx2;
    }
#endif
    return &portable;
}

static double now_seconds(void) {
    struct timespec t;
    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* Bytes that the system could hand out without swapping; 0: unknown. */
static uint64_t available_bytes(void) {
    FILE *file = fopen("/proc/meminfo", "re");
    unsigned long long kilobytes = 0;
    char line[256];
    while (file != NULL && fgets(line, sizeof line, file) != NULL) {
        if (sscanf(line, "MemAvailable: %llu kB", &kilobytes) == 1) {
            break;
        }
    }
    if (file != NULL) {
        (void)fclose(file);
    }
    return kilobytes * 1024;
}

static void touch(void *arg, uint64_t begin, uint64_t end, uint32_t thread) {
    pico_probe *probe = arg;
    (void)thread;
    /* Untouched pages would all be the one page of zeros. */
    memset(probe->data + begin * LINE, 0x5a, (end - begin) * LINE);
}

pico_status pico_probe_open(pico_pool *pool, uint64_t max_bytes, pico_probe **out,
                            pico_error *err) {
    *out = NULL;
    uint64_t available = available_bytes();
    if (max_bytes > PTRDIFF_MAX - LINE - SLACK ||
        (available != 0 && max_bytes > available - available / 8)) {
        return pico_fail(err, PICO_E_NOMEM,
                         "the probe of the memory's speed needs %llu bytes, of which %llu are free",
                         (unsigned long long)max_bytes, (unsigned long long)available);
    }
    pico_probe *probe = calloc(1, sizeof *probe);
    if (probe == NULL) {
        return pico_fail(err, PICO_E_NOMEM, "out of memory");
    }
    probe->pool = pool;
    probe->kernels = choose_kernels();
    probe->bytes = (max_bytes / LINE + 1) * LINE + SLACK;
    probe->sinks = aligned_alloc(LINE, pico_pool_n_threads(pool) * sizeof *probe->sinks);
    void *data = mmap(NULL, (size_t)probe->bytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (data == MAP_FAILED || probe->sinks == NULL) {
        if (data != MAP_FAILED) {
            probe->data = data;
        }
        pico_probe_close(probe);
        return pico_fail(err, PICO_E_NOMEM, "no %llu bytes for the probe of the memory's speed",
                         (unsigned long long)max_bytes);
    }
    probe->data = data;
    memset(probe->sinks, 0, pico_pool_n_threads(pool) * sizeof *probe->sinks);
    pico_pool_for(pool, probe->bytes / LINE, 16384, touch, probe);
    *out = probe;
    return PICO_OK;
}

void pico_probe_close(pico_probe *probe) {
    if (probe == NULL) {
        return;
    }
    if (probe->data != NULL) {
        (void)munmap(probe->data, (size_t)probe->bytes);
    }
    free(probe->sinks);
    free(probe);
}

typedef struct read_job {
    pico_probe *probe;
    uint32_t way;
} read_job;

static void read_range(void *arg, uint64_t begin, uint64_t end, uint32_t thread) {
    read_job *job = arg;
    pico_probe *probe = job->probe;
    probe->sinks[thread].value ^=
        probe->kernels->read[job->way](probe->data + begin * LINE, end - begin);
}

void pico_probe_read(pico_probe *probe, uint64_t bytes, uint32_t passes,
                     double rate[PICO_PROBE_WAYS]) {
    uint64_t lines = (bytes + LINE - 1) / LINE, threads = pico_pool_n_threads(probe->pool);
    assert(lines >= 1 && lines * LINE + SLACK <= probe->bytes && passes >= 1);
    /* Pieces large enough that handing them out costs nothing, small enough to even out. */
    uint64_t grain = lines / (threads * 8);
    grain = grain > 16384 ? 16384 : grain < GROUP ? GROUP : grain;
    double seconds[PICO_PROBE_WAYS] = {0};
    for (uint32_t pass = 0; pass < passes * PICO_PROBE_WAYS; pass++) {
        read_job job = {probe, pass % PICO_PROBE_WAYS};
        double begin = now_seconds();
        pico_pool_for(probe->pool, lines, grain, read_range, &job);
        seconds[job.way] += now_seconds() - begin;
    }
    for (uint32_t way = 0; way < PICO_PROBE_WAYS; way++) {
        rate[way] = (double)(lines * LINE) * passes / seconds[way];
    }
}

static void flop_range(void *arg, uint64_t begin, uint64_t end, uint32_t thread) {
    pico_probe *probe = arg;
    for (uint64_t i = begin; i < end; i++) {
        probe->sinks[thread].sum += probe->kernels->flops(FLOP_ROUNDS);
    }
}

double pico_probe_flops(pico_probe *probe) {
    uint64_t units = (uint64_t)pico_pool_n_threads(probe->pool) * FLOP_UNITS;
    double work = (double)units * FLOP_ROUNDS * FLOP_CHAINS * 2.0 * probe->kernels->lanes;
    double begin = now_seconds();
    for (uint32_t burst = 0; burst < FLOP_BURSTS; burst++) {
        pico_pool_for(probe->pool, units, 1, flop_range, probe);
    }
    return work * FLOP_BURSTS / (now_seconds() - begin);
}

const char *pico_probe_instructions(const pico_probe *probe) {
    return probe->kernels->name;
}
