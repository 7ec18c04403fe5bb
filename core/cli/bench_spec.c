/* Comparing decoders that draft; see bench_spec.h. */
#include "cli/bench_spec.h"

#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cli/load.h"
#include "measure/spec.h"
#include "util/file.h"

enum { MOST_DECODERS = 16, MOST_GAMMAS = 40, PROMPT_BYTES = 1 << 24, RANDOM_TOKENS = 16 };

static const char default_prompt[] = "Once upon a time";

typedef struct spec_state {
    const pico_cli *cli;
    pico_runtime *runtime;
    pico_decode_params decode;
    pico_spec_params params;
    pico_instance plain, instance[MOST_DECODERS];
    pico_spec_decoder decoder[MOST_DECODERS + 1];
    char *names;
    uint32_t gamma[MOST_GAMMAS];
    int32_t *prompt;
    pico_spec_result *result;
    pico_error err;
} spec_state;

int pico_bench_wants_spec(const pico_cli *cli) {
    return pico_cli_has(cli, "--decoders") || pico_cli_has(cli, "--accept");
}

/* ---- what to compare ---- */

/* "1..8,auto" */
static pico_status read_gammas(spec_state *s) {
    const char *text = pico_cli_value(s->cli, "--gamma"), *at = text == NULL ? "1..4,8,auto" : text;
    while (*at != '\0') {
        char *end = NULL;
        long low = 0, high = 0;
        if (strncmp(at, "auto", 4) == 0) {
            end = (char *)(uintptr_t)at + 4;
        } else {
            low = high = strtol(at, &end, 10);
            if (end != at && strncmp(end, "..", 2) == 0) {
                char *begin = end + 2;
                high = strtol(begin, &end, 10);
                end = end == begin ? (char *)(uintptr_t)at : end;
            }
        }
        int is_auto = low == 0 && *at == 'a';
        if (end == at || (*end != ',' && *end != '\0') || high < low ||
            (!is_auto && (low < 1 || high > PICO_DRAFT_MAX)) ||
            s->params.n_gamma + (uint32_t)(high - low) >= MOST_GAMMAS) {
            return pico_fail(&s->err, PICO_E_INVALID,
                             "--gamma is a list of draft lengths from 1 to %d, ranges A..B and "
                             "auto, not '%s'",
                             PICO_DRAFT_MAX, text);
        }
        for (long g = low; g <= high; g++) {
            s->gamma[s->params.n_gamma++] = is_auto ? PICO_DRAFT_AUTO : (uint32_t)g;
        }
        at = *end == ',' ? end + 1 : end;
    }
    s->params.gamma = s->gamma;
    return PICO_OK;
}

/* A number from min to max; *out stays as it is if the option is absent. */
static pico_status read_number(spec_state *s, const char *name, double max, double *out) {
    const char *text = pico_cli_value(s->cli, name);
    char *end = NULL;
    if (text == NULL) {
        return PICO_OK;
    }
    double value = strtod(text, &end);
    if (end == text || *end != '\0' || !(value >= 0 && value <= max)) {
        return pico_fail(&s->err, PICO_E_INVALID, "%s is a number from 0 to %g, not '%s'", name,
                         max, text);
    }
    *out = value;
    return PICO_OK;
}

static pico_status open_decoders(spec_state *s, int *code) {
    const char *list = pico_cli_value(s->cli, "--decoders");
    char *save = NULL;
    uint32_t n = 0;
    *code = PICO_EXIT_MEMORY;
    s->names = strdup(list == NULL ? "" : list);
    if (s->names == NULL) {
        return pico_fail(&s->err, PICO_E_NOMEM, "out of memory");
    }
    pico_status status = pico_runtime_instance(s->runtime, PICO_KIND_DECODER, "greedy", "decoder",
                                               &s->plain, code, &s->err);
    for (char *name = strtok_r(s->names, ",", &save); status == PICO_OK && name != NULL;
         name = strtok_r(NULL, ",", &save)) {
        if (strcmp(name, "greedy") == 0) {
            continue; /* what the others are compared with */
        }
        if (n == MOST_DECODERS) {
            *code = PICO_EXIT_USAGE;
            return pico_fail(&s->err, PICO_E_LIMIT, "more than %d decoders", MOST_DECODERS);
        }
        status = pico_runtime_instance(s->runtime, PICO_KIND_DECODER, name, "decoder",
                                       &s->instance[n], code, &s->err);
        if (status == PICO_OK) {
            s->decoder[n] = (pico_spec_decoder){.name = s->instance[n].loaded->plugin.name,
                                                .ops = &s->instance[n].loaded->ops.decoder,
                                                .self = s->instance[n].self};
            n++;
        }
    }
    if (pico_cli_has(s->cli, "--accept")) {
        s->decoder[n++] = (pico_spec_decoder){.name = "scripted"};
    }
    if (status == PICO_OK && n == 0) {
        *code = PICO_EXIT_USAGE;
        status = pico_fail(&s->err, PICO_E_INVALID,
                           "--decoders names no decoder but greedy, with which the others are "
                           "compared");
    }
    s->params.decoder = s->decoder;
    s->params.n_decoder = n;
    s->params.plain = status == PICO_OK ? &s->plain.loaded->ops.decoder : NULL;
    s->params.plain_self = s->plain.self;
    return status;
}

/* --prompt-file, else some words, else, without a tokenizer, random tokens. */
static pico_status read_prompt(spec_state *s) {
    const char *path = pico_cli_value(s->cli, "--prompt-file");
    const pico_tokenizer *tokenizer = s->runtime->tokenizer;
    const uint32_t n_vocab = pico_model_describe(s->runtime->model)->n_vocab;
    char *text = NULL;
    uint64_t n = sizeof default_prompt - 1;
    size_t n_ids = 0;
    if (tokenizer == NULL) {
        const pico_random_key key = {.seed = 1, .purpose = PICO_RANDOM_PLUGIN};
        if (path != NULL) {
            return pico_fail(&s->err, PICO_E_INVALID,
                             "--prompt-file needs a model with a tokenizer");
        }
        s->prompt = calloc(RANDOM_TOKENS, sizeof *s->prompt);
        for (uint32_t i = 0; s->prompt != NULL && i < RANDOM_TOKENS; i++) {
            s->prompt[i] = (int32_t)(pico_random_u64(&key, i) % n_vocab);
        }
        s->params.n_prompt = RANDOM_TOKENS;
        return s->prompt == NULL ? pico_fail(&s->err, PICO_E_NOMEM, "out of memory") : PICO_OK;
    }
    pico_status status =
        path == NULL ? PICO_OK : pico_file_read(path, PROMPT_BYTES, &text, &n, &s->err);
    if (status == PICO_OK) {
        uint32_t flags = pico_tokenizer_adds_bos(tokenizer) ? (uint32_t)PICO_ENCODE_BOS : 0u;
        status = pico_tokenizer_encode(tokenizer, text == NULL ? default_prompt : text, (size_t)n,
                                       flags, &s->prompt, &n_ids, &s->err);
    }
    if (status == PICO_OK && (n_ids == 0 || n_ids > PICO_MAX_CONTEXT / 2)) {
        status = pico_fail(&s->err, PICO_E_INVALID, "the prompt has %zu tokens", n_ids);
    }
    s->params.n_prompt = (uint32_t)n_ids;
    free(text);
    return status;
}

/* ---- output ---- */

static json_t *number(double value) {
    return isfinite(value) ? json_real(value) : json_null();
}

static json_t *json_row(const pico_spec_row *row) {
    char gamma[16];
    return json_pack("{s:s, s:s, s:f, s:f, s:f, s:f, s:f, s:f, s:o, s:o, s:f, s:f}", "decoder",
                     row->decoder, "gamma", pico_spec_gamma_text(row->gamma, gamma),
                     "plain_tokens_per_s", row->plain.mean, "plain_sd", row->plain.sd,
                     "tokens_per_s", row->speculative.mean, "sd", row->speculative.sd, "speedup",
                     row->speedup.mean, "speedup_sd", row->speedup.sd, "predicted",
                     number(row->predicted), "acceptance", number(row->acceptance),
                     "tokens_per_round", row->tokens_per_round, "draft_share", row->draft_share);
}

static int print_json(const spec_state *s) {
    json_t *rows = json_array(), *v = json_array();
    for (uint32_t i = 0; i < s->result->n_row; i++) {
        (void)json_array_append_new(rows, json_row(&s->result->row[i]));
    }
    for (uint32_t i = 0; i < s->result->n_v; i++) {
        (void)json_array_append_new(v, json_pack("{s:i, s:f}", "rows", (int)s->result->v_rows[i],
                                                 "ratio", s->result->v[i]));
    }
    json_t *root = json_pack("{s:f, s:f, s:i, s:i, s:o, s:o}", "accept", s->params.accept,
                             "draft_cost", s->params.draft_cost, "tokens", (int)s->params.n_new,
                             "repeats", (int)s->params.repeats, "v", v, "rows", rows);
    int failed = root == NULL || json_dumpf(root, stdout, JSON_INDENT(2)) != 0;
    (void)putchar('\n');
    json_decref(root);
    return failed && !ferror(stdout)
               ? pico_cli_fail(s->cli, PICO_EXIT_RUNTIME, "the JSON text cannot be made")
               : PICO_EXIT_OK;
}

/* ---- together ---- */

static int measure(spec_state *s, const char *format) {
    int code = PICO_EXIT_OK;
    pico_status status = open_decoders(s, &code);
    if (status != PICO_OK) {
        return pico_cli_fail(s->cli, code, "%s", s->err.message);
    }
    status = read_prompt(s);
    if (status == PICO_OK) {
        status = pico_runtime_decode_params(
            s->runtime, 1, (uint64_t)s->params.n_prompt + s->params.n_new + 1, &s->decode, &s->err);
    }
    s->params.host = &s->runtime->host;
    s->params.decode = &s->decode;
    s->params.prompt = s->prompt;
    s->result = malloc(sizeof *s->result);
    if (s->result == NULL) {
        return pico_cli_fail(s->cli, PICO_EXIT_MEMORY, "out of memory");
    }
    if (status == PICO_OK) {
        status = pico_spec_run(s->runtime->model, &s->params, s->result, &s->err);
    }
    if (status != PICO_OK) {
        return pico_cli_fail_error(s->cli, &s->err);
    }
    if (strcmp(format, "json") == 0) {
        return print_json(s);
    }
    if (strcmp(format, "csv") == 0) {
        pico_spec_print_csv(s->result, stdout);
    } else {
        pico_spec_print_md(&s->params, s->result, stdout);
    }
    return PICO_EXIT_OK;
}

int pico_bench_spec(const pico_cli *cli, pico_runtime *runtime, const char *format, uint32_t n_new,
                    uint32_t repeats) {
    spec_state s = {.cli = cli,
                    .runtime = runtime,
                    .params = {.n_new = n_new, .repeats = repeats, .accept = 0, .seed = 1}};
    pico_status status = read_gammas(&s);
    if (status == PICO_OK) {
        status = read_number(&s, "--accept", 1, &s.params.accept);
    }
    if (status == PICO_OK) {
        status = read_number(&s, "--draft-cost", 100, &s.params.draft_cost);
    }
    int code = status == PICO_OK ? measure(&s, format) : pico_cli_usage(cli, "%s", s.err.message);
    free(s.names);
    free(s.prompt);
    free(s.result);
    return code;
}
