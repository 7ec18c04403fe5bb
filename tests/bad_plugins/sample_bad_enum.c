/* An ENUM without choices. */
#include "plugin.h"

static const pico_option bad_options[] = {
    {.name = "mode", .type = PICO_OPT_ENUM},
};

#define BAD_NAME "bad_enum"
#define BAD_OPTIONS bad_options
#define BAD_N_OPTIONS 1
#define BAD_OPTIONS_BYTES 8
#include "bad.h"
