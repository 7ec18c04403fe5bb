/*
 * What the machine can do right now: how fast the threads of the pool read memory, and how many
 * multiply-adds they compute. Results of `bench` are given as shares of these limits, so a probe
 * runs next to each measurement and on the same threads.
 *
 * The read limit is how fast pure vector loads get over a buffer of exactly the bytes in question. No
 * single way of loading is the fastest everywhere, so passes take turns among five: one stream a
 * thread, plain and prefetched 8 KB ahead; four streams a thread, plain and prefetched 512 bytes and
 * 2 KB ahead. A kernel that streams weights well comes near the best of them and not above it. On a
 * machine that others use, too, speed varies from pass to pass: what a way gets is its mean, as what
 * is measured next to it is. The buffer's pages are what the system gives to everybody: no advice.
 */
#ifndef PICO_MEASURE_PROBE_H
#define PICO_MEASURE_PROBE_H

#include "host/host.h"
#include "plugin.h"

enum { PICO_PROBE_WAYS = 5 };

typedef struct pico_probe pico_probe;

/* max_bytes: the largest buffer that will be read. PICO_E_NOMEM if the machine cannot spare it. The
 * pool is borrowed. */
pico_status pico_probe_open(pico_pool *pool, uint64_t max_bytes, pico_probe **out, pico_error *err);
void pico_probe_close(pico_probe *probe); /* NULL is allowed */

/* Bytes per second of each way, the mean of `passes` passes over `bytes` (at most max_bytes, at least
 * 1). */
void pico_probe_read(pico_probe *probe, uint64_t bytes, uint32_t passes,
                     double rate[PICO_PROBE_WAYS]);
/* F32 operations per second in multiply-adds (two each), the mean of a few short bursts. */
double pico_probe_flops(pico_probe *probe);

const char *pico_probe_instructions(const pico_probe *probe); /* "AVX-512", "AVX2", "portable" */

#endif
