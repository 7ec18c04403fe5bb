/*
 * config: whether a configuration is valid, what it amounts to, and the reference of all keys, made
 * from the tables that the program itself uses. Nothing is run.
 */
#include <stdlib.h>
#include <string.h>

#include "cli/backend.h"
#include "cli/cli.h"
#include "config/keys.h"
#include "config/value.h"

typedef struct config_state {
    const pico_cli *cli;
    pico_registry *registry;
    pico_error err;
    char section[160]; /* the last one that dump printed */
} config_state;

enum { SECTION_BYTES = 160, MAX_STAGES = 999 };

/* ---- plugins that a configuration names ---- */

typedef pico_status (*plugin_fn)(config_state *state, const char *section,
                                 const pico_loaded *loaded);

/* Loads the plugin that [SECTION] plugin selects and calls fn with its own section. */
static pico_status with_selected(config_state *state, uint32_t kind, const char *section,
                                 plugin_fn fn) {
    char own[SECTION_BYTES];
    const pico_loaded *loaded = NULL;
    const char *name = pico_config_string(state->cli->config, section, "plugin");
    if (name == NULL || pico_backend_is_auto(kind, name)) { /* which one is known when it runs */
        return PICO_OK;
    }
    pico_status status = pico_registry_load(state->registry, kind, name, &loaded, &state->err);
    if (status != PICO_OK) {
        return status;
    }
    (void)snprintf(own, sizeof own, "%s.%s", section, loaded->plugin.name);
    return fn(state, own, loaded);
}

static pico_status each_selected(config_state *state, plugin_fn fn) {
    static const uint32_t kinds[] = {PICO_KIND_BACKEND, PICO_KIND_ATTENTION, PICO_KIND_SAMPLER,
                                     PICO_KIND_DECODER, PICO_KIND_TRAINER};
    uint32_t stages[MAX_STAGES];
    size_t n = pico_config_stages(state->cli->config, stages, MAX_STAGES);
    pico_status status = PICO_OK;
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds && status == PICO_OK; i++) {
        status = with_selected(state, kinds[i], pico_kind_name(kinds[i]), fn);
    }
    for (size_t i = 0; i < n && status == PICO_OK; i++) {
        char section[32];
        (void)snprintf(section, sizeof section, "compress.%u", stages[i]);
        status = with_selected(state, PICO_KIND_COMPRESSOR, section, fn);
    }
    return status;
}

/* ---- check ---- */

static pico_status bind(config_state *state, const char *section, const pico_loaded *loaded) {
    return pico_cli_bind(state->cli, section, loaded, &state->err);
}

static int check(config_state *state) {
    const pico_cli *cli = state->cli;
    pico_status status = each_selected(state, bind);
    if (status == PICO_OK) {
        status = pico_cli_check_sections(cli, state->registry, &state->err);
    }
    if (status != PICO_OK) {
        int code = status == PICO_E_NOMEM ? PICO_EXIT_MEMORY : PICO_EXIT_USAGE;
        return pico_cli_fail(cli, code, "%s", state->err.message);
    }
    if (!cli->quiet) {
        (void)fprintf(stderr, "%s: no errors\n",
                      cli->config_path == NULL ? "configuration" : cli->config_path);
    }
    return PICO_EXIT_OK;
}

/* ---- dump ---- */

/* The output is an INI file again: indented lines continue a value. */
static void print_value(const char *text) {
    for (; *text != '\0'; text++) {
        (void)putchar(*text);
        if (*text == '\n') {
            (void)fputs("    ", stdout);
        }
    }
}

static void dump_value(void *arg, const char *section, const pico_option *option, const char *value,
                       const char *origin) {
    config_state *state = arg;
    if (strcmp(state->section, section) != 0) {
        (void)printf("%s[%s]\n", state->section[0] == '\0' ? "" : "\n", section);
        (void)snprintf(state->section, sizeof state->section, "%s", section);
    }
    if (value == NULL) {
        (void)printf("; %s =  ; not set\n", option->name);
        return;
    }
    if (option->type == PICO_OPT_PATH && pico_config_key_find(section, option->name) != NULL) {
        value = pico_config_path(state->cli->config, section, option->name);
    }
    if (strchr(value, '\n') != NULL) {
        (void)printf("; %s: from %s\n%s = ", option->name, origin, option->name);
        print_value(value);
        (void)putchar('\n');
        return;
    }
    (void)printf("%s = %s  ; %s\n", option->name, value, origin);
}

static pico_status dump_plugin(config_state *state, const char *section,
                               const pico_loaded *loaded) {
    pico_config_each_option(state->cli->config, section, loaded->plugin.options,
                            loaded->plugin.n_options, loaded->plugin.option_size, dump_value,
                            state);
    return PICO_OK;
}

static int dump(config_state *state) {
    pico_config_each_value(state->cli->config, dump_value, state);
    if (each_selected(state, dump_plugin) != PICO_OK) {
        return pico_cli_fail(state->cli, PICO_EXIT_PLUGIN, "%s", state->err.message);
    }
    return PICO_EXIT_OK;
}

/* ---- reference ---- */

/* A cell of a Markdown table. */
static void print_cell(const char *text) {
    for (; text != NULL && *text != '\0'; text++) {
        (void)fputs(*text == '|' ? "\\|" : "", stdout);
        if (*text != '|') {
            (void)putchar(*text == '\n' ? ' ' : *text);
        }
    }
}

static void print_row(const pico_option *option, const char *flag, const char *flag_short) {
    char values[256];
    pico_value_describe(option, values, sizeof values);
    (void)printf("| `%s` | ", option->name);
    print_cell(values);
    if (option->def != NULL) {
        (void)printf(" | `%s` | ", option->def);
    } else {
        (void)printf(" | %s | ", (option->flags & PICO_OPTF_REQUIRED) != 0 ? "required" : "");
    }
    if (flag_short != NULL) {
        (void)printf("`%s` ", flag_short);
    }
    if (flag != NULL) {
        (void)printf("`%s`", flag);
    }
    (void)fputs(" | ", stdout);
    print_cell(option->help);
    (void)fputs(" |\n", stdout);
}

static void print_heading(const char *section) {
    (void)printf("\n## [%s]\n\n", section);
}

static void print_table_head(void) {
    (void)printf("| key | value | default | flag | meaning |\n|---|---|---|---|---|\n");
}

static void reference_host(void) {
    size_t n;
    const pico_config_key *keys = pico_config_keys(&n);
    for (size_t i = 0; i < n; i++) {
        if (i == 0 || strcmp(keys[i].section, keys[i - 1].section) != 0) {
            print_heading(keys[i].section);
            print_table_head();
        }
        print_row(&keys[i].option, keys[i].flag, keys[i].flag_short);
    }
}

static const char *shorthand_of(const char *kind, const char *key) {
    size_t n;
    const pico_config_shorthand *shorthands = pico_config_shorthands(&n);
    for (size_t i = 0; i < n; i++) {
        if (strcmp(shorthands[i].section, kind) == 0 && strcmp(shorthands[i].key, key) == 0) {
            return shorthands[i].flag;
        }
    }
    return NULL;
}

typedef struct plugin_list {
    pico_plugin plugin[128]; /* copies: an entry lives as long as its call */
    size_t n;
} plugin_list;

/* The first of each kind and name on the search path counts. */
static void collect(void *arg, const pico_registry_entry *entry) {
    plugin_list *list = arg;
    if (entry->plugin == NULL || list->n == sizeof list->plugin / sizeof *list->plugin) {
        return;
    }
    for (size_t i = 0; i < list->n; i++) {
        if (list->plugin[i].kind == entry->plugin->kind &&
            strcmp(list->plugin[i].name, entry->plugin->name) == 0) {
            return;
        }
    }
    list->plugin[list->n++] = *entry->plugin;
}

static int by_kind_and_name(const void *a, const void *b) {
    const pico_plugin *x = a, *y = b;
    return x->kind != y->kind ? (x->kind < y->kind ? -1 : 1) : strcmp(x->name, y->name);
}

static void reference_plugin(const pico_plugin *plugin) {
    const char *kind = pico_kind_name(plugin->kind);
    char section[SECTION_BYTES];
    (void)snprintf(section, sizeof section, "%s.%s",
                   plugin->kind == PICO_KIND_COMPRESSOR ? PICO_CONFIG_STAGE_SECTION : kind,
                   plugin->name);
    print_heading(section);
    print_cell(plugin->summary);
    (void)printf(" (version %s).\n", plugin->version);
    if (plugin->n_options == 0) {
        (void)printf("It has no keys.\n");
        return;
    }
    (void)putchar('\n');
    print_table_head();
    for (uint32_t i = 0; i < plugin->n_options; i++) {
        const pico_option *option =
            (const pico_option *)(const void *)((const char *)plugin->options +
                                                (size_t)i * plugin->option_size);
        print_row(option, shorthand_of(kind, option->name), NULL);
    }
}

static void reference_syntax(void) {
    (void)fputs(
        "\n## How an INI file is written\n\n"
        "```ini\n; a comment\n[section]\nkey = value        ; a comment behind a value\n"
        "long = the first line\n  and its continuation\n```\n\n"
        "- Sections and keys begin in the first column. An indented line continues the value above "
        "it, as a\n  new line of that value.\n"
        "- A line that begins with `;` or `#` is a comment. Behind a value, a comment begins with "
        "a "
        "blank and\n  `;`; a `#` there is part of the value.\n"
        "- Values are taken literally, without the blanks around them: quotes are part of the "
        "value.\n"
        "- Each key is set at most once. Relative paths start at the folder of the file, on the "
        "command line\n  at the working directory.\n"
        "- `[kind]` has the host's keys and says which plugin is used; `[kind.NAME]` has the keys "
        "of plugin\n  NAME, which are checked whether it is selected or not, if it can be "
        "found.\n\n"
        "A variable that no key claims is an error where the section has no plugin, and ignored "
        "elsewhere: its\nplugin may be one that is not loaded.\n",
        stdout);
}

static int reference(config_state *state) {
    plugin_list list = {0};
    (void)printf(
        "# Configuration reference\n\nMade by `picochat config reference`. Each key can be "
        "set in an INI file (`--config FILE`), in the\nenvironment "
        "(`PICOCHAT_SECTION_KEY`), with `--set section.key=value`, and some by a flag; "
        "the command\nline counts more than the environment, that more than the file.\n");
    reference_syntax();
    reference_host();
    if (pico_registry_list(state->registry, collect, &list, &state->err) != PICO_OK) {
        return pico_cli_fail_error(state->cli, &state->err);
    }
    qsort(list.plugin, list.n, sizeof *list.plugin, by_kind_and_name);
    for (size_t i = 0; i < list.n; i++) {
        reference_plugin(&list.plugin[i]);
    }
    return PICO_EXIT_OK;
}

/* ---- the command ---- */

static int config_command(const pico_cli *cli) {
    static const struct {
        const char *name;
        int (*run)(config_state *state);
    } actions[] = {{"check", check}, {"dump", dump}, {"reference", reference}};
    config_state state = {.cli = cli};
    const char *what = cli->n_argument == 1 ? cli->argument[0] : NULL;
    for (size_t i = 0; what != NULL && i < sizeof actions / sizeof *actions; i++) {
        if (strcmp(actions[i].name, what) != 0) {
            continue;
        }
        if (pico_registry_open(pico_config_string(cli->config, "host", "plugin_path"),
                               &state.registry, &state.err) != PICO_OK) {
            return pico_cli_fail_error(cli, &state.err);
        }
        int code = actions[i].run(&state);
        pico_registry_close(state.registry);
        return code;
    }
    return what == NULL
               ? pico_cli_usage(cli, "config needs one of check, dump and reference")
               : pico_cli_usage(cli, "config has no '%s'; it has check, dump and reference", what);
}

const pico_command pico_command_config = {
    .name = "config",
    .summary = "check a configuration, show what it amounts to, list all keys",
    .usage = "config (check | dump | reference) [--config FILE] [options]",
    .details = "check: exit code 0 if everything is valid, the keys of plugins included, else 2.\n"
               "dump: every value that is in effect, and where it comes from, as an INI file.\n"
               "reference: every key of the host and of the plugins that are found, as Markdown.",
    .sections = "model host backend attention sampler decoder trainer generate chat",
    .max_arguments = 1,
    .run = config_command};
