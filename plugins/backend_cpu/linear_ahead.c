/*
 * Foresight: products come in the same order in every step, so what came after a product last time
 * tells what will be read after it. Threads that have to wait, for the last piece of a product or for
 * what is done between two of them, can then ask memory for the beginning of their share of the next.
 * A wrong guess costs a little bandwidth. Small products, which lie in caches, are not worth telling.
 */
#include "linear.h"

#define AHEAD_BYTES ((uint64_t)256 << 10) /* of a thread; stays in a second-level cache */

static cpu_ahead ahead_of(const linear_job *job) {
    cpu_ahead ahead = {.n_part = job->n_part, .pairs = job->gate && job->n_part == 2};
    for (uint32_t i = 0; i < job->n_part; i++) {
        const pico_weight *weight = job->part[i].weight;
        const cpu_packed *w = &weight->packed;
        if (w->kind == CPU_PACK_NONE) {
            ahead.part[i].data = weight->desc.codes;
            ahead.part[i].unit_bytes = weight->row_bytes;
            ahead.part[i].n = (uint64_t)weight->desc.rows;
        } else {
            ahead.part[i].data = w->panels;
            ahead.part[i].unit_bytes = w->panel_bytes * CPU_STRIP_PANELS;
            ahead.part[i].n = (uint64_t)w->n_strip;
        }
    }
    return ahead;
}

/* Units [first, ...) of a part, as far as the part goes. */
static pico_range range_of(const cpu_ahead *ahead, uint32_t part, uint64_t first, uint64_t most) {
    const uint64_t left = (ahead->part[part].n - first) * ahead->part[part].unit_bytes;
    return (pico_range){ahead->part[part].data + first * ahead->part[part].unit_bytes,
                        left < most ? left : most};
}

static void tell(const cpu_backend *cpu, const cpu_ahead *ahead) {
    const uint32_t n = ahead->pairs ? 2 : 1;
    uint64_t units = 0, bytes = 0;
    for (uint32_t i = 0; i < ahead->n_part; i++) {
        units += ahead->pairs && i > 0 ? 0 : ahead->part[i].n;
        bytes += ahead->part[i].n * ahead->part[i].unit_bytes;
    }
    if (bytes < AHEAD_BYTES) {
        return;
    }
    for (uint32_t t = 0; t < cpu->n_threads; t++) {
        uint64_t first = units * t / cpu->n_threads;
        uint32_t part = 0;
        while (!ahead->pairs && part + 1 < ahead->n_part && first >= ahead->part[part].n) {
            first -= ahead->part[part++].n;
        }
        for (uint32_t i = 0; i < n; i++) {
            cpu->ranges[t * n + i] = range_of(ahead, part + i, first, AHEAD_BYTES / n);
        }
    }
    cpu->host->will_read(cpu->host->ctx, cpu->ranges, n);
}

void linear_foresee(cpu_backend *cpu, const linear_job *job) {
    if (cpu->ranges == NULL) {
        return;
    }
    cpu_ahead *then = job->part[0].weight->then;
    if (cpu->latest != NULL) {
        *cpu->latest = ahead_of(job);
    }
    cpu->latest = then;
    tell(cpu, then); /* nothing, the first time */
}
