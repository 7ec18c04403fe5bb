/*
 * plugins: what is there to select, and what each plugin can be told. It creates no instance, but of
 * backends for `list -v`, to say what they run on or what they lack.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "cli/backend.h"
#include "cli/cli.h"
#include "config/keys.h"
#include "config/value.h"
#include "util/text.h"

/* ---- list ---- */

typedef struct list_state {
    int verbose;
    size_t n_plugins, n_refused;
    pico_runtime *runtime; /* for instances of backends; NULL: none */
} list_state;

static void list_entry(void *arg, const pico_registry_entry *entry) {
    list_state *list = arg;
    if (entry->plugin == NULL) {
        list->n_refused++;
        if (list->verbose) {
            (void)printf("%-10s %-14s %-8s %s\n%37s%s\n", "refused", "-", "-", entry->path, "",
                         entry->reason);
        }
        return;
    }
    const pico_plugin *plugin = entry->plugin;
    list->n_plugins++;
    (void)printf("%-10s %-14s %-8s %s\n", pico_kind_name(plugin->kind), plugin->name,
                 plugin->version, plugin->summary);
    if (list->verbose) {
        (void)printf("%35s%s (ABI %u.%u)\n", "", entry->path, plugin->abi_major, plugin->abi_minor);
    }
    if (list->runtime != NULL && plugin->kind == PICO_KIND_BACKEND) {
        char text[sizeof((pico_error *)0)->message];
        pico_backend_describe(list->runtime, entry->path, plugin->name, text, sizeof text);
        (void)printf("%35s%s\n", "", text);
    }
}

static int list_plugins(const pico_cli *cli, pico_registry *registry) {
    list_state list = {.verbose = cli->verbose};
    pico_error err = {0};
    pico_runtime runtime;
    int code = 0;
    if (list.verbose && pico_runtime_open(&runtime, cli->config, 0, NULL, &code, &err) == PICO_OK) {
        list.runtime = &runtime;
    }
    (void)printf("%-10s %-14s %-8s %s\n", "kind", "name", "version", "summary");
    pico_status status = pico_registry_list(registry, list_entry, &list, &err);
    if (list.runtime != NULL) {
        pico_runtime_close(&runtime);
    }
    if (status != PICO_OK) {
        return pico_cli_fail_error(cli, &err);
    }
    for (size_t i = 0; list.verbose && pico_registry_folder(registry, i) != NULL; i++) {
        struct stat info;
        const char *folder = pico_registry_folder(registry, i);
        (void)printf("%s%s%s\n", i == 0 ? "\nsearched, in this order:\n  " : "  ", folder,
                     stat(folder, &info) != 0 ? " (does not exist)"
                     : !S_ISDIR(info.st_mode) ? " (is not a folder)"
                                              : "");
    }
    if (list.n_refused != 0 && !list.verbose) {
        (void)fprintf(stderr, "%zu file%s refused; 'plugins list -v' says why\n", list.n_refused,
                      list.n_refused == 1 ? " was" : "s were");
    }
    return PICO_EXIT_OK;
}

/* ---- show ---- */

static const pico_option *option_at(const pico_plugin *plugin, uint32_t i) {
    return (const pico_option *)(const void *)((const char *)plugin->options +
                                               (size_t)i * plugin->option_size);
}

static void show_option(const char *section, const pico_option *option) {
    char values[256], variable[256];
    pico_value_describe(option, values, sizeof values);
    if (!pico_config_env_name(section, option->name, variable, sizeof variable)) {
        (void)snprintf(variable, sizeof variable, "(its name is too long)");
    }
    (void)printf("\n  %s = %s\n      %s\n      %s\n      environment: %s\n", option->name,
                 (option->flags & PICO_OPTF_REQUIRED) != 0 ? "(required)"
                 : option->def == NULL                     ? ""
                                                           : option->def,
                 option->help, values, variable);
}

static int show_plugin(const pico_loaded *loaded) {
    const pico_plugin *plugin = &loaded->plugin;
    char section[160];
    const char *kind = pico_kind_name(plugin->kind);
    int is_stage = plugin->kind == PICO_KIND_COMPRESSOR;
    (void)snprintf(section, sizeof section, "%s.%s", is_stage ? "compress.1" : kind, plugin->name);
    (void)printf("%s %s %s: %s\nfile:   %s\nABI:    %u.%u\nselect: [%s] plugin = %s\n", kind,
                 plugin->name, plugin->version, plugin->summary, loaded->path, plugin->abi_major,
                 plugin->abi_minor, is_stage ? "compress.N" : kind, plugin->name);
    if (plugin->n_options == 0) {
        (void)printf("\nIt has no options.\n");
        return PICO_EXIT_OK;
    }
    (void)printf("\n[%s]\n", section);
    for (uint32_t i = 0; i < plugin->n_options; i++) {
        show_option(section, option_at(plugin, i));
    }
    return PICO_EXIT_OK;
}

enum { MAX_FOUND = 32, KIND_FIRST = PICO_KIND_BACKEND, KIND_LAST = PICO_KIND_TRAINER };

typedef struct find_state {
    const char *name;
    uint32_t kind; /* 0: any */
    uint32_t found[MAX_FOUND];
    size_t n_found;
    const char *names[256];
    size_t n_names;
} find_state;

/* Collects the kinds of the plugins of that name; one that hides behind an earlier folder is the
 * same plugin. */
static void find_entry(void *arg, const pico_registry_entry *entry) {
    find_state *find = arg;
    if (entry->plugin == NULL) {
        return;
    }
    int listed = find->n_names == sizeof find->names / sizeof *find->names;
    for (size_t i = 0; i < find->n_names && !listed; i++) {
        listed = strcmp(find->names[i], entry->plugin->name) == 0;
    }
    if (!listed) {
        find->names[find->n_names++] = entry->plugin->name;
    }
    int known = strcmp(entry->plugin->name, find->name) != 0 ||
                (find->kind != 0 && find->kind != entry->plugin->kind);
    for (size_t i = 0; i < find->n_found && !known; i++) {
        known = find->found[i] == entry->plugin->kind;
    }
    if (!known && find->n_found < MAX_FOUND) {
        find->found[find->n_found++] = entry->plugin->kind;
    }
}

static int show_named(const pico_cli *cli, pico_registry *registry, const char *name,
                      uint32_t kind) {
    find_state find = {.name = name, .kind = kind};
    pico_error err = {0};
    const pico_loaded *loaded = NULL;
    if (pico_registry_list(registry, find_entry, &find, &err) != PICO_OK) {
        return pico_cli_fail_error(cli, &err);
    }
    if (find.n_found == 0 && kind == 0) {
        const char *nearest = pico_text_nearest(name, find.names, find.n_names);
        char list[256] = "";
        for (size_t i = 0; i < find.n_names; i++) {
            size_t used = strlen(list);
            (void)snprintf(list + used, sizeof list - used, "%s%s", i == 0 ? "" : ", ",
                           find.names[i]);
        }
        return pico_cli_fail(
            cli, PICO_EXIT_PLUGIN,
            "there is no plugin '%s'%s%s%s; there are %s; 'picochat plugins list -v' shows where "
            "they are looked for",
            name, nearest == NULL ? "" : " (did you mean ", nearest == NULL ? "" : nearest,
            nearest == NULL ? "" : "?)", find.n_names == 0 ? "none at all" : list);
    }
    if (find.n_found == 0) { /* the registry says best why */
        find.found[find.n_found++] = kind;
    }
    for (size_t i = 0; i < find.n_found; i++) {
        if (pico_registry_load(registry, find.found[i], name, &loaded, &err) != PICO_OK) {
            return pico_cli_fail(cli, PICO_EXIT_PLUGIN, "%s", err.message);
        }
        if (i != 0) {
            (void)putchar('\n');
        }
        (void)show_plugin(loaded);
    }
    return PICO_EXIT_OK;
}

/* A file may hold plugins of several kinds: shows the one that each kind finds. */
static int show_file(const pico_cli *cli, pico_registry *registry, const char *path) {
    pico_error err = {0};
    const pico_loaded *named = NULL, *loaded = NULL;
    if (pico_registry_load(registry, 0, path, &named, &err) != PICO_OK) {
        return pico_cli_fail(cli, PICO_EXIT_PLUGIN, "%s", err.message);
    }
    (void)show_plugin(named);
    for (uint32_t kind = KIND_FIRST; kind <= KIND_LAST; kind++) {
        if (kind != named->plugin.kind &&
            pico_registry_load(registry, kind, path, &loaded, &err) == PICO_OK) {
            (void)putchar('\n');
            (void)show_plugin(loaded);
        }
    }
    return PICO_EXIT_OK;
}

static int show(const pico_cli *cli, pico_registry *registry, const char *name) {
    char word[32];
    const char *slash = strchr(name, '/');
    if (slash == NULL) {
        return show_named(cli, registry, name, 0);
    }
    (void)snprintf(word, sizeof word, "%.*s", slash - name > 31 ? 31 : (int)(slash - name), name);
    uint32_t kind = pico_kind_from_name(word);
    if (kind != 0 && strchr(slash + 1, '/') == NULL && strstr(slash, ".so") == NULL) {
        return show_named(cli, registry, slash + 1, kind);
    }
    return show_file(cli, registry, name);
}

/* ---- the command ---- */

static int plugins_command(const pico_cli *cli) {
    pico_registry *registry = NULL;
    pico_error err = {0};
    const char *what = cli->n_argument > 0 ? cli->argument[0] : "list";
    int is_list = strcmp(what, "list") == 0;
    if (!is_list && strcmp(what, "show") != 0) {
        return pico_cli_usage(cli, "plugins has no '%s'; it has list and show", what);
    }
    if (cli->n_argument != (is_list ? (cli->n_argument > 0 ? 1u : 0u) : 2u)) {
        return pico_cli_usage(cli, is_list ? "plugins list takes no argument"
                                           : "plugins show needs one NAME");
    }
    if (pico_registry_open(pico_config_string(cli->config, "host", "plugin_path"), &registry,
                           &err) != PICO_OK) {
        return pico_cli_fail_error(cli, &err);
    }
    int code = is_list ? list_plugins(cli, registry) : show(cli, registry, cli->argument[1]);
    pico_registry_close(registry);
    return code;
}

const pico_command pico_command_plugins = {
    .name = "plugins",
    .summary = "what can be selected, and its options",
    .usage = "plugins (list [-v] | show NAME)",
    .details = "list: kind, name, version, summary; with -v also the file, its ABI, what a backend "
               "runs on or lacks,\nwhy files were refused, and the folders that are "
               "searched.\nshow: the options of a plugin; NAME, "
               "kind/NAME, or the path of a "
               "file.",
    .sections = "host.plugin_path host.log",
    .max_arguments = 2,
    .run = plugins_command};
