/* An option whose default is out of its own range. */
#include "plugin.h"

static const pico_option bad_options[] = {
    {.name = "level", .type = PICO_OPT_FLOAT, .def = "3", .min = 0, .max = 1},
};

#define BAD_NAME "bad_default"
#define BAD_OPTIONS bad_options
#define BAD_N_OPTIONS 1
#define BAD_OPTIONS_BYTES 8
#include "bad.h"
