/* An option whose field is not aligned for its type. */
#include "plugin.h"

static const pico_option bad_options[] = {
    {.name = "crooked", .type = PICO_OPT_INT, .offset = 4},
};

#define BAD_NAME "bad_alignment"
#define BAD_OPTIONS bad_options
#define BAD_N_OPTIONS 1
#define BAD_OPTIONS_BYTES 16
#include "bad.h"
