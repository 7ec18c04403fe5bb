/* An option whose field lies outside the bound struct. */
#include "plugin.h"

static const pico_option bad_options[] = {
    {.name = "far", .type = PICO_OPT_INT, .offset = 4096},
};

#define BAD_NAME "bad_offset"
#define BAD_OPTIONS bad_options
#define BAD_N_OPTIONS 1
#define BAD_OPTIONS_BYTES 8
#include "bad.h"
