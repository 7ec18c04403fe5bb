/* A bound struct, and neither a table of options nor their number. */
#define BAD_NAME "no_table"
#define BAD_OPTIONS NULL
#define BAD_N_OPTIONS 0
#define BAD_OPTIONS_BYTES 8
#include "bad.h"
