/*
 * What may be wrong with a configuration that can be read: keys of plugins that are not selected,
 * sections of plugins that are not there, folders that do not exist. It creates no instance; what
 * only may be wrong is a warning, never an error.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "cli/cli.h"
#include "config/keys.h"

typedef struct check_state {
    const pico_cli *cli;
    pico_registry *registry;
    pico_log log;
} check_state;

/* Whether section ("sampler.standard", "compress.2.int8") belongs to a selected plugin. */
static int is_selected(const pico_config *config, const char *section) {
    char stem[160];
    const char *dot = strrchr(section, '.');
    (void)snprintf(stem, sizeof stem, "%.*s", (int)(dot - section), section);
    const char *name = pico_config_string(config, stem, "plugin");
    return name != NULL && strcmp(name, dot + 1) == 0;
}

pico_status pico_cli_bind(const pico_cli *cli, const char *section, const pico_loaded *loaded,
                          pico_error *err) {
    const pico_plugin *plugin = &loaded->plugin;
    void *options = calloc(1, plugin->options_bytes + 1u);
    if (options == NULL) {
        return pico_fail(err, PICO_E_NOMEM, "out of memory");
    }
    pico_status status = pico_config_bind(cli->config, section, plugin->options, plugin->n_options,
                                          plugin->option_size, options, plugin->options_bytes, err);
    free(options);
    return status;
}

static pico_status check_section(void *arg, const char *section, pico_error *err) {
    check_state *state = arg;
    char kind_name[32];
    const pico_loaded *loaded = NULL;
    pico_error why = {0};
    (void)snprintf(kind_name, sizeof kind_name, "%.*s", (int)strcspn(section, "."), section);
    uint32_t kind = pico_kind_from_name(kind_name);
    if (kind == 0) {
        return PICO_OK;
    }
    if (pico_registry_load(state->registry, kind, strrchr(section, '.') + 1, &loaded, &why) ==
        PICO_OK) {
        return pico_cli_bind(state->cli, section, loaded, err);
    }
    if (!is_selected(state->cli->config, section)) { /* else whoever needs it fails */
        pico_log_write(&state->log, PICO_LOG_WARN, "%s: [%s] is not checked: %s",
                       pico_config_section_origin(state->cli->config, section), section,
                       why.message);
    }
    return PICO_OK;
}

pico_status pico_cli_check_sections(const pico_cli *cli, pico_registry *registry, pico_error *err) {
    check_state state = {.cli = cli, .registry = registry};
    pico_log_init(&state.log, pico_cli_log_level(cli));
    return pico_config_each_plugin_section(cli->config, check_section, &state, err);
}

/* ---- warnings ---- */

/* [host] plugin_path is a list of folders, which may be missing, but hardly on purpose. */
static void warn_of_folders(const pico_config *config, pico_log *log) {
    const char *list = pico_config_string(config, "host", "plugin_path");
    while (list != NULL) {
        struct stat info;
        char folder[4096];
        size_t n = strcspn(list, ":");
        if (n != 0 && n < sizeof folder) {
            memcpy(folder, list, n);
            folder[n] = '\0';
            if (folder[0] == '/' && (stat(folder, &info) != 0 || !S_ISDIR(info.st_mode))) {
                pico_log_write(log, PICO_LOG_WARN, "%s: there is no folder %s",
                               pico_config_origin(config, "host", "plugin_path"), folder);
            }
        }
        list = list[n] == ':' ? list + n + 1 : NULL;
    }
}

/* A '#' behind a blank is a comment in many other INI files. */
static void warn_of_value(void *arg, const char *section, const pico_option *option,
                          const char *value, const char *origin) {
    if (option->type == PICO_OPT_PATH && value != NULL && strstr(value, " #") != NULL) {
        pico_log_write(arg, PICO_LOG_WARN,
                       "%s: [%s] %s: '#' is part of this path; a comment begins with ' ;'", origin,
                       section, option->name);
    }
}

void pico_cli_warn(const pico_cli *cli) {
    pico_log log;
    pico_log_init(&log, pico_cli_log_level(cli));
    warn_of_folders(cli->config, &log);
    pico_config_each_value(cli->config, warn_of_value, &log);
}
