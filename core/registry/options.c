/*
 * Checking an option table: after this, binding cannot write outside the plugin's struct, and every
 * default is a valid value.
 */
#include <math.h>
#include <string.h>

#include "config/value.h"
#include "registry/check.h"

enum { MAX_CHOICES = 256 };

/* What is wrong with one option, or NULL. size and alignment of its field go to *field. */
static const char *find_fault(const pico_option *option, uint32_t options_bytes, uint32_t *field) {
    static const uint32_t sizes[] = {0, 4, 8, 8, sizeof(char *), sizeof(char *), 4};
    static const char allowed[] = "abcdefghijklmnopqrstuvwxyz0123456789_";
    size_t n = option->name == NULL ? 0 : strnlen(option->name, 49);
    if (n == 0 || n > 48 || strspn(option->name, allowed) != n) {
        return "expected a name of at most 48 lower-case letters, digits and underscores";
    }
    if (option->type < PICO_OPT_BOOL || option->type > PICO_OPT_ENUM) {
        return "its type is none of PICO_OPT_x";
    }
    *field = sizes[option->type];
    if (option->offset > options_bytes || options_bytes - option->offset < *field) {
        return "its field lies outside the struct of options_bytes; use offsetof and sizeof";
    }
    if (option->offset % *field != 0) {
        return "its offset is not aligned for the type; use offsetof";
    }
    if ((option->flags & ~(uint32_t)(PICO_OPTF_REQUIRED | PICO_OPTF_AUTO)) != 0) {
        return "it has flags that this ABI version does not know";
    }
    if ((option->flags & PICO_OPTF_AUTO) != 0 && option->type != PICO_OPT_INT &&
        option->type != PICO_OPT_FLOAT) {
        return "PICO_OPTF_AUTO is for INT and FLOAT only";
    }
    if ((option->flags & PICO_OPTF_REQUIRED) != 0 && option->def != NULL) {
        return "it is required and has a default; choose one";
    }
    if (!isfinite(option->min) || !isfinite(option->max) || option->min > option->max) {
        return "its limits are not min <= max";
    }
    if (option->type == PICO_OPT_ENUM) {
        size_t choices = 0;
        while (option->choices != NULL && choices < MAX_CHOICES &&
               option->choices[choices] != NULL) {
            choices++;
        }
        if (choices == 0 || choices == MAX_CHOICES) {
            return "an ENUM needs choices, a NULL-terminated list of words";
        }
    }
    return NULL;
}

static pico_status fail_option(const char *path, const pico_plugin *plugin, uint32_t i,
                               const pico_option *option, const char *why, pico_error *err) {
    return pico_fail(err, PICO_E_ABI, "%s: %s '%s': option %u (%.48s): %s", path,
                     pico_kind_name(plugin->kind), plugin->name, i,
                     option->name == NULL ? "without a name" : option->name, why);
}

static const pico_option *option_at(const pico_plugin *plugin, uint32_t i) {
    const char *bytes = (const char *)plugin->options;
    return (const pico_option *)(const void *)(bytes + (size_t)i * plugin->option_size);
}

/* Checks option i against those before it, which passed; marks its bytes as used. */
static pico_status check_option(const char *path, const pico_plugin *plugin, uint32_t i,
                                unsigned char used[PICO_MAX_OPTIONS_BYTES], pico_error *err) {
    const pico_option *option = option_at(plugin, i);
    uint32_t field = 0;
    const char *fault = find_fault(option, plugin->options_bytes, &field);
    if (fault != NULL) {
        return fail_option(path, plugin, i, option, fault, err);
    }
    for (uint32_t j = 0; j < i; j++) {
        if (strcmp(option_at(plugin, j)->name, option->name) == 0) {
            return fail_option(path, plugin, i, option, "this name is declared twice", err);
        }
    }
    for (uint32_t byte = option->offset; byte < option->offset + field; byte++) {
        if (used[byte]) {
            return fail_option(path, plugin, i, option,
                               "its field overlaps another option's; use offsetof", err);
        }
        used[byte] = 1;
    }
    if (option->def != NULL) {
        char why[192], message[256];
        pico_value value;
        if (pico_value_parse(option, option->def, &value, why, sizeof why) != PICO_OK) {
            (void)snprintf(message, sizeof message, "its default '%.32s' is not valid: %s",
                           option->def, why);
            return fail_option(path, plugin, i, option, message, err);
        }
    }
    return PICO_OK;
}

pico_status pico_check_options(const char *path, const pico_plugin *plugin, pico_error *err) {
    const char *kind = pico_kind_name(plugin->kind);
    unsigned char used[PICO_MAX_OPTIONS_BYTES] = {0};
    if (plugin->options_bytes > PICO_MAX_OPTIONS_BYTES) {
        return pico_fail(err, PICO_E_ABI, "%s: %s '%s': options_bytes is %u; expected at most %d",
                         path, kind, plugin->name, plugin->options_bytes, PICO_MAX_OPTIONS_BYTES);
    }
    if (plugin->n_options == 0 && (plugin->options != NULL || plugin->options_bytes != 0)) {
        return pico_fail(err, PICO_E_ABI,
                         "%s: %s '%s': %s, but n_options is 0, so that nothing would be bound; "
                         "set n_options to the number of options",
                         path, kind, plugin->name,
                         plugin->options != NULL ? "there is a table of options"
                                                 : "options_bytes is not 0");
    }
    if (plugin->n_options == 0) {
        return PICO_OK;
    }
    if (plugin->options == NULL || plugin->n_options > PICO_MAX_OPTIONS) {
        return pico_fail(err, PICO_E_ABI,
                         "%s: %s '%s': n_options is %u; expected a table of at most %d options",
                         path, kind, plugin->name, plugin->n_options, PICO_MAX_OPTIONS);
    }
    if (plugin->option_size < sizeof(pico_option) || plugin->option_size % sizeof(void *) != 0) {
        return pico_fail(err, PICO_E_ABI,
                         "%s: %s '%s': option_size is %u; set it to sizeof(pico_option), %zu", path,
                         kind, plugin->name, plugin->option_size, sizeof(pico_option));
    }
    pico_status status = PICO_OK;
    for (uint32_t i = 0; i < plugin->n_options && status == PICO_OK; i++) {
        status = check_option(path, plugin, i, used, err);
    }
    return status;
}
