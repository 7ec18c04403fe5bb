/*
 * The steps of a tokenizer.json that come before the model: which split pattern of byte-level BPE,
 * by the name that GGUF has for it, and what is done with spaces in models from SentencePiece.
 * Every other step is refused by name.
 */
#include <string.h>

#include "formats/vocab_json.h"

static const char space_mark[] = "\xe2\x96\x81"; /* U+2581 */

const char *pico_tokenizer_json_word(const json_t *object, const char *key) {
    const char *text = json_string_value(pico_json_get(object, key));
    return text == NULL ? "" : text;
}

int pico_tokenizer_json_is_type(const json_t *step, const char *type) {
    return strcmp(pico_tokenizer_json_word(step, "type"), type) == 0;
}

pico_status pico_tokenizer_json_refuse(const pico_tokenizer_json *r, const char *key,
                                       const json_t *step) {
    return pico_fail(r->err, PICO_E_UNSUPPORTED,
                     "key \"%s\": a step of type \"%.64s\" with these settings is not done here%s",
                     key, step == NULL ? "none" : pico_tokenizer_json_word(step, "type"),
                     r->vocab->kind == PICO_VOCAB_SPM
                         ? "; if there is a tokenizer.model, name it with --tokenizer"
                         : "");
}

/* The steps of a key: the list of a "Sequence", or the one object that is there. At most room. */
pico_status pico_tokenizer_json_steps(const pico_tokenizer_json *r, const char *key,
                                      const char *list_key, const json_t **out, size_t room,
                                      size_t *n) {
    const json_t *step = NULL, *list = NULL;
    *n = 0;
    pico_status status =
        pico_json_child(r->root, key, PICO_JSON_OPTIONAL, JSON_OBJECT, &step, r->err);
    if (status != PICO_OK || step == NULL) {
        return status;
    }
    if (!pico_tokenizer_json_is_type(step, "Sequence")) {
        out[(*n)++] = step;
        return PICO_OK;
    }
    status = pico_json_child(step, list_key, PICO_JSON_REQUIRED, JSON_ARRAY, &list, r->err);
    for (size_t i = 0; status == PICO_OK && i < json_array_size(list); i++) {
        if (i == room || !json_is_object(json_array_get(list, i))) {
            return pico_tokenizer_json_refuse(r, key, step);
        }
        out[(*n)++] = json_array_get(list, i);
    }
    return status;
}

/* ---- byte-level ---- */

static const char gpt2_pattern[] =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]"
    "+|\\s+(?!\\S)|\\s+";
static const char llama3_pattern[] =
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}"
    "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
static const char qwen2_pattern[] =
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}"
    "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
static const char nanochat_pattern[] =
    "'(?i:[sdmt]|ll|ve|re)|[^\\r\\n\\p{L}\\p{N}]?+\\p{L}+|\\p{N}{1,2}"
    "| ?[^\\s\\p{L}\\p{N}]++[\\r\\n]*|\\s*[\\r\\n]|\\s+(?!\\S)|\\s+";

/* The name of a pattern. A name also says whether a split piece that is a token is merged at all
 * ("ignore_merges"); where it says the opposite, the pattern itself is the name. */
static pico_status name_pattern(const pico_tokenizer_json *r, const char *pattern) {
    static const struct {
        const char *pattern, *name;
        uint32_t ignore_merges;
    } known[] = {{gpt2_pattern, "gpt-2", 0},
                 {llama3_pattern, "llama-bpe", 1},
                 {qwen2_pattern, "qwen2", 0},
                 {nanochat_pattern, "nanochat", 1}};
    uint32_t ignore_merges = 0;
    pico_status status = pico_json_bool(r->model, "ignore_merges", &ignore_merges, r->err);
    for (size_t i = 0; status == PICO_OK && i < sizeof known / sizeof *known; i++) {
        if (strcmp(known[i].pattern, pattern) == 0 && known[i].ignore_merges == ignore_merges) {
            r->vocab->pre = known[i].name;
            return PICO_OK;
        }
    }
    if (status == PICO_OK && ignore_merges) {
        status = pico_fail(r->err, PICO_E_UNSUPPORTED,
                           "key \"ignore_merges\" is true, which is not done with the split "
                           "pattern %.200s",
                           pattern);
    }
    if (status == PICO_OK) {
        r->vocab->pre = pico_arena_printf(r->arena, "regex:%s", pattern);
        status = r->vocab->pre != NULL ? PICO_OK : pico_fail(r->err, PICO_E_NOMEM, "out of memory");
    }
    return status;
}

/* ByteLevel, perhaps after one Split that isolates what its pattern matches. */
pico_status pico_tokenizer_json_byte_level(const pico_tokenizer_json *r, const json_t *const *steps,
                                           size_t n) {
    const json_t *split = n == 2 ? steps[0] : NULL, *last = n > 0 ? steps[n - 1] : NULL;
    uint32_t prefix = 1, uses_own = 1, inverted = 0;
    const json_t *normalizer = pico_json_get(r->root, "normalizer");
    if (normalizer != NULL) {
        return pico_tokenizer_json_refuse(r, "normalizer", normalizer);
    }
    pico_status status = pico_json_bool(last, "add_prefix_space", &prefix, r->err);
    if (status == PICO_OK) {
        status = pico_json_bool(last, "use_regex", &uses_own, r->err);
    }
    if (status == PICO_OK) {
        status = pico_json_bool(split, "invert", &inverted, r->err);
    }
    if (status != PICO_OK) {
        return status;
    }
    if (n > 2 || prefix || (split == NULL) != (uses_own != 0)) {
        return pico_tokenizer_json_refuse(r, "pre_tokenizer", last);
    }
    const char *pattern = gpt2_pattern;
    if (split != NULL) {
        pattern = pico_tokenizer_json_word(pico_json_get(split, "pattern"), "Regex");
        if (!pico_tokenizer_json_is_type(split, "Split") ||
            strcmp(pico_tokenizer_json_word(split, "behavior"), "Isolated") != 0 || inverted ||
            pattern[0] == '\0') {
            return pico_tokenizer_json_refuse(r, "pre_tokenizer", split);
        }
    }
    return name_pattern(r, pattern);
}

/* ---- from SentencePiece ---- */

static int is_mark_for_space(const json_t *step) {
    return pico_tokenizer_json_is_type(step, "Replace") &&
           strcmp(pico_tokenizer_json_word(step, "content"), space_mark) == 0 &&
           strcmp(pico_tokenizer_json_word(pico_json_get(step, "pattern"), "String"), " ") == 0;
}

/* Spaces become U+2581, one of them is put in front or not, and nothing else happens. A Metaspace
 * that puts one only where there is none says something that no switch here does. */
pico_status pico_tokenizer_json_spaces(const pico_tokenizer_json *r, const json_t *const *pre,
                                       size_t n_pre) {
    const json_t *steps[4], *meta = n_pre == 1 ? pre[0] : NULL;
    size_t n = 0;
    pico_status status = pico_tokenizer_json_steps(r, "normalizer", "normalizers", steps, 4, &n);
    if (status != PICO_OK) {
        return status;
    }
    int prepends = n > 0 && pico_tokenizer_json_is_type(steps[0], "Prepend") &&
                   strcmp(pico_tokenizer_json_word(steps[0], "prepend"), space_mark) == 0;
    if (n == (size_t)prepends + 1 && is_mark_for_space(steps[n - 1]) && n_pre == 0) {
        r->vocab->add_space_prefix = (uint32_t)prepends;
        return PICO_OK;
    }
    if (n > 0) {
        return pico_tokenizer_json_refuse(r, "normalizer", steps[0]);
    }
    int never = strcmp(pico_tokenizer_json_word(meta, "prepend_scheme"), "never") == 0 ||
                (pico_json_get(meta, "prepend_scheme") == NULL &&
                 json_is_false(json_object_get(meta, "add_prefix_space")));
    if (meta == NULL || !pico_tokenizer_json_is_type(meta, "Metaspace") || !never ||
        strcmp(pico_tokenizer_json_word(meta, "replacement"), space_mark) != 0 ||
        !json_is_false(json_object_get(meta, "split"))) {
        return pico_tokenizer_json_refuse(r, "pre_tokenizer", n_pre > 0 ? pre[0] : NULL);
    }
    return PICO_OK;
}
