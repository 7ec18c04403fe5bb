/*
 * Loading the inner backend: a small part of what the host's registry does, because a plugin sees
 * nothing of the host but plugin.h. Options get their defaults; INT, FLOAT, BOOL, ENUM and STRING
 * can be set.
 */
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

#include "deferred.h"

static pico_status put(const pico_option *o, const char *value, void *bound, pico_error *err) {
    char *field = (char *)bound + o->offset;
    if (value == NULL) {
        return PICO_OK;
    }
    if (o->type == PICO_OPT_INT) {
        int64_t n = strcmp(value, "auto") == 0 ? -1 : (int64_t)strtoll(value, NULL, 10);
        memcpy(field, &n, sizeof n);
    } else if (o->type == PICO_OPT_FLOAT) {
        double x = strcmp(value, "auto") == 0 ? -1 : strtod(value, NULL);
        memcpy(field, &x, sizeof x);
    } else if (o->type == PICO_OPT_BOOL) {
        uint32_t on = strcmp(value, "on") == 0 || strcmp(value, "1") == 0;
        memcpy(field, &on, sizeof on);
    } else if (o->type == PICO_OPT_ENUM) {
        uint32_t i = 0;
        while (o->choices[i] != NULL && strcmp(o->choices[i], value) != 0) {
            i++;
        }
        if (o->choices[i] == NULL) {
            return pico_fail(err, PICO_E_INVALID, "backend deferred: %s = %s is no choice", o->name,
                             value);
        }
        memcpy(field, &i, sizeof i);
    } else {
        memcpy(field, &value, sizeof value);
    }
    return PICO_OK;
}

static const pico_option *option_at(const pico_plugin *plugin, uint32_t i) {
    return (const void *)((const char *)plugin->options + (size_t)i * plugin->option_size);
}

/* Defaults, then "key=value,key=value". */
static pico_status bind(deferred *d, const char *set, pico_error *err) {
    const pico_plugin *plugin = d->plugin;
    pico_status status = PICO_OK;
    for (uint32_t i = 0; status == PICO_OK && i < plugin->n_options; i++) {
        status = put(option_at(plugin, i), option_at(plugin, i)->def, d->bound, err);
    }
    while (status == PICO_OK && set != NULL && *set != '\0') {
        char pair[256];
        size_t n = strcspn(set, ","), key = strcspn(set, "=");
        uint32_t i = 0;
        if (n >= sizeof pair || key >= n) {
            return pico_fail(err, PICO_E_INVALID, "backend deferred: inner_set wants key=value");
        }
        memcpy(pair, set, n);
        pair[n] = pair[key] = '\0';
        while (i < plugin->n_options && strcmp(option_at(plugin, i)->name, pair) != 0) {
            i++;
        }
        if (i < plugin->n_options && (option_at(plugin, i)->type == PICO_OPT_STRING ||
                                      option_at(plugin, i)->type == PICO_OPT_PATH)) {
            return pico_fail(err, PICO_E_UNSUPPORTED, "backend deferred: %s is a text", pair);
        }
        status = i == plugin->n_options
                     ? pico_fail(err, PICO_E_INVALID, "backend deferred: %s has no option %s",
                                 plugin->name, pair)
                     : put(option_at(plugin, i), pair + key + 1, d->bound, err);
        set += n + (set[n] == ',');
    }
    return status;
}

static pico_status find(deferred *d, const char *path, pico_error *err) {
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (library == NULL) {
        return pico_fail(err, PICO_E_NOT_FOUND, "backend deferred: inner: %s", dlerror());
    }
    union { /* ISO C has no cast from void * to a function */
        void *object;
        const pico_plugin *(*query)(uint32_t);
    } symbol = {.object = dlsym(library, "pico_plugin_query")};
    for (uint32_t i = 0; symbol.object != NULL && d->plugin == NULL; i++) {
        const pico_plugin *plugin = symbol.query(i);
        if (plugin == NULL) {
            break;
        }
        d->plugin = plugin->kind == PICO_KIND_BACKEND ? plugin : NULL;
    }
    if (d->plugin == NULL || d->plugin->magic != PICO_PLUGIN_MAGIC ||
        d->plugin->abi_major != PICO_ABI_MAJOR) {
        return pico_fail(err, PICO_E_ABI, "backend deferred: %s holds no backend of ABI %u", path,
                         PICO_ABI_MAJOR);
    }
    const pico_backend_ops *ops = d->plugin->ops;
    memcpy(&d->inner, ops, ops->struct_size < sizeof d->inner ? ops->struct_size : sizeof d->inner);
    return PICO_OK;
}

pico_status inner_open(deferred *d, const char *path, const char *set, pico_error *err) {
    pico_status status = find(d, path, err);
    if (status != PICO_OK) {
        return status;
    }
    d->bound = calloc(1, d->plugin->options_bytes + 1u);
    if (d->bound == NULL) {
        return pico_fail(err, PICO_E_NOMEM, "backend deferred: out of memory");
    }
    status = bind(d, set, err);
    return status == PICO_OK ? d->plugin->create(d->host, d->bound, &d->inner_self, err) : status;
}

void inner_close(deferred *d) {
    if (d->inner_self != NULL) {
        d->plugin->destroy(d->inner_self);
    }
    free(d->bound);
}
