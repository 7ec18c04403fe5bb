/* A table of options whose number was forgotten. */
#include "plugin.h"

static const pico_option bad_options[] = {
    {.name = "one", .type = PICO_OPT_INT},
};

#define BAD_NAME "no_count"
#define BAD_OPTIONS bad_options
#define BAD_N_OPTIONS 0
#define BAD_OPTIONS_BYTES 8
#include "bad.h"
