/*
 * A decoder to start from: it works, and decides nothing, so the text is plain greedy text at
 * temperature 0 and the sampler's at any other. All that it needs is plugin.h (section 9).
 *   1. Copy this folder out of the tree; drop the skeleton that you do not need.
 *   2. Rename: the file decode_MINE.c, .name below "MINE", the target in CMakeLists.txt.
 *   3. Build it unmodified: cmake -B build && cmake --build build; or with a compiler alone:
 *        cc -std=c11 -shared -fPIC $(pkg-config --cflags picochat) -o decode_MINE.so decode_MINE.c
 *   4. picochat plugins list --plugin-path FOLDER, then picochat-conform decode_MINE.so: it passes.
 *   5. Edit propose, one idea at a time; picochat-conform after each; `picochat bench` compares.
 */
#include <stdlib.h>

#include "plugin.h"

typedef struct skeleton {
    uint64_t
        n_observed; /* your state goes here, never at file scope: instances live side by side */
} skeleton;

static pico_status create(const pico_host *host, const void *options, void **self,
                          pico_error *err) {
    (void)host, (void)options; /* keep host if you call it later; options: see sample_skeleton.c */
    *self = calloc(1, sizeof(skeleton));
    return *self != NULL ? PICO_OK : pico_fail(err, PICO_E_NOMEM, "out of memory");
}

/* Look at the target, size what you need (nothing allocates later), say what you want to get. */
static pico_status begin(void *self, const pico_model *target, uint32_t n_slots,
                         pico_decoder_need *out, pico_error *err) {
    (void)self, (void)target, (void)n_slots, (void)err;
    *out = (pico_decoder_need){.struct_size = sizeof *out, .max_proposals = 0};
    return PICO_OK;
}

/* Guess the next tokens of each sequence: proposal[i] = {token, parent: i - 1}, n_proposal <= room.
 * Wrong guesses cost time, never quality. max_proposals above must then be the most you propose. */
static pico_status propose(void *self, pico_sequence *sequences, uint32_t n, pico_error *err) {
    (void)self, (void)err;
    for (uint32_t i = 0; i < n; i++) {
        sequences[i].n_proposal = 0;
    }
    return PICO_OK;
}

/* Learn which guesses were right and which tokens came. */
static pico_status observe(void *self, const pico_outcome *outcomes, uint32_t n,
                           const pico_tensor *hidden, pico_error *err) {
    (void)hidden, (void)err;
    for (uint32_t i = 0; i < n; i++) {
        ((skeleton *)self)->n_observed += outcomes[i].n_token;
    }
    return PICO_OK;
}

static void end(void *self) {
    ((skeleton *)self)->n_observed = 0;
}

static const pico_decoder_ops ops = {
    .struct_size = sizeof ops, .begin = begin, .propose = propose, .observe = observe, .end = end};

static const pico_plugin plugin = {.magic = PICO_PLUGIN_MAGIC,
                                   .abi_major = PICO_ABI_MAJOR,
                                   .abi_minor = PICO_ABI_MINOR,
                                   .struct_size = sizeof plugin,
                                   .kind = PICO_KIND_DECODER,
                                   .name = "skeleton",
                                   .version = "0.1.0",
                                   .summary = "a decoder to start from",
                                   .create = create,
                                   .destroy = free,
                                   .ops = &ops};

const pico_plugin *pico_plugin_query(uint32_t index) {
    return index == 0 ? &plugin : NULL;
}
