/* The closed list of globals, and looking at values; see pickle.h. */
#include "formats/pickle.h"

#include <string.h>

#include "formats/pickle_internal.h"

static const char *const globals[] = {
    [PICO_GLOBAL_ORDERED_DICT] = "collections.OrderedDict",
    [PICO_GLOBAL_REBUILD_TENSOR] = "torch._utils._rebuild_tensor_v2",
    [PICO_GLOBAL_REBUILD_PARAMETER] = "torch._utils._rebuild_parameter",
    [PICO_GLOBAL_ENCODING] = "tiktoken.core.Encoding",
    [PICO_GLOBAL_STORAGE_F32] = "torch.FloatStorage",
    [PICO_GLOBAL_STORAGE_F16] = "torch.HalfStorage",
    [PICO_GLOBAL_STORAGE_BF16] = "torch.BFloat16Storage",
    [PICO_GLOBAL_STORAGE_F64] = "torch.DoubleStorage",
    [PICO_GLOBAL_STORAGE_I8] = "torch.CharStorage",
    [PICO_GLOBAL_STORAGE_U8] = "torch.ByteStorage",
    [PICO_GLOBAL_STORAGE_I16] = "torch.ShortStorage",
    [PICO_GLOBAL_STORAGE_I32] = "torch.IntStorage",
    [PICO_GLOBAL_STORAGE_I64] = "torch.LongStorage",
    [PICO_GLOBAL_STORAGE_BOOL] = "torch.BoolStorage",
};

uint32_t pico_pickle_find_global(const char *module, uint64_t n_module, const char *name,
                                 uint64_t n_name) {
    for (uint32_t i = 1; i < sizeof globals / sizeof *globals; i++) {
        const char *full = globals[i];
        if (strlen(full) == n_module + 1 + n_name && memcmp(full, module, n_module) == 0 &&
            full[n_module] == '.' && memcmp(full + n_module + 1, name, n_name) == 0) {
            return i;
        }
    }
    return 0;
}

const char *pico_pickle_global_name(uint32_t global) {
    return global != 0 && global < sizeof globals / sizeof *globals ? globals[global] : "unknown";
}

int pico_pickle_is_text(const pico_pickle_value *value, const char *text) {
    return value != NULL && value->kind == PICO_PICKLE_TEXT && value->n == strlen(text) &&
           memcmp(value->text, text, (size_t)value->n) == 0;
}

const pico_pickle_value *pico_pickle_get(const pico_pickle_value *value, const char *key) {
    if (value == NULL || value->kind != PICO_PICKLE_DICT) {
        return NULL;
    }
    for (uint64_t i = value->n; i > 0; i -= 2) {
        if (pico_pickle_is_text(value->item[i - 2], key)) {
            return value->item[i - 1];
        }
    }
    return NULL;
}

const char *pico_pickle_kind(const pico_pickle_value *value) {
    static const char *const kinds[] = {
        "nothing", "None",   "a boolean", "an integer", "a number",        "a text",   "bytes",
        "a tuple", "a list", "a dict",    "a class",    "a persistent id", "an object"};
    return kinds[value == NULL ? 0 : value->kind];
}
