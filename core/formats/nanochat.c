/* Checkpoints of nanochat; see reader.h. */
#include "formats/reader.h"

int pico_torch_detect(const pico_map *map) {
    return map->size >= 4 && map->data[0] == 'P' && map->data[1] == 'K' && map->data[2] == 3 &&
           map->data[3] == 4;
}

pico_status pico_nanochat_open(const char *path, uint32_t generation, pico_model_file *file,
                               pico_error *err) {
    (void)generation;
    (void)file;
    return pico_fail(err, PICO_E_UNSUPPORTED,
                     "%.200s: a ZIP archive (a PyTorch checkpoint?), which is not read", path);
}

pico_status pico_nanochat_find(const char *folder, pico_arena *arena, const char **out,
                               pico_error *err) {
    (void)arena;
    *out = NULL;
    return pico_fail(err, PICO_E_NOT_FOUND, "%.200s: no checkpoint", folder);
}
