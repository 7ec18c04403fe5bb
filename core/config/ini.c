/*
 * Reading INI text with inih. inih splits sections, keys and values; this file feeds it one line at
 * a time and adds what the distribution's build of inih lacks: line numbers, lines of more than 200
 * bytes, a stop at the first error, sections without keys, joined continuation lines. It hands inih
 * only lines that surely fit; a longer value and a continuation travel beside it ("aside").
 * Nothing reaches the configuration unless the whole text was readable.
 */
#include <ini.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "config/config.h"
#include "config/store.h"
#include "config/value.h"
#include "util/file.h"

enum { LINE_BYTES = 65536, FILE_BYTES = 4 << 20, NAME_BYTES = 48 };

/* What inih was last given, and so what its handler has to be called for. */
enum { GIVEN_NOTHING, GIVEN_SECTION, GIVEN_KEY, GIVEN_CONTINUATION };

typedef struct ini_state {
    pico_config *config;
    const char *path;
    const char *cursor, *end;
    uint32_t line;
    uint32_t given;
    int handled;       /* the handler was called for what was given */
    int announce;      /* the next line given to inih reports the new section */
    const char *aside; /* (aside_bytes) value of the line, if it did not travel in the line */
    size_t aside_bytes;
    char section[NAME_BYTES + 1];
    char key[NAME_BYTES + 1]; /* "": no value is being collected */
    uint32_t key_line;
    char *value; /* the value being collected, malloc-ed */
    size_t value_bytes, value_capacity;
    pico_error *err;
    pico_status status;
} ini_state;

static int is_blank(char c) {
    return c == ' ' || c == '\t' || c == '\r' || c == '\v' || c == '\f';
}

static void fail(ini_state *state, uint32_t line, const char *message, const char *detail) {
    if (state->status == PICO_OK) {
        char quoted[PICO_QUOTE_BYTES];
        state->status = pico_fail(state->err, PICO_E_INVALID, "%s:%u: %s%s%s%s", state->path, line,
                                  message, detail == NULL ? "" : " '",
                                  detail == NULL ? "" : pico_value_quote(detail, quoted),
                                  detail == NULL ? "" : "'");
    }
}

/* inih's rule: a semicolon after a blank begins a comment; then blanks around the rest go. */
static void trim_value(const char **begin, const char **end) {
    for (const char *at = *begin; at < *end; at++) {
        if (*at == ';' && at > *begin && is_blank(at[-1])) {
            *end = at;
            break;
        }
    }
    while (*begin < *end && is_blank(**begin)) {
        (*begin)++;
    }
    while (*end > *begin && is_blank((*end)[-1])) {
        (*end)--;
    }
}

/* The collected value becomes an assignment. */
static void finish_value(ini_state *state) {
    if (state->key[0] != '\0' && state->status == PICO_OK) {
        state->value[state->value_bytes] = '\0';
        state->status = pico_config_add(state->config, PICO_SOURCE_FILE, state->section, state->key,
                                        state->value, state->path, state->key_line, state->err);
    }
    state->key[0] = '\0';
}

static void append_value(ini_state *state, const char *text, size_t n) {
    if (state->value_capacity - state->value_bytes < n + 1) {
        size_t capacity = (state->value_bytes + n + 1) * 2; /* at most twice FILE_BYTES */
        char *grown = realloc(state->value, capacity);
        if (grown == NULL) {
            state->status = pico_fail(state->err, PICO_E_NOMEM, "%s:%u: out of memory", state->path,
                                      state->line);
            return;
        }
        state->value = grown;
        state->value_capacity = capacity;
    }
    if (n != 0) {
        memcpy(state->value + state->value_bytes, text, n);
    }
    state->value_bytes += n;
}

static void begin_key(ini_state *state, const char *name, const char *value) {
    const pico_config *config = state->config;
    if (name[0] == '\0' || strlen(name) > NAME_BYTES) {
        fail(state, state->line, name[0] == '\0' ? "no key before '='" : "this key is too long:",
             name[0] == '\0' ? NULL : name);
        return;
    }
    if (state->section[0] == '\0') {
        fail(state, state->line, "a key before the first [section]:", name);
        return;
    }
    for (size_t i = 0; i < config->n_entries; i++) {
        const pico_config_entry *entry = &config->entries[i];
        if (entry->source == PICO_SOURCE_FILE && entry->key != NULL &&
            strcmp(entry->key, name) == 0 && strcmp(entry->section, state->section) == 0) {
            state->status = pico_fail(state->err, PICO_E_INVALID,
                                      "%s:%u: [%s] %s was already set in line %u; remove one",
                                      state->path, state->line, state->section, name, entry->line);
            return;
        }
    }
    memcpy(state->key, name, strlen(name) + 1);
    state->key_line = state->line;
    state->value_bytes = 0;
    append_value(state, state->aside == NULL ? value : state->aside,
                 state->aside == NULL ? strlen(value) : state->aside_bytes);
}

/* Called by inih. */
static int on_pair(void *user, const char *section, const char *name, const char *value) {
    ini_state *state = user;
    state->handled = 1;
    if (state->status != PICO_OK) {
        return 0;
    }
    if (strcmp(section, state->section) != 0) {
        fail(state, state->line, "inih reads this section in another way:", section);
    } else if (state->given == GIVEN_SECTION) {
        state->status = pico_config_add(state->config, PICO_SOURCE_FILE, section, NULL, NULL,
                                        state->path, state->line, state->err);
    } else if (state->given == GIVEN_KEY) {
        finish_value(state);
        if (state->status == PICO_OK) {
            begin_key(state, name, value == NULL ? "" : value);
        }
    } else {
        append_value(state, "\n", 1);
        append_value(state, state->aside, state->aside_bytes);
    }
    return state->status == PICO_OK;
}

/* Gives inih n bytes as a line. */
static char *give(ini_state *state, uint32_t what, char *out, int room, const char *text,
                  size_t n) {
    if (room < 0 || n + 2 > (size_t)room) {
        fail(state, state->line, "this line is too long for this build of inih", NULL);
        return NULL;
    }
    memcpy(out, text, n);
    out[n] = '\n';
    out[n + 1] = '\0';
    state->given = what;
    state->handled = what == GIVEN_NOTHING;
    return out;
}

static char *give_section(ini_state *state, char *out, int room, const char *begin,
                          const char *end) {
    static const char allowed[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
                                  "0123456789_.-";
    const char *name = begin + 1, *close = name;
    while (close < end && memchr(allowed, *close, sizeof allowed - 1) != NULL) {
        close++;
    }
    size_t n = (size_t)(close - name);
    const char *rest = close + 1, *rest_end = end;
    if (n != 0 && close < end && *close == ']') {
        while (rest < rest_end && is_blank(*rest)) {
            rest++;
        }
    }
    if (n == 0 || n > NAME_BYTES || close == end || *close != ']' ||
        (rest < rest_end && *rest != ';' && *rest != '#')) {
        fail(state, state->line,
             "expected [section], a name of at most 48 letters, digits, '.', '_' and '-', and "
             "nothing behind it",
             NULL);
        return NULL;
    }
    finish_value(state);
    memcpy(state->section, name, n);
    state->section[n] = '\0';
    state->announce = 1;
    return give(state, GIVEN_NOTHING, out, room, begin, n + 2);
}

static char *give_key(ini_state *state, char *out, int room, const char *begin, const char *end) {
    size_t n = (size_t)(end - begin);
    state->aside = NULL;
    if (room > 0 && n + 2 <= (size_t)room) {
        return give(state, GIVEN_KEY, out, room, begin, n);
    }
    /* Too long for inih's buffer: it gets the key, and the value stays here. */
    const char *split = begin;
    while (split < end && *split != '=' && *split != ':' && split - begin <= 2 * NAME_BYTES) {
        split++;
    }
    if (split == end || (*split != '=' && *split != ':')) {
        fail(state, state->line, "expected key = value or [section]", NULL);
        return NULL;
    }
    const char *value = split + 1, *value_end = end;
    trim_value(&value, &value_end);
    state->aside = value;
    state->aside_bytes = (size_t)(value_end - value);
    return give(state, GIVEN_KEY, out, room, begin, (size_t)(split + 1 - begin));
}

static char *give_continuation(ini_state *state, char *out, int room, const char *begin,
                               const char *end) {
    static const char stand_in[] = "continued=";
    if (state->key[0] == '\0') {
        fail(state, state->line,
             "this line is indented, which continues the value above it, but there is none; start "
             "keys and [sections] in the first column",
             NULL);
        return NULL;
    }
    trim_value(&begin, &end);
    state->aside = begin;
    state->aside_bytes = (size_t)(end - begin);
    return give(state, GIVEN_CONTINUATION, out, room, stand_in, sizeof stand_in - 1);
}

/* inih's reader: the next line that means something, or NULL at the end and after an error. */
static char *next_line(char *out, int room, void *stream) {
    ini_state *state = stream;
    if (state->status == PICO_OK && !state->handled) {
        fail(state, state->line, "expected key = value or [section]", NULL);
    }
    if (state->status != PICO_OK) {
        return NULL;
    }
    if (state->announce) {
        state->announce = 0;
        return give(state, GIVEN_SECTION, out, room, "section=", 8);
    }
    while (state->cursor < state->end) {
        const char *begin = state->cursor;
        const char *newline = memchr(begin, '\n', (size_t)(state->end - begin));
        const char *end = newline == NULL ? state->end : newline;
        state->cursor = newline == NULL ? state->end : newline + 1;
        state->line++;
        if (end - begin > LINE_BYTES) {
            fail(state, state->line,
                 "the line is longer than 65536 bytes; continue long values on indented lines",
                 NULL);
            return NULL;
        }
        while (end > begin && is_blank(end[-1])) {
            end--;
        }
        const char *text = begin;
        while (text < end && is_blank(*text)) {
            text++;
        }
        if (text == end || *text == ';' || *text == '#') {
            continue;
        }
        if (text != begin) {
            return give_continuation(state, out, room, text, end);
        }
        return *text == '[' ? give_section(state, out, room, text, end)
                            : give_key(state, out, room, text, end);
    }
    return NULL;
}

static uint32_t line_of(const char *text, const char *at) {
    uint32_t line = 1;
    for (; text < at; text++) {
        line += *text == '\n';
    }
    return line;
}

/* The absolute folder of path. */
static pico_status note_folder(pico_config *config, const char *path, pico_error *err) {
    const char *slash = strrchr(path, '/');
    size_t n = slash == NULL ? 0 : slash == path ? 1 : (size_t)(slash - path);
    char *folder = pico_arena_strndup(config->arena, path, n);
    if (folder != NULL && n == 0) {
        config->file_folder = config->cwd;
        return PICO_OK;
    }
    config->file_folder =
        folder == NULL ? NULL : pico_config_absolute(config, PICO_SOURCE_COMMAND_LINE, folder);
    return config->file_folder == NULL ? pico_fail(err, PICO_E_NOMEM, "%s: out of memory", path)
                                       : PICO_OK;
}

pico_status pico_config_read_text(pico_config *config, const char *path, const char *text, size_t n,
                                  pico_error *err) {
    size_t kept = config->n_entries;
    if (config->has_file) {
        return pico_fail(err, PICO_E_INVALID,
                         "%s: a configuration file was already read; only one is possible", path);
    }
    if (n > FILE_BYTES) {
        return pico_fail(err, PICO_E_LIMIT, "%s: larger than %d bytes", path, FILE_BYTES);
    }
    const char *nul = n == 0 ? NULL : memchr(text, '\0', n);
    if (nul != NULL) {
        return pico_fail(err, PICO_E_INVALID, "%s:%u: has a NUL byte; this is not a text file",
                         path, line_of(text, nul));
    }
    pico_status status = note_folder(config, path, err);
    if (status != PICO_OK) {
        return status;
    }
    ini_state state = {.config = config, .path = path, .handled = 1, .err = err};
    state.cursor = n >= 3 && memcmp(text, "\xef\xbb\xbf", 3) == 0 ? text + 3 : text;
    state.end = text + n;
    int result = ini_parse_stream(next_line, &state, on_pair, &state);
    if (result != 0) {
        fail(&state, state.line, "expected key = value or [section]", NULL);
    }
    finish_value(&state);
    free(state.value);
    if (state.status != PICO_OK) {
        config->n_entries = kept;
        config->file_folder = NULL;
        return pico_config_one_line(state.status, err);
    }
    config->has_file = 1;
    return PICO_OK;
}

pico_status pico_config_read_file(pico_config *config, const char *path, pico_error *err) {
    char *text = NULL;
    uint64_t size = 0;
    pico_status status = pico_file_read(path, FILE_BYTES, &text, &size, err);
    if (status == PICO_OK) {
        status = pico_config_read_text(config, path, text, (size_t)size, err);
    }
    free(text);
    return status;
}
