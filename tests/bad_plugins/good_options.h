/* What sample_good binds and keeps, so that test_registry can look at it. */
#ifndef PICO_GOOD_OPTIONS_H
#define PICO_GOOD_OPTIONS_H

#include "plugin.h"

typedef struct good_options {
    double temperature;
    int64_t top_k;
    uint32_t exact;
    uint32_t mode;
    const char *label;
    const char *table;
    int64_t window;
} good_options;

typedef struct good_sampler {
    good_options options;
    const pico_host *host;
} good_sampler;

#endif
