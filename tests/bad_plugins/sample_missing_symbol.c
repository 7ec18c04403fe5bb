/* Uses a function that no library provides, so that it cannot be linked at run time. */
#include "plugin.h"

extern const pico_plugin *pico_symbol_that_nobody_defines(uint32_t index);

const pico_plugin *pico_plugin_query(uint32_t index) {
    return pico_symbol_that_nobody_defines(index);
}
