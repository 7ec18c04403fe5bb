/*
 * The decode loop over a small random model, for tests: opens it with given plugins, runs requests,
 * keeps tokens, text and the reason of the end.
 */
#ifndef PICO_TESTS_DECODE_KIT_H
#define PICO_TESTS_DECODE_KIT_H

#include "decode/draw.h"
#include "session_kit.h"

enum { DK_SLOTS = 4, DK_TOKENS = 512, DK_SET = 12 };

#define DK_SCRIPTED PICO_BUILD_DIR "/tests/plugins/decode_scripted.so"

typedef struct dk_options {
    const char *sampler; /* NULL: standard */
    const char *decoder; /* NULL: greedy */
    const char *set[DK_SET];
    const pico_decoder_ops *decoder_ops; /* not NULL: instead of a plugin */
    void *decoder_self;
    const pico_sampler_ops *sampler_ops; /* the same */
    void *sampler_self;
    pico_decode_params params; /* penalties, accept, window, bias; the rest is filled in */
    uint32_t model;
    double heat;
    uint32_t n_vocab;    /* not 0: of the model */
    int with_vocabulary; /* 1: tokens have texts, the last one ends */
    int32_t window[4];
    uint32_t draft; /* TINY_DRAFT_x */
} dk_options;

typedef struct dk {
    rig rig;
    pico_model *model;
    pico_decode *decode;
    pico_tokenizer *tokenizer;
    pico_arena arena;
    uint32_t n_vocab;
    char what[128];
} dk;

typedef struct dk_text {
    char text[8192];
    size_t n;
    uint32_t n_pieces;
} dk_text;

typedef struct dk_result {
    int32_t token[DK_TOKENS];
    uint32_t n, n_prompt, finish, n_reused;
} dk_result;

static inline void dk_collect(void *arg, const char *text, size_t n) {
    dk_text *to = arg;
    assert_true(to->n + n < sizeof to->text);
    memcpy(to->text + to->n, text, n);
    to->n += n;
    to->text[to->n] = '\0';
    to->n_pieces++;
}

static inline void dk_open(dk *d, const kit_variant *variant, const dk_options *options) {
    pico_error err = {0};
    const char *set[DK_SET + 3] = {0};
    uint32_t n_set = 0;
    for (uint32_t i = 0; i < 2; i++) {
        if (variant->set[i][0] != '\0') {
            set[n_set++] = variant->set[i];
        }
    }
    for (uint32_t i = 0; i < DK_SET && options->set[i] != NULL; i++) {
        set[n_set++] = options->set[i];
    }
    const char *sampler = options->sampler == NULL ? "standard" : options->sampler;
    const char *decoder = options->decoder == NULL ? "greedy" : options->decoder;
    rig_setup setup = {.search = PICO_BUILD_DIR "/plugins",
                       .backend = variant->backend,
                       .sampler = options->sampler_ops != NULL ? NULL : sampler,
                       .decoder = options->decoder_ops != NULL ? NULL : decoder,
                       .set = set,
                       .n_threads = variant->n_threads,
                       .hide_optional = variant->hide_optional};
    tiny_model tiny = kit_model(options->model);
    pico_vocab vocab;
    memset(d, 0, sizeof *d);
    memcpy(tiny.window, options->window, sizeof tiny.window);
    tiny.heat = options->heat;
    tiny.draft = options->draft;
    tiny.n_vocab = options->n_vocab != 0 ? options->n_vocab : tiny.n_vocab;
    d->n_vocab = tiny.n_vocab;
    (void)snprintf(d->what, sizeof d->what, "%s on %s", tiny.family, variant->name);
    if (rig_open(&d->rig, &setup, &err) != PICO_OK ||
        tiny_model_open(&d->rig, &tiny, PICO_DTYPE_F32, &d->model, &err) != PICO_OK) {
        fail_msg("%s: %s", d->what, err.message);
    }
    if (options->with_vocabulary) {
        if (tiny_vocab(tiny.n_vocab, &d->arena, &vocab, &err) != PICO_OK ||
            pico_tokenizer_open(&vocab, &d->tokenizer, &err) != PICO_OK) {
            fail_msg("%s: %s", d->what, err.message);
        }
    }
    pico_decode_params params = options->params;
    params.sampler =
        options->sampler_ops != NULL ? options->sampler_ops : &d->rig.sampler.loaded->ops.sampler;
    params.sampler_self =
        options->sampler_ops != NULL ? options->sampler_self : d->rig.sampler.self;
    params.decoder =
        options->decoder_ops != NULL ? options->decoder_ops : &d->rig.decoder.loaded->ops.decoder;
    params.decoder_self =
        options->decoder_ops != NULL ? options->decoder_self : d->rig.decoder.self;
    params.tokenizer = d->tokenizer;
    params.n_slots = params.n_slots == 0 ? 1 : params.n_slots;
    params.ubatch = params.ubatch == 0 ? 48 : params.ubatch;
    params.repetition = params.repetition == 0.0f ? 1.0f : params.repetition;
    params.max_stop = 64;
    if (pico_decode_open(d->model, &params, &d->decode, &err) != PICO_OK) {
        fail_msg("%s: %s", d->what, err.message);
    }
}

static inline void dk_close(dk *d) {
    pico_decode_close(d->decode);
    pico_tokenizer_close(d->tokenizer);
    pico_model_close(d->model);
    pico_arena_free(&d->arena);
    rig_close(&d->rig);
}

static inline void dk_start(dk *d, uint32_t slot, const pico_request *request) {
    pico_error err = {0};
    if (pico_decode_start(d->decode, slot, request, &err) != PICO_OK) {
        fail_msg("%s: %s", d->what, err.message);
    }
}

static inline void dk_run(dk *d) {
    pico_error err = {0};
    if (pico_decode_run(d->decode, NULL, NULL, &err) != PICO_OK) {
        fail_msg("%s: %s", d->what, err.message);
    }
}

static inline void dk_take(const dk *d, uint32_t slot, dk_result *out) {
    pico_slot_state state = pico_decode_slot(d->decode, slot);
    assert_true(state.n_token <= DK_TOKENS);
    memset(out, 0, sizeof *out);
    memcpy(out->token, state.token, state.n_token * sizeof *state.token);
    out->n = state.n_token;
    out->n_prompt = state.n_prompt;
    out->finish = state.finish;
    out->n_reused = state.n_reused;
}

/* The same tokens, ended for the same reason. */
static inline void dk_same(const dk_result *want, const dk_result *got, const char *what) {
    uint32_t n = want->n < got->n ? want->n : got->n, i = 0;
    while (i < n && want->token[i] == got->token[i]) {
        i++;
    }
    if (i < n || want->n != got->n || want->finish != got->finish) {
        fail_msg("%s: token %u (answer begins at %u) is %d, expected %d; %u tokens, expected %u; "
                 "ended by %s, expected %s",
                 what, i, want->n_prompt, i < got->n ? got->token[i] : -1,
                 i < want->n ? want->token[i] : -1, got->n, want->n, pico_finish_name(got->finish),
                 pico_finish_name(want->finish));
    }
}

/* Seeded random tokens that do not end anything. */
static inline void dk_prompt(uint64_t seed, uint32_t n_vocab, uint32_t n, int32_t *out) {
    for (uint32_t i = 0; i < n; i++) {
        out[i] = 1 + (int32_t)rig_below(&seed, n_vocab - 2);
    }
}

/* Writes timelines as a script for decode_scripted; the file is the caller's to remove. */
static inline void dk_write_script(const char *path, const dk_result *results, uint32_t n) {
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    for (uint32_t i = 0; i < n; i++) {
        for (uint32_t j = 0; j < results[i].n; j++) {
            fprintf(file, "%d ", results[i].token[j]);
        }
        fprintf(file, "\n");
    }
    assert_int_equal(fclose(file), 0);
}

/* A file name of this process in `path` and the assignment that sets it as the script in `set`. */
static inline void dk_script_name(char path[64], char set[128]) {
    (void)snprintf(path, 64, "/tmp/pico_script_%ld", (long)getpid());
    (void)snprintf(set, 128, "decoder.scripted.script=%s", path);
}

#endif
