/* What the two files of the emulated runtime share. */
#ifndef PICO_EMULATED_DEVICE_H
#define PICO_EMULATED_DEVICE_H

#if defined(__SANITIZE_ADDRESS__)
#define EMULATED_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define EMULATED_ASAN 1
#endif
#endif
struct emulated_options {
    bool reverse, mixed, protect, no_driver, no_device;
    size_t memory;
    long fail;      /* launches until one fails; negative: none does */
    int capability; /* 90: compute capability 9.0 */
};

/* From PICOCHAT_EMULATED_CUDA, read once. */
const emulated_options &emulated_settings();
/* Shared memory that a block can have. */
static inline size_t emulated_shared_bytes() {
    return emulated_settings().capability >= 80 ? 163u << 10 : 64u << 10;
}
/* What the next cudaGetLastError gives. */
void emulated_set_error(int error);

#endif
