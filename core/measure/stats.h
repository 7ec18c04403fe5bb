/*
 * Small statistics over repeated measurements. Nothing here allocates.
 */
#ifndef PICO_MEASURE_STATS_H
#define PICO_MEASURE_STATS_H

#include <stddef.h>

typedef struct pico_stats {
    size_t n;
    double mean, sd; /* sd of the sample (n - 1); 0 for a single value */
    double median, min, max;
} pico_stats;

/* Sorts values[0..n) in place; n >= 1. */
pico_stats pico_stats_of(double *values, size_t n);

/* Mean and variance of a long series, one value at a time (Welford). */
typedef struct pico_running {
    unsigned long long n;
    double mean, m2, sum;
} pico_running;

void pico_running_add(pico_running *running, double value);
/* Standard error of the mean; 0 for fewer than two values. */
double pico_running_se(const pico_running *running);

#endif
