/* Two options that share a field. */
#include "plugin.h"

static const pico_option bad_options[] = {
    {.name = "one", .type = PICO_OPT_INT, .offset = 8},
    {.name = "two", .type = PICO_OPT_BOOL, .offset = 12},
};

#define BAD_NAME "bad_overlap"
#define BAD_OPTIONS bad_options
#define BAD_N_OPTIONS 2
#define BAD_OPTIONS_BYTES 16
#include "bad.h"
