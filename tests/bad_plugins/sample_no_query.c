/* A shared object without the one symbol that makes it a plugin. */
#include "plugin.h"

PICO_EXPORT const char *some_other_symbol(void);

const char *some_other_symbol(void) {
    return "not a plugin";
}
