/* Folders with config.json and safetensors; see reader.h. */
#include "formats/reader.h"

int pico_safetensors_detect(const pico_map *map) {
    (void)map;
    return 0;
}

pico_status pico_hf_open(const char *path, int is_folder, pico_model_file *file, pico_error *err) {
    (void)is_folder;
    (void)file;
    return pico_fail(err, PICO_E_UNSUPPORTED, "%.200s: safetensors, which are not read", path);
}
