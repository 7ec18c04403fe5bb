/* The query gives no plugin at all. */
#include "plugin.h"

const pico_plugin *pico_plugin_query(uint32_t index) {
    (void)index;
    return NULL;
}
