/*
 * The prompts of `run --prompts`: one JSON object a line. Everything is read and checked before
 * anything runs; a line that cannot be understood is an error that names file, line and key.
 */
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "cli/run_many.h"
#include "util/file.h"
#include "util/text.h"

enum { PROMPTS_BYTES = 1 << 30 };

/* Where in which file the reading is. */
typedef struct place {
    const char *path;
    size_t line;
} place;

static const char *const key_names[] = {"prompt", "max_tokens", "seed"};

static pico_status unknown_key(const place *at, const char *key, pico_error *err) {
    size_t n = sizeof key_names / sizeof *key_names;
    const char *nearest = pico_text_nearest(key, key_names, n);
    return pico_fail(err, PICO_E_INVALID,
                     "%s:%zu: unknown key \"%.64s\"; %s%s; a line may have prompt, max_tokens and "
                     "seed",
                     at->path, at->line, key,
                     nearest == NULL ? "expected one of the following" : "did you mean ",
                     nearest == NULL ? "" : nearest);
}

/* A whole number from min to max. */
static pico_status read_number(const place *at, const char *key, const json_t *value, int64_t min,
                               int64_t max, uint64_t *out, pico_error *err) {
    if (!json_is_integer(value) || json_integer_value(value) < min ||
        json_integer_value(value) > max) {
        return pico_fail(err, PICO_E_INVALID, "%s:%zu: %s must be a whole number from %lld to %lld",
                         at->path, at->line, key, (long long)min, (long long)max);
    }
    *out = (uint64_t)json_integer_value(value);
    return PICO_OK;
}

static pico_status copy_text(const char *text, size_t n, pico_prompt *out, pico_error *err) {
    out->text = malloc(n + 1);
    if (out->text == NULL) {
        return pico_fail(err, PICO_E_NOMEM, "out of memory for a prompt of %zu bytes", n);
    }
    memcpy(out->text, text, n);
    out->text[n] = '\0';
    out->n_text = n;
    return PICO_OK;
}

static pico_status read_key(const place *at, const char *key, const json_t *value, pico_prompt *out,
                            pico_error *err) {
    if (strcmp(key, "prompt") == 0) {
        return json_is_string(value)
                   ? copy_text(json_string_value(value), json_string_length(value), out, err)
                   : pico_fail(err, PICO_E_INVALID, "%s:%zu: prompt must be a string", at->path,
                               at->line);
    }
    if (strcmp(key, "max_tokens") == 0) {
        return read_number(at, key, value, 0, INT32_MAX, &out->max_tokens, err);
    }
    if (strcmp(key, "seed") == 0) {
        return read_number(at, key, value, INT64_MIN, INT64_MAX, &out->seed, err);
    }
    return unknown_key(at, key, err);
}

static pico_status read_line(const place *at, const char *text, size_t n, pico_prompt *out,
                             pico_error *err) {
    json_error_t why;
    json_t *root = json_loadb(text, n, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &why);
    const char *key;
    json_t *value;
    if (root == NULL) {
        return pico_fail(err, PICO_E_INVALID, "%s:%zu: no JSON: %s (column %d)", at->path, at->line,
                         why.text, why.column);
    }
    pico_status status = json_is_object(root)
                             ? PICO_OK
                             : pico_fail(err, PICO_E_INVALID,
                                         "%s:%zu: expected a JSON object such as {\"prompt\": "
                                         "\"Once\"}",
                                         at->path, at->line);
    json_object_foreach(root, key, value) {
        status = status == PICO_OK ? read_key(at, key, value, out, err) : status;
    }
    if (status == PICO_OK && out->text == NULL) {
        status = pico_fail(err, PICO_E_INVALID, "%s:%zu: there is no key \"prompt\"", at->path,
                           at->line);
    }
    json_decref(root);
    return status;
}

static int is_blank(const char *text, size_t n) {
    size_t i = 0;
    while (i < n && (text[i] == ' ' || text[i] == '\t' || text[i] == '\r')) {
        i++;
    }
    return i == n;
}

/* A further prompt at the end of the list, with the numbers of `defaults`. */
static pico_status add_prompt(pico_prompts *prompts, size_t *capacity, const pico_prompt *defaults,
                              pico_error *err) {
    if (prompts->n == *capacity) {
        size_t wanted = *capacity == 0 ? 16 : 2 * *capacity;
        pico_prompt *grown = realloc(prompts->prompt, wanted * sizeof *grown);
        if (grown == NULL) {
            return pico_fail(err, PICO_E_NOMEM, "out of memory for %zu prompts", wanted);
        }
        prompts->prompt = grown;
        *capacity = wanted;
    }
    prompts->prompt[prompts->n++] =
        (pico_prompt){.max_tokens = defaults->max_tokens, .seed = defaults->seed};
    return PICO_OK;
}

static pico_status read_lines(place *at, const char *text, size_t n, const pico_prompt *defaults,
                              pico_prompts *out, pico_error *err) {
    pico_status status = PICO_OK;
    size_t capacity = 0, mark = n >= 3 && memcmp(text, "\xef\xbb\xbf", 3) == 0 ? 3 : 0;
    for (size_t begin = mark; status == PICO_OK && begin < n; at->line++) {
        const char *newline = memchr(text + begin, '\n', n - begin);
        size_t length = newline == NULL ? n - begin : (size_t)(newline - text) - begin;
        if (!is_blank(text + begin, length)) {
            status = add_prompt(out, &capacity, defaults, err);
            if (status == PICO_OK) {
                status = read_line(at, text + begin, length, &out->prompt[out->n - 1], err);
            }
        }
        begin += length + 1;
    }
    if (status == PICO_OK && out->n == 0) {
        status = pico_fail(err, PICO_E_INVALID, "%s holds no prompts", at->path);
    }
    return status;
}

pico_status pico_prompts_read(const char *path, const pico_prompt *defaults, pico_prompts *out,
                              pico_error *err) {
    char *text = NULL;
    uint64_t n = 0;
    place at = {.path = strcmp(path, "-") == 0 ? "standard input" : path, .line = 1};
    *out = (pico_prompts){0};
    pico_status status = pico_file_read(path, PROMPTS_BYTES, &text, &n, err);
    if (status == PICO_OK) {
        status = read_lines(&at, text, (size_t)n, defaults, out, err);
    }
    if (status != PICO_OK) {
        pico_prompts_close(out);
    }
    free(text);
    return status;
}

pico_status pico_prompts_one(const char *text, size_t n, const pico_prompt *defaults,
                             pico_prompts *out, pico_error *err) {
    size_t capacity = 0;
    *out = (pico_prompts){0};
    pico_status status = add_prompt(out, &capacity, defaults, err);
    if (status == PICO_OK) {
        status = copy_text(text, n, out->prompt, err);
    }
    if (status != PICO_OK) {
        pico_prompts_close(out);
    }
    return status;
}

void pico_prompts_close(pico_prompts *prompts) {
    for (size_t i = 0; i < prompts->n; i++) {
        free(prompts->prompt[i].text);
        free(prompts->prompt[i].ids);
        free(prompts->prompt[i].error);
    }
    free(prompts->prompt);
    *prompts = (pico_prompts){0};
}
