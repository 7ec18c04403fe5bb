/*
 * What the readers of Hugging Face's tokenizer files share. A vocabulary is put together in steps:
 * the pieces of one file, then what lies beside it, then what is still open. While that goes on,
 * ids that nothing has said are -1 and pieces that nobody has named have no text.
 */
#ifndef PICO_FORMATS_VOCAB_JSON_H
#define PICO_FORMATS_VOCAB_JSON_H

#include "formats/hf_json.h"

enum {
    PICO_VOCAB_MAX_GAP = 1024,   /* ids without a token; beyond that two files do not fit */
    PICO_VOCAB_MAX_PIECE = 65535 /* bytes */
};

/* ---- vocab_json.c: pieces ---- */

/* An empty vocabulary of a kind. */
void pico_vocab_begin(pico_vocab *vocab, uint32_t kind);
static inline pico_piece *pico_vocab_pieces(const pico_vocab *vocab) {
    return (pico_piece *)(uintptr_t)vocab->piece; /* made by these readers, in the arena */
}
/* Makes room for ids below n; the new ones have no text. */
pico_status pico_vocab_resize(pico_arena *arena, pico_vocab *vocab, uint32_t n, pico_error *err);
/* Pieces from {"text": id}; ids must be there once and have few gaps. */
pico_status pico_vocab_from_object(const json_t *object, pico_arena *arena, pico_vocab *vocab,
                                   pico_error *err);
/* The id of the piece with this text, or -1. Slow: for the few special tokens. */
int32_t pico_vocab_find(const pico_vocab *vocab, const char *text);
/* A token outside of the ordinary ones, as tokenizer.json and tokenizer_config.json describe it:
 * {"content", "special", ...}. Becomes a control piece or a user-defined one. */
pico_status pico_vocab_add_token(const json_t *token, int64_t id, pico_arena *arena,
                                 pico_vocab *vocab, pico_error *err);
/* What nothing has said: special tokens by their customary names, "[PAD7]" for ids without a token
 * and for those that a model of n_vocab tokens has beyond the tokenizer's (0: unknown). */
pico_status pico_vocab_finish(uint32_t n_vocab, pico_arena *arena, pico_vocab *vocab,
                              pico_error *err);
/* Whether merging without a list of merges would do something; then an empty one cannot be told. */
int pico_vocab_needs_merges(const pico_vocab *vocab);

/* ---- readers of one file; nothing stays in the maps ---- */

/* vocab_json.c: vocab.json or encoder.json with its merges.txt or vocab.bpe: GPT-2's kind. */
pico_status pico_vocab_json_pair(const json_t *pieces, const pico_map *merges, pico_arena *arena,
                                 pico_vocab *vocab, pico_error *err);
/* vocab_json_hf.c: 1 for a tokenizer.json, 0 for another JSON object. */
int pico_tokenizer_json_is(const json_t *root);
pico_status pico_tokenizer_json_read(const json_t *root, pico_arena *arena, pico_vocab *vocab,
                                     pico_error *err);
typedef struct pico_tokenizer_json {
    const json_t *root, *model;
    pico_arena *arena;
    pico_vocab *vocab; /* its pieces are there */
    pico_error *err;
} pico_tokenizer_json;
/* vocab_json_steps.c: the string at a key, or "". */
const char *pico_tokenizer_json_word(const json_t *object, const char *key);
int pico_tokenizer_json_is_type(const json_t *step, const char *type);
/* PICO_E_UNSUPPORTED with the key and the type of the step. */
pico_status pico_tokenizer_json_refuse(const pico_tokenizer_json *r, const char *key,
                                       const json_t *step);
/* The steps of a key: the list of a "Sequence", or the one object that is there. */
pico_status pico_tokenizer_json_steps(const pico_tokenizer_json *r, const char *key,
                                      const char *list_key, const json_t **out, size_t room,
                                      size_t *n);
/* Takes the n steps of "pre_tokenizer", and the normalizer, for byte-level BPE: sets pre. */
pico_status pico_tokenizer_json_byte_level(const pico_tokenizer_json *r, const json_t *const *steps,
                                           size_t n);
/* The same for models from SentencePiece: sets add_space_prefix. */
pico_status pico_tokenizer_json_spaces(const pico_tokenizer_json *r, const json_t *const *pre,
                                       size_t n_pre);

/* vocab_json_spm.c: scores that make SentencePiece's way of merging do exactly what a list of
 * merges says; PICO_E_UNSUPPORTED when there are none. Types of the pieces must be known. */
pico_status pico_vocab_scores_of_merges(const json_t *pieces, const json_t *merges,
                                        pico_vocab *vocab, pico_error *err);
/* vocab_spm.c: SentencePiece's tokenizer.model. */
int pico_vocab_spm_detect(const pico_map *map);
pico_status pico_vocab_spm_read(const pico_map *map, pico_arena *arena, pico_vocab *vocab,
                                pico_error *err);

/* ---- vocab_json_settings.c: what lies beside a tokenizer file ---- */

/* tokenizer_config.json. */
pico_status pico_vocab_settings(const json_t *settings, pico_arena *arena, pico_vocab *vocab,
                                pico_error *err);
/* Special ids of generation_config.json or config.json, where the tokenizer names none. */
pico_status pico_vocab_ids_of_config(const json_t *config, pico_vocab *vocab, pico_error *err);
/* All of them, as far as folder has them. Messages begin with the path of the file at fault. */
pico_status pico_vocab_beside(const char *folder, pico_arena *arena, pico_vocab *vocab,
                              pico_error *err);

#endif
