/* A bound struct that is larger than the host allows. */
#include "plugin.h"

static const pico_option bad_options[] = {
    {.name = "one", .type = PICO_OPT_INT},
};

#define BAD_NAME "huge_options"
#define BAD_OPTIONS bad_options
#define BAD_N_OPTIONS 1
#define BAD_OPTIONS_BYTES 100000
#include "bad.h"
