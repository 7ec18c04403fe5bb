/*
 * Which matrices a stage is about, by the patterns of its options, and which activations are the
 * input of each. Names are the canonical ones. Lists of patterns are separated by commas or blanks.
 */
#include <fnmatch.h>
#include <stdio.h>
#include <string.h>

#include "int4.h"

const char int4_keep_default[] =
    "token_embd.weight position_embd.weight output.weight *.value_embd.weight *.value_gate.weight "
    "mtp.*.weight draft_*.weight";

enum { PATTERN_MAX = 128 };

/* The next pattern of a list; *at moves behind it. 0: there is none. Longer ones are cut, and then
 * match nothing, which int4_check_patterns reports. */
static int next_pattern(const char **at, char out[PATTERN_MAX]) {
    const char *begin = *at + strspn(*at, ", \t");
    const size_t n = strcspn(begin, ", \t");
    (void)snprintf(out, PATTERN_MAX, "%.*s", (int)(n < PATTERN_MAX ? n : PATTERN_MAX - 1), begin);
    *at = begin + n;
    return n != 0;
}

static int matches_list(const char *list, const char *name) {
    char pattern[PATTERN_MAX];
    while (next_pattern(&list, pattern)) {
        if (fnmatch(pattern, name, 0) == 0) {
            return 1;
        }
    }
    return 0;
}

int int4_selects(const int4_options *options, const char *name) {
    const int keeps = strcmp(options->keep, "none") != 0 && matches_list(options->keep, name);
    return !keeps && matches_list(options->only, name);
}

/* A pattern of the default list need not match: not every model has what it names. */
static int is_default(const char *pattern) {
    char other[PATTERN_MAX];
    for (const char *list = int4_keep_default; next_pattern(&list, other);) {
        if (strcmp(pattern, other) == 0) {
            return 1;
        }
    }
    return 0;
}

pico_status int4_check_patterns(const int4_options *options, const pico_tensor_info *tensors,
                                uint32_t n, pico_error *err) {
    const struct {
        const char *key, *list;
    } lists[] = {{"only", options->only}, {"keep", options->keep}};
    for (size_t k = 0; k < 2; k++) {
        char pattern[PATTERN_MAX];
        for (const char *list = lists[k].list; next_pattern(&list, pattern);) {
            uint32_t i = 0;
            while (i < n && fnmatch(pattern, tensors[i].name, 0) != 0) {
                i++;
            }
            if (i == n && !is_default(pattern) && strcmp(lists[k].list, "none") != 0) {
                return pico_fail(err, PICO_E_INVALID,
                                 "%s = %s matches no tensor of this model; `picochat inspect -m "
                                 "MODEL` lists their names",
                                 lists[k].key, pattern);
            }
        }
    }
    return PICO_OK;
}

/* ---- inputs ---- */

static const struct {
    const char *name;
    uint32_t kind;
} fed_by[] = {{"attn_q.weight", INPUT_ATTN_NORM},     {"attn_k.weight", INPUT_ATTN_NORM},
              {"attn_v.weight", INPUT_ATTN_NORM},     {"value_gate.weight", INPUT_ATTN_NORM},
              {"attn_output.weight", INPUT_ATTENDED}, {"ffn_gate.weight", INPUT_FFN_NORM},
              {"ffn_up.weight", INPUT_FFN_NORM},      {"ffn_down.weight", INPUT_FFN_INNER}};
enum { N_FED = sizeof fed_by / sizeof *fed_by };

uint32_t int4_input_of(const pico_model_desc *model, const char *name) {
    uint32_t layer;
    int n = 0;
    if (strcmp(name, "output.weight") == 0 || strcmp(name, "draft_fc1.weight") == 0 ||
        strncmp(name, "mtp.", 4) == 0) {
        return model->n_layer * INPUT_KINDS;
    }
    if (sscanf(name, "blk.%u.%n", &layer, &n) != 1 || n == 0 || layer >= model->n_layer) {
        return INPUT_NONE;
    }
    for (size_t i = 0; i < N_FED; i++) {
        if (strcmp(name + n, fed_by[i].name) == 0) {
            return layer * INPUT_KINDS + fed_by[i].kind;
        }
    }
    return INPUT_NONE;
}

int int4_wants_input(const int4_options *options, const pico_model_desc *model, uint32_t input) {
    char name[48];
    if (input == model->n_layer * INPUT_KINDS) {
        int wanted = int4_selects(options, "output.weight") && !(model->flags & PICO_TIED_HEAD);
        wanted |= model->n_draft != 0 && int4_selects(options, "draft_fc1.weight");
        for (uint32_t k = 0; k < model->n_mtp_head; k++) {
            (void)snprintf(name, sizeof name, "mtp.%u.weight", k);
            wanted |= int4_selects(options, name);
        }
        return wanted;
    }
    for (size_t i = 0; i < N_FED; i++) {
        (void)snprintf(name, sizeof name, "blk.%u.%s", input / INPUT_KINDS, fed_by[i].name);
        if (fed_by[i].kind == input % INPUT_KINDS && int4_selects(options, name)) {
            return 1;
        }
    }
    return 0;
}
