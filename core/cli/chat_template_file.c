/*
 * A template from a file; see chat_template.h. The reader of configurations reads it, so that it has
 * the same syntax and the same messages; only the escapes are this file's own.
 */
#include <stddef.h>
#include <string.h>

#include "cli/chat_template.h"
#include "config/config.h"
#include "config/value.h"

#define SECTION "template"

/* What the section binds to, before the escapes are undone. */
typedef struct raw_template {
    const char *begin, *stop;
    const char *system_before, *system_after;
    const char *user_before, *user_after;
    const char *answer_before, *answer_after;
    const char *python_before, *python_after;
    const char *output_before, *output_after;
    uint32_t system_in_user;
} raw_template;

#define TEXT(key, ...)                                                                             \
    { .name = #key, .type = PICO_OPT_STRING, .offset = offsetof(raw_template, key), __VA_ARGS__ }

/* clang-format off */
static const pico_option options[] = {
    TEXT(begin, .def = NULL),
    TEXT(system_before, .def = ""),
    TEXT(system_after, .def = "\\n\\n"),
    TEXT(user_before, .flags = PICO_OPTF_REQUIRED, .help = "what stands before a user's text"),
    TEXT(user_after, .flags = PICO_OPTF_REQUIRED, .help = "what stands after a user's text"),
    TEXT(answer_before, .flags = PICO_OPTF_REQUIRED, .help = "what the model continues"),
    TEXT(answer_after, .flags = PICO_OPTF_REQUIRED, .help = "what stands after an answer"),
    TEXT(python_before, .def = NULL),
    TEXT(python_after, .def = NULL),
    TEXT(output_before, .def = NULL),
    TEXT(output_after, .def = NULL),
    TEXT(stop, .def = NULL),
    {.name = "system_in_user", .type = PICO_OPT_BOOL, .def = "off",
     .offset = offsetof(raw_template, system_in_user)}};
/* clang-format on */

enum { N_OPTIONS = sizeof options / sizeof *options };

typedef struct reader {
    const char *path;
    const pico_config *config;
    pico_arena *arena;
    pico_chat_template *out;
    pico_status status;
    pico_error *err;
} reader;

/* text[0..n) without its escapes, in the arena. */
static const char *unescape(reader *r, const char *origin, const char *key, const char *text,
                            size_t n) {
    static const char letters[] = "nts\\", meanings[] = "\n\t \\";
    char *out = pico_arena_alloc(r->arena, n + 1, 1), *to = out;
    if (out == NULL) {
        r->status = pico_fail(r->err, PICO_E_NOMEM, "out of memory for a chat template");
        return NULL;
    }
    for (size_t i = 0; i < n; i++) {
        const char *which = NULL;
        if (text[i] == '\\') {
            which = i + 1 < n ? memchr(letters, text[i + 1], sizeof letters - 1) : NULL;
            if (which == NULL) {
                char quoted[PICO_QUOTE_BYTES];
                r->status = pico_fail(r->err, PICO_E_INVALID,
                                      "%s: [" SECTION "] %s: there is no escape as in \"%s\"; they "
                                      "are \\n, \\t, \\s (a blank) and \\\\",
                                      origin, key, pico_value_quote(text + i, quoted));
                return NULL;
            }
            i++;
        }
        *to++ = which == NULL ? text[i] : meanings[which - letters];
    }
    return out;
}

/* One stop string a line. */
static void read_stops(reader *r, const char *origin, const char *text) {
    while (r->status == PICO_OK && *text != '\0') {
        size_t n = strcspn(text, "\n");
        if (n != 0 && r->out->n_stop == PICO_CHAT_STOPS) {
            r->status =
                pico_fail(r->err, PICO_E_LIMIT, "%s: [" SECTION "] stop: more than %d texts",
                          origin, PICO_CHAT_STOPS);
        } else if (n != 0) {
            r->out->stop[r->out->n_stop++] = unescape(r, origin, "stop", text, n);
        }
        text += n + (text[n] == '\n');
    }
}

/* Called for every option with its value. */
static void take(void *arg, const char *section, const pico_option *option, const char *value,
                 const char *origin) {
    reader *r = arg;
    pico_chat_template *t = r->out;
    const struct {
        const char *key;
        const char **field;
    } fields[] = {{"begin", &t->begin},
                  {"system_before", &t->system_before},
                  {"system_after", &t->system_after},
                  {"user_before", &t->user_before},
                  {"user_after", &t->user_after},
                  {"answer_before", &t->answer_before},
                  {"answer_after", &t->answer_after},
                  {"python_before", &t->python_before},
                  {"python_after", &t->python_after},
                  {"output_before", &t->output_before},
                  {"output_after", &t->output_after}};
    (void)section;
    if (value == NULL || r->status != PICO_OK) {
        return;
    }
    if (strcmp(option->name, "stop") == 0) {
        read_stops(r, origin, value);
    }
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
        if (strcmp(option->name, fields[i].key) == 0) {
            *fields[i].field = unescape(r, origin, option->name, value, strlen(value));
        }
    }
}

static pico_status read_section(reader *r, pico_error *err) {
    raw_template raw;
    pico_error inner = {0};
    const char *other = pico_config_other_section(r->config, SECTION);
    if (other != NULL) {
        return pico_fail(err, PICO_E_INVALID,
                         "%s: a chat template has one section, [" SECTION "], not [%s]",
                         pico_config_section_origin(r->config, other), other);
    }
    pico_status status = pico_config_bind(r->config, SECTION, options, N_OPTIONS, sizeof *options,
                                          &raw, sizeof raw, &inner);
    if (status != PICO_OK) { /* a key that is missing is in no line */
        int has_path = strncmp(inner.message, r->path, strlen(r->path)) == 0;
        return pico_fail(err, status, "%s%s%s", has_path ? "" : r->path, has_path ? "" : ": ",
                         inner.message);
    }
    r->out->system_in_user = raw.system_in_user;
    pico_config_each_option(r->config, SECTION, options, N_OPTIONS, sizeof *options, take, r);
    const pico_chat_template *t = r->out;
    int n_tool = (t->python_before != NULL) + (t->python_after != NULL) +
                 (t->output_before != NULL) + (t->output_after != NULL);
    if (r->status == PICO_OK && n_tool != 0 && n_tool != 4) {
        return pico_fail(err, PICO_E_INVALID,
                         "%s: [" SECTION "] needs all of python_before, python_after, "
                         "output_before and output_after, or none",
                         r->path);
    }
    return r->status;
}

pico_status pico_chat_template_read(const char *path, pico_arena *arena, pico_chat_template *out,
                                    pico_error *err) {
    pico_config *config = NULL;
    *out = (pico_chat_template){.name = pico_arena_strdup(arena, path)};
    pico_status status = out->name == NULL
                             ? pico_fail(err, PICO_E_NOMEM, "out of memory for a chat template")
                             : pico_config_open(&config, err);
    if (status == PICO_OK) {
        status = pico_config_read_file(config, path, err);
    }
    if (status == PICO_OK) {
        reader r = {.path = path, .config = config, .arena = arena, .out = out, .err = err};
        status = read_section(&r, err);
    }
    pico_config_close(config);
    return status;
}
