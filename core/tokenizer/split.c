/*
 * Split patterns: text is cut into the pieces within which byte-level BPE merges. The built-in
 * patterns have matchers of their own (split_match.c); PCRE2 in UTF and UCP mode matches any other,
 * and text that a pattern does not match is a piece of its own, so no byte is ever lost. It refuses
 * patterns that it does not know and gives up, with an error, on patterns that backtrack without end.
 */
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdlib.h>
#include <string.h>

#include "tokenizer/split_match.h"
#include "tokenizer/tokenizer_internal.h"

struct pico_splitter {
    pico_split_matcher *matcher; /* with classes; NULL: with code and context */
    pico_classes *classes;
    pcre2_code *code;
    pcre2_match_context *context;
    int jit;
};

struct pico_split_state {
    const pico_splitter *splitter;
    pcre2_match_data *match;
};

#define WS PICO_SPLIT_WS

/* What the matchers match. Tests hold them against these. */
static const char gpt2_pattern[] = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+"
                                   "| ?[^" WS "\\p{L}\\p{N}]+"
                                   "|[" WS "]+(?![^" WS "])|[" WS "]+";
static const char llama3_pattern[] = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+"
                                     "|\\p{N}{1,3}| ?[^" WS "\\p{L}\\p{N}]+[\\r\\n]*"
                                     "|[" WS "]*[\\r\\n]+|[" WS "]+(?![^" WS "])|[" WS "]+";
static const char qwen2_pattern[] = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+"
                                    "|\\p{N}| ?[^" WS "\\p{L}\\p{N}]+[\\r\\n]*"
                                    "|[" WS "]*[\\r\\n]+|[" WS "]+(?![^" WS "])|[" WS "]+";
static const char nanochat_pattern[] =
    "'(?i:[sdmt]|ll|ve|re)|[^\\r\\n\\p{L}\\p{N}]?+\\p{L}+|\\p{N}{1,2}"
    "| ?[^" WS "\\p{L}\\p{N}]++[\\r\\n]*|[" WS "]*[\\r\\n]"
    "|[" WS "]+(?![^" WS "])|[" WS "]+";

static const struct {
    const char *name, *pattern;
    pico_split_matcher *matcher;
    uint32_t whole_first; /* as the tokenizer that the pattern comes from does it */
} known[] = {
    {"default", gpt2_pattern, pico_match_gpt2, 0},
    {"gpt-2", gpt2_pattern, pico_match_gpt2, 0},
    {"llama-bpe", llama3_pattern, pico_match_llama3, 1},
    {"llama3", llama3_pattern, pico_match_llama3, 1},
    {"llama-v3", llama3_pattern, pico_match_llama3, 1},
    {"qwen2", qwen2_pattern, pico_match_qwen2, 0},
    {"nanochat", nanochat_pattern, pico_match_nanochat, 1},
};

enum { N_KNOWN = sizeof known / sizeof known[0], OWN_PATTERN_MAX = 4096 };
static const char own_prefix[] = "regex:";

static pico_status unknown_pattern(const char *pre, pico_error *err) {
    char names[160];
    size_t used = 0;
    for (size_t i = 0; i < N_KNOWN; i++) {
        int n =
            snprintf(names + used, sizeof names - used, "%s%s", i > 0 ? ", " : "", known[i].name);
        used += (size_t)n < sizeof names - used ? (size_t)n : 0;
    }
    return pico_fail(err, PICO_E_UNSUPPORTED,
                     "unknown split pattern \"%.64s\" (tokenizer.ggml.pre); known: %s, or "
                     "regex:PATTERN with the model's own",
                     pre, names);
}

static size_t find_known(const char *name) {
    size_t i = 0;
    while (i < N_KNOWN && strcmp(name, known[i].name) != 0) {
        i++;
    }
    return i;
}

const char *pico_split_pattern(const char *name) {
    size_t i = find_known(name);
    return i < N_KNOWN ? known[i].pattern : NULL;
}

static pico_status compile(pico_splitter *splitter, const char *pattern, pico_error *err) {
    int code;
    PCRE2_SIZE where;
    if (strlen(pattern) > OWN_PATTERN_MAX) {
        return pico_fail(err, PICO_E_LIMIT, "split pattern of %zu bytes; at most %d are taken",
                         strlen(pattern), OWN_PATTERN_MAX);
    }
    splitter->code =
        pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED,
                      PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C, &code, &where, NULL);
    if (splitter->code == NULL) {
        char why[128] = "";
        pcre2_get_error_message(code, (PCRE2_UCHAR *)why, sizeof why);
        return pico_fail(err, PICO_E_INVALID,
                         "split pattern \"%.160s\" does not compile: %s at offset %zu", pattern,
                         why, where);
    }
    splitter->context = pcre2_match_context_create(NULL);
    if (splitter->context == NULL) {
        return pico_fail(err, PICO_E_NOMEM, "no memory for a split pattern");
    }
    /* A pattern may nest its repeats and must not take forever. */
    pcre2_set_match_limit(splitter->context, 1000000u);
    pcre2_set_depth_limit(splitter->context, 100000u);
    /* No JIT on this machine is no error: the interpreter gives the same matches. */
    splitter->jit = pcre2_jit_compile(splitter->code, PCRE2_JIT_COMPLETE) == 0;
    return PICO_OK;
}

pico_status pico_splitter_open(const char *pre, pico_splitter **out, uint32_t *whole_first,
                               pico_error *err) {
    const char *name = pre != NULL ? pre : "default";
    size_t i = find_known(name), n_prefix = sizeof own_prefix - 1;
    if (i == N_KNOWN && strncmp(name, own_prefix, n_prefix) != 0) {
        return unknown_pattern(name, err);
    }
    pico_splitter *splitter = calloc(1, sizeof *splitter);
    if (splitter == NULL) {
        return pico_fail(err, PICO_E_NOMEM, "no memory for a split pattern");
    }
    splitter->matcher = i < N_KNOWN ? known[i].matcher : NULL;
    *whole_first = i < N_KNOWN ? known[i].whole_first : 0;
    pico_status status = i < N_KNOWN ? pico_classes_open(&splitter->classes, err)
                                     : compile(splitter, name + n_prefix, err);
    if (status != PICO_OK) {
        pico_splitter_close(splitter);
        return status;
    }
    *out = splitter;
    return PICO_OK;
}

void pico_splitter_close(pico_splitter *splitter) {
    if (splitter != NULL) {
        pico_classes_close(splitter->classes);
        pcre2_match_context_free(splitter->context);
        pcre2_code_free(splitter->code);
        free(splitter);
    }
}

pico_split_state *pico_split_begin(const pico_splitter *splitter) {
    pico_split_state *state = calloc(1, sizeof *state);
    if (state == NULL) {
        return NULL;
    }
    state->splitter = splitter;
    if (splitter->matcher != NULL) {
        return state;
    }
    state->match = pcre2_match_data_create_from_pattern(splitter->code, NULL);
    if (state->match == NULL) {
        free(state);
        return NULL;
    }
    return state;
}

void pico_split_end(pico_split_state *state) {
    if (state != NULL) {
        pcre2_match_data_free(state->match);
        free(state);
    }
}

static int match_at(const pico_split_state *state, const char *text, size_t n, size_t at) {
    const pico_splitter *splitter = state->splitter;
    PCRE2_SPTR subject = (PCRE2_SPTR)text;
    if (splitter->jit) {
        int rc =
            pcre2_jit_match(splitter->code, subject, n, at, 0, state->match, splitter->context);
        if (rc >= 0 || rc == PCRE2_ERROR_NOMATCH || rc == PCRE2_ERROR_MATCHLIMIT) {
            return rc;
        }
    }
    /* Reached without JIT, or when the JIT's small stack was not enough. */
    return pcre2_match(splitter->code, subject, n, at, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT,
                       state->match, splitter->context);
}

static size_t next_character(const char *text, size_t n, size_t at) {
    do {
        at++;
    } while (at < n && ((unsigned char)text[at] & 0xc0u) == 0x80);
    return at;
}

static pico_status next_match(pico_split_state *state, const char *text, size_t n, size_t at,
                              size_t *end, pico_error *err) {
    for (size_t from = at; from < n; from = next_character(text, n, from)) {
        int rc = match_at(state, text, n, from);
        if (rc == PCRE2_ERROR_NOMATCH) {
            break;
        }
        if (rc < 0) {
            char why[128] = "";
            pcre2_get_error_message(rc, (PCRE2_UCHAR *)why, sizeof why);
            return pico_fail(err, PICO_E_LIMIT, "the split pattern gave up at byte %zu: %s", from,
                             why);
        }
        const PCRE2_SIZE *range = pcre2_get_ovector_pointer(state->match);
        if (range[0] >= from && range[1] > range[0]) {
            *end = range[0] > at ? range[0] : range[1]; /* first what was skipped, if anything */
            return PICO_OK;
        }
        /* An empty match: look further, what is passed over belongs to this piece. */
    }
    *end = n;
    return PICO_OK;
}

pico_status pico_split_next(pico_split_state *state, const char *text, size_t n, size_t at,
                            size_t *end, pico_error *err) {
    const pico_splitter *splitter = state->splitter;
    if (splitter->matcher == NULL) {
        return next_match(state, text, n, at, end, err);
    }
    pico_scan scan = {.classes = splitter->classes, .s = (const unsigned char *)text, .n = n};
    *end = splitter->matcher(&scan, at);
    return !scan.failed ? PICO_OK : pico_fail(err, PICO_E_NOMEM, "no memory to split text");
}
