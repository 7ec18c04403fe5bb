/* Templates and rendering; see chat_template.h. */
#include "cli/chat_template.h"

#include <stdlib.h>
#include <string.h>

static const pico_chat_template templates[] = {
    {.name = "chatml",
     .mark = "<|im_start|>",
     .system_before = "<|im_start|>system\n",
     .system_after = "<|im_end|>\n",
     .user_before = "<|im_start|>user\n",
     .user_after = "<|im_end|>\n",
     .answer_before = "<|im_start|>assistant\n",
     .answer_after = "<|im_end|>\n"},
    {.name = "llama3",
     .mark = "<|start_header_id|>",
     .system_before = "<|start_header_id|>system<|end_header_id|>\n\n",
     .system_after = "<|eot_id|>",
     .user_before = "<|start_header_id|>user<|end_header_id|>\n\n",
     .user_after = "<|eot_id|>",
     .answer_before = "<|start_header_id|>assistant<|end_header_id|>\n\n",
     .answer_after = "<|eot_id|>"},
    {.name = "nanochat",
     .mark = "<|user_start|>",
     .system_before = "",
     .system_after = "\n\n",
     .user_before = "<|user_start|>",
     .user_after = "<|user_end|>",
     .answer_before = "<|assistant_start|>",
     .answer_after = "<|assistant_end|>",
     .system_in_user = 1},
    {.name = "llama2",
     .mark = "[INST]",
     .system_before = "<<SYS>>\n",
     .system_after = "\n<</SYS>>\n\n",
     .user_before = "[INST] ",
     .user_after = " [/INST]",
     .answer_before = "",
     .answer_after = "</s><s>",
     .system_in_user = 1},
    {.name = "plain",
     .mark = NULL,
     .system_before = "",
     .system_after = "\n\n",
     .user_before = "User: ",
     .user_after = "\n",
     .answer_before = "Assistant:",
     .answer_after = "\n",
     .stop = "\nUser:"}};

enum { N_TEMPLATES = sizeof templates / sizeof *templates };

static int has_piece(const pico_vocab *vocab, const char *text) {
    size_t n = strlen(text);
    for (uint32_t i = 0; i < vocab->n_piece; i++) {
        if (vocab->piece[i].n == n && memcmp(vocab->piece[i].text, text, n) == 0) {
            return 1;
        }
    }
    return 0;
}

const pico_chat_template *pico_chat_template_for(const pico_vocab *vocab, int *known) {
    const char *own = vocab->chat_template;
    *known = 1;
    for (size_t i = 0; i < N_TEMPLATES; i++) {
        const char *mark = templates[i].mark;
        if (mark == NULL) {
            *known = own == NULL;
            return &templates[i];
        }
        /* Without a template the vocabulary still tells, where its marks are tokens. */
        if (own != NULL ? strstr(own, mark) != NULL : mark[0] == '<' && has_piece(vocab, mark)) {
            return &templates[i];
        }
    }
    return &templates[N_TEMPLATES - 1];
}

/* ---- rendering ---- */

typedef struct renderer {
    const pico_vocab *vocab;
    const pico_tokenizer *tokenizer;
    char *text; /* (capacity) not yet encoded */
    size_t n_text, capacity;
    int32_t *ids; /* (id_capacity) */
    size_t n_ids, id_capacity;
    pico_status status;
    pico_error *err;
} renderer;

static void fail_memory(renderer *r) {
    r->status = pico_fail(r->err, PICO_E_NOMEM, "out of memory for the conversation");
}

static void add_ids(renderer *r, const int32_t *ids, size_t n) {
    if (r->id_capacity - r->n_ids < n) {
        size_t capacity = 2 * r->id_capacity + n + 64;
        int32_t *grown = realloc(r->ids, capacity * sizeof *grown);
        if (grown == NULL) {
            fail_memory(r);
            return;
        }
        r->ids = grown;
        r->id_capacity = capacity;
    }
    if (n != 0) {
        memcpy(r->ids + r->n_ids, ids, n * sizeof *ids);
        r->n_ids += n;
    }
}

/* Encodes the text that was collected. */
static void flush(renderer *r) {
    int32_t *ids = NULL;
    size_t n = 0;
    if (r->status != PICO_OK || r->n_text == 0) {
        return;
    }
    r->status = pico_tokenizer_encode(r->tokenizer, r->text, r->n_text, 0, &ids, &n, r->err);
    if (r->status == PICO_OK) {
        add_ids(r, ids, n);
    }
    free(ids);
    r->n_text = 0;
}

static void add_text(renderer *r, const char *text, size_t n) {
    if (r->status != PICO_OK || n == 0) {
        return;
    }
    if (r->capacity - r->n_text < n) {
        size_t capacity = 2 * r->capacity + n + 256;
        char *grown = realloc(r->text, capacity);
        if (grown == NULL) {
            fail_memory(r);
            return;
        }
        r->text = grown;
        r->capacity = capacity;
    }
    memcpy(r->text + r->n_text, text, n);
    r->n_text += n;
}

/* The special token whose name begins at text, or -1; the longest one if there are several. */
static int32_t special_at(const pico_vocab *vocab, const char *text, size_t n, size_t *length) {
    int32_t best = -1;
    *length = 0;
    for (uint32_t i = 0; text[0] == '<' && i < vocab->n_piece; i++) {
        const pico_piece *piece = &vocab->piece[i];
        int special = piece->type == PICO_PIECE_CONTROL || piece->type == PICO_PIECE_USER;
        if (special && piece->n > *length && piece->n <= n &&
            memcmp(piece->text, text, piece->n) == 0) {
            best = (int32_t)i;
            *length = piece->n;
        }
    }
    return best;
}

/* A part of the template: names of special tokens become those tokens. */
static void add_literal(renderer *r, const char *text) {
    size_t n = strlen(text), length;
    for (size_t at = 0; at < n; at += length) {
        int32_t id = special_at(r->vocab, text + at, n - at, &length);
        if (id < 0) {
            length = 1;
            add_text(r, text + at, 1);
            continue;
        }
        flush(r);
        if (r->status == PICO_OK) {
            add_ids(r, &id, 1);
        }
    }
}

static void add_system(renderer *r, const pico_chat_template *t, const char *system) {
    if (system != NULL && system[0] != '\0') {
        add_literal(r, t->system_before);
        add_text(r, system, strlen(system));
        add_literal(r, t->system_after);
    }
}

pico_status pico_chat_render(const pico_chat_template *chat_template, const pico_vocab *vocab,
                             const pico_tokenizer *tokenizer, const char *system,
                             const pico_chat_message *messages, size_t n, int32_t **ids,
                             size_t *n_ids, pico_error *err) {
    const pico_chat_template *t = chat_template;
    renderer r = {.vocab = vocab, .tokenizer = tokenizer, .err = err};
    int32_t bos = pico_tokenizer_bos(tokenizer);
    *ids = NULL;
    *n_ids = 0;
    if (bos >= 0 && pico_tokenizer_adds_bos(tokenizer)) {
        add_ids(&r, &bos, 1);
    }
    if (!t->system_in_user) {
        add_system(&r, t, system);
    }
    for (size_t i = 0; i < n; i++) {
        int is_user = messages[i].role == PICO_CHAT_USER;
        add_literal(&r, is_user ? t->user_before : t->answer_before);
        if (i == 0 && t->system_in_user) {
            add_system(&r, t, system);
        }
        add_text(&r, messages[i].text, messages[i].n);
        add_literal(&r, is_user ? t->user_after : t->answer_after);
    }
    add_literal(&r, t->answer_before);
    flush(&r);
    free(r.text);
    if (r.status != PICO_OK) {
        free(r.ids);
        return r.status;
    }
    *ids = r.ids;
    *n_ids = r.n_ids;
    return PICO_OK;
}
