/*
 * The tensors of a checkpoint as a table sorted by name, and what nanochat calls a tensor that has a
 * canonical name. Two tensors of one name, and scales without a tensor, are refused.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "formats/nanochat.h"

static const char compiled[] = "_orig_mod."; /* left in front of names by torch.compile */

static int compare_names(const void *a, const void *b) {
    const pico_nanochat_entry *x = a;
    const pico_nanochat_entry *y = b;
    return strcmp(x->name, y->name);
}

/* A key of a dict as a name. */
static pico_status name_of_key(const pico_pickle_value *key, pico_arena *arena, const char **out,
                               pico_error *err) {
    enum { MAX_NAME = 200 };
    if (key->kind != PICO_PICKLE_TEXT || key->n > MAX_NAME || key->n == 0 ||
        memchr(key->text, '\0', (size_t)key->n) != NULL) {
        return pico_fail(err, PICO_E_CORRUPT,
                         "the name of a tensor is %s of %llu bytes, expected a text of 1 to %d",
                         pico_pickle_kind(key), (unsigned long long)key->n, MAX_NAME);
    }
    const char *name = pico_arena_strndup(arena, key->text, (size_t)key->n);
    if (name == NULL) {
        return pico_fail(err, PICO_E_NOMEM, "out of memory");
    }
    *out = strncmp(name, compiled, sizeof compiled - 1) == 0 ? name + sizeof compiled - 1 : name;
    return PICO_OK;
}

pico_nanochat_entry *pico_nanochat_find_entry(const pico_nanochat_table *table, const char *name) {
    pico_nanochat_entry wanted = {.name = name};
    return table->n == 0
               ? NULL
               : bsearch(&wanted, table->entry, (size_t)table->n, sizeof wanted, compare_names);
}

const pico_nanochat_entry *pico_nanochat_match_entry(const pico_nanochat_table *table,
                                                     const char *begin, const char *end) {
    for (uint64_t i = 0; i < table->n; i++) {
        const char *name = table->entry[i].name;
        size_t n = strlen(name), n_end = strlen(end);
        if (n >= n_end && strncmp(name, begin, strlen(begin)) == 0 &&
            strcmp(name + n - n_end, end) == 0) {
            return &table->entry[i];
        }
    }
    return NULL;
}

/* ---- building ---- */

static pico_status add_scales(const pico_pickle_value *scales, pico_arena *arena,
                              const pico_nanochat_table *table, pico_error *err) {
    if (scales->kind != PICO_PICKLE_DICT) {
        return pico_fail(err, PICO_E_CORRUPT, "key scales: expected a dict, found %s",
                         pico_pickle_kind(scales));
    }
    for (uint64_t i = 0; i < scales->n; i += 2) {
        const pico_pickle_value *value = scales->item[i + 1];
        const char *name = NULL;
        pico_status status = name_of_key(scales->item[i], arena, &name, err);
        if (status != PICO_OK) {
            return status;
        }
        pico_nanochat_entry *entry = pico_nanochat_find_entry(table, name);
        if (entry == NULL) {
            return pico_fail(err, PICO_E_CORRUPT, "key scales: there is no tensor %s", name);
        }
        if (value->kind != PICO_PICKLE_REAL || !isfinite((float)value->real)) {
            return pico_fail(err, PICO_E_CORRUPT, "key scales: %s is %s, expected a finite number",
                             name, pico_pickle_kind(value));
        }
        entry->scale = value->real;
        entry->has_scale = 1;
    }
    return PICO_OK;
}

pico_status pico_nanochat_table_build(const pico_pickle_value *weights,
                                      const pico_pickle_value *scales, pico_arena *arena,
                                      pico_nanochat_table *out, pico_error *err) {
    *out = (pico_nanochat_table){0};
    if (weights->kind != PICO_PICKLE_DICT) {
        return pico_fail(err, PICO_E_UNSUPPORTED,
                         "the file holds %s, expected the dict of tensors of a nanochat checkpoint",
                         pico_pickle_kind(weights));
    }
    uint64_t n = weights->n / 2;
    out->entry = pico_arena_alloc(arena, (size_t)n, sizeof *out->entry);
    pico_status status =
        out->entry == NULL ? pico_fail(err, PICO_E_NOMEM, "out of memory") : PICO_OK;
    for (uint64_t i = 0; status == PICO_OK && i < n; i++) {
        pico_nanochat_entry *entry = &out->entry[i];
        status = name_of_key(weights->item[2 * i], arena, &entry->name, err);
        if (status == PICO_OK) {
            status =
                pico_torch_describe(entry->name, weights->item[2 * i + 1], &entry->tensor, err);
        }
    }
    if (status != PICO_OK) {
        return status;
    }
    out->n = n;
    qsort(out->entry, (size_t)n, sizeof *out->entry, compare_names);
    for (uint64_t i = 1; i < n; i++) {
        if (strcmp(out->entry[i - 1].name, out->entry[i].name) == 0) {
            return pico_fail(err, PICO_E_CORRUPT, "tensor %s exists twice", out->entry[i].name);
        }
    }
    return scales == NULL ? PICO_OK : add_scales(scales, arena, out, err);
}

/* ---- names ---- */

/* Of a layer: the part behind its number. */
static const char *layer_part(const char *part) {
    static const char *const names[][2] = {
        {"attn_q.weight", "attn.c_q.weight"},         {"attn_k.weight", "attn.c_k.weight"},
        {"attn_v.weight", "attn.c_v.weight"},         {"attn_output.weight", "attn.c_proj.weight"},
        {"value_gate.weight", "attn.ve_gate.weight"}, {"ffn_up.weight", "mlp.c_fc.weight"},
        {"ffn_down.weight", "mlp.c_proj.weight"},
    };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (strcmp(part, names[i][0]) == 0) {
            return names[i][1];
        }
    }
    return part;
}

const char *pico_nanochat_name_of(pico_nanochat_name *out, const char *canonical) {
    static const char *const names[][2] = {
        {"token_embd.weight", "transformer.wte.weight"},
        {"output.weight", "lm_head.weight"},
        {"resid_lambdas.weight", "resid_lambdas"},
        {"x0_lambdas.weight", "x0_lambdas"},
        {"smear_lambda.weight", "smear_lambda"},
        {"backout_lambda.weight", "backout_lambda"},
        {"draft_fc1.weight", "draft_head.fc1.weight"},
        {"draft_fc2.weight", "draft_head.fc2.weight"},
    };
    unsigned number = 0;
    int at = 0;
    (void)snprintf(out->text, sizeof out->text, "%s", canonical);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (strcmp(canonical, names[i][0]) == 0) {
            (void)snprintf(out->text, sizeof out->text, "%s", names[i][1]);
        }
    }
    if (sscanf(canonical, "blk.%u.%n", &number, &at) == 1 && at > 0) {
        if (strcmp(canonical + at, "value_embd.weight") == 0) {
            (void)snprintf(out->text, sizeof out->text, "value_embeds.%u.weight", number);
        } else {
            (void)snprintf(out->text, sizeof out->text, "transformer.h.%u.%.40s", number,
                           layer_part(canonical + at));
        }
    } else if (sscanf(canonical, "mtp.%u.%n", &number, &at) == 1 && at > 0) {
        (void)snprintf(out->text, sizeof out->text, "multi_token_heads.head_%u.weight", number + 2);
    }
    return out->text;
}
