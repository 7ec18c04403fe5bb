/*
 * Models that are yet to be trained: a description from the few numbers that people choose, the rest by
 * the rules of the family. The values are noise until somebody draws them (train/train.h).
 */
#ifndef PICO_MODEL_FRESH_H
#define PICO_MODEL_FRESH_H

#include "formats/model_file.h"

typedef struct pico_fresh {
    const char *family;  /* "nanochat", "llama" or "gpt2" */
    uint32_t generation; /* of nanochat: PICO_GENERATION_x; AUTO: the newest */
    uint32_t n_layer, n_vocab, n_ctx;
    /* 0: n_embd is 64 * n_layer, rounded up to whole heads; n_head follows from a head width of 128
     * (nanochat) or 64; n_kv_head is n_head; n_ff is 4 * n_embd, for llama 8/3 of it, rounded up to a
     * multiple of 32; draft_hidden is n_embd / 2. */
    uint32_t n_embd, n_head, n_kv_head, n_ff;
    const char *windows; /* of nanochat's layers, "SSSL" and so on; NULL: that, or all long in g0 */
    int tied;            /* logits are made with the embeddings */
    uint32_t n_mtp_head, n_draft, draft_hidden;
    uint32_t draft_flags; /* PICO_DRAFT_x of a draft head */
} pico_fresh;

/* The description; its layers are from the arena. PICO_E_INVALID names what does not fit. */
pico_status pico_fresh_describe(const pico_fresh *fresh, pico_arena *arena, pico_model_desc *desc,
                                pico_error *err);
/* A file of that description. The file has no vocabulary; one of n_vocab pieces may be put
 * into it, from its arena. */
pico_status pico_model_fresh(const pico_fresh *fresh, pico_model_file **out, pico_error *err);

#endif
