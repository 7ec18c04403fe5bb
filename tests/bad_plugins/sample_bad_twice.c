/* Two options of the same name. */
#include "plugin.h"

static const pico_option bad_options[] = {
    {.name = "same", .type = PICO_OPT_INT, .offset = 0},
    {.name = "same", .type = PICO_OPT_INT, .offset = 8},
};

#define BAD_NAME "bad_twice"
#define BAD_OPTIONS bad_options
#define BAD_N_OPTIONS 2
#define BAD_OPTIONS_BYTES 16
#include "bad.h"
