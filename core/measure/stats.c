/* Statistics; see stats.h. */
#include "measure/stats.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>

static int compare(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

pico_stats pico_stats_of(double *values, size_t n) {
    assert(n >= 1);
    pico_running running = {0};
    qsort(values, n, sizeof *values, compare);
    for (size_t i = 0; i < n; i++) {
        pico_running_add(&running, values[i]);
    }
    return (pico_stats){.n = n,
                        .mean = running.mean,
                        .sd = n < 2 ? 0.0 : sqrt(running.m2 / (double)(n - 1)),
                        .median = (values[(n - 1) / 2] + values[n / 2]) / 2.0,
                        .min = values[0],
                        .max = values[n - 1]};
}

void pico_running_add(pico_running *running, double value) {
    running->n++;
    double delta = value - running->mean;
    running->mean += delta / (double)running->n;
    running->m2 += delta * (value - running->mean);
    running->sum += value;
}

double pico_running_se(const pico_running *running) {
    double n = (double)running->n;
    return running->n < 2 ? 0.0 : sqrt(running->m2 / (n - 1.0) / n);
}
