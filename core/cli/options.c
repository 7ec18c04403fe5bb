/* Looking up options; see options.h. */
#include "cli/options.h"

#include <stdio.h>
#include <string.h>

#include "util/text.h"

enum { MAX_NAMES = 256 };

static const pico_cli_option common_options[PICO_N_COMMON] = {
    [PICO_COMMON_CONFIG] = {"--config", NULL, "FILE", "read an INI file"},
    [PICO_COMMON_SET] = {"--set", NULL, "SECTION.KEY=VALUE",
                         "set any key of the configuration; may be repeated"},
    [PICO_COMMON_VERBOSE] = {"--verbose", "-v", NULL, "say more ([host] log = debug)"},
    [PICO_COMMON_QUIET] = {"--quiet", "-q", NULL, "warnings and errors only ([host] log = warn)"},
    [PICO_COMMON_HELP] = {"--help", "-h", NULL, "show this text"},
    [PICO_COMMON_VERSION] = {"--version", NULL, NULL, "show the version"}};

const pico_cli_option *pico_common_options(void) {
    return common_options;
}

int pico_command_takes(const pico_command *command, const char *section, const char *key) {
    size_t n = strlen(section);
    for (const char *at = command->sections; at != NULL && *at != '\0';) {
        size_t word = strcspn(at, " ");
        if (word >= n && memcmp(at, section, n) == 0) {
            int whole = word == n;
            int one = word > n && at[n] == '.' && strlen(key) == word - n - 1 &&
                      memcmp(at + n + 1, key, word - n - 1) == 0;
            if (whole || one) {
                return 1;
            }
        }
        at += word + strspn(at + word, " ");
    }
    return 0;
}

static int same(const char *option, const char *name, size_t n) {
    return option != NULL && strlen(option) == n && memcmp(option, name, n) == 0;
}

static int find_in_table(const pico_cli_option *options, size_t count, const char *name, size_t n,
                         size_t *index) {
    for (size_t i = 0; i < count; i++) {
        if (same(options[i].name, name, n) || same(options[i].alias, name, n)) {
            *index = i;
            return 1;
        }
    }
    return 0;
}

static uint32_t value_rule(const pico_cli_option *option) {
    return option->value == NULL ? 0 : option->value[0] == '[' ? 2 : 1;
}

static pico_option_match find_host(const pico_command *command, const char *name, size_t n) {
    pico_option_match foreign = {0};
    size_t count;
    const pico_config_key *keys = pico_config_keys(&count);
    for (size_t i = 0; i < count; i++) {
        if (same(keys[i].flag, name, n) || same(keys[i].flag_short, name, n)) {
            pico_option_match match = {PICO_OPTION_KEY, i,
                                       keys[i].option.type == PICO_OPT_BOOL ? 2 : 1};
            if (pico_command_takes(command, keys[i].section, keys[i].option.name)) {
                return match;
            }
            foreign = (pico_option_match){PICO_OPTION_FOREIGN, i, match.takes_value};
        }
    }
    const pico_config_shorthand *shorthands = pico_config_shorthands(&count);
    for (size_t i = 0; i < count; i++) {
        if (same(shorthands[i].flag, name, n)) {
            uint32_t kind = pico_command_takes(command, shorthands[i].section, shorthands[i].key)
                                ? (uint32_t)PICO_OPTION_SHORTHAND
                                : (uint32_t)PICO_OPTION_FOREIGN;
            return (pico_option_match){kind, i, 1};
        }
    }
    return foreign;
}

pico_option_match pico_option_find(const pico_command *command, const char *name, size_t n) {
    size_t i;
    if (find_in_table(command->options, command->n_options, name, n, &i)) {
        return (pico_option_match){PICO_OPTION_OWN, i, value_rule(&command->options[i])};
    }
    pico_option_match match = find_host(command, name, n);
    if (match.kind != PICO_OPTION_NONE && match.kind != PICO_OPTION_FOREIGN) {
        return match;
    }
    if (find_in_table(common_options, PICO_N_COMMON, name, n, &i)) {
        return (pico_option_match){PICO_OPTION_COMMON, i, value_rule(&common_options[i])};
    }
    return match;
}

/* Names that a word may be a mistake for, and the option that each stands for: besides the options
 * their keys, so that --temperature leads to --temp. */
typedef struct name_list {
    const char *name[MAX_NAMES], *option[MAX_NAMES];
    char key[MAX_NAMES][48]; /* "--max-tokens" */
    size_t n;
} name_list;

static void add_name(name_list *list, const char *option, const char *key) {
    if (option == NULL || list->n + 2 > MAX_NAMES) {
        return;
    }
    list->name[list->n] = list->option[list->n] = option;
    list->n++;
    if (key != NULL && strcmp(key, "plugin") != 0) { /* every section has one */
        char *name = list->key[list->n];
        (void)snprintf(name, sizeof list->key[0], "--%s", key);
        for (char *c = name; *c != '\0'; c++) {
            *c = *c == '_' ? '-' : *c;
        }
        list->name[list->n] = name;
        list->option[list->n++] = option;
    }
}

const char *pico_option_nearest(const pico_command *command, const char *name) {
    name_list list = {.n = 0};
    size_t count;
    char word[64];
    for (size_t i = 0; i < command->n_options; i++) {
        add_name(&list, command->options[i].name, NULL);
    }
    const pico_config_key *keys = pico_config_keys(&count);
    for (size_t i = 0; i < count; i++) {
        if (pico_command_takes(command, keys[i].section, keys[i].option.name)) {
            add_name(&list, keys[i].flag, keys[i].option.name);
        }
    }
    const pico_config_shorthand *shorthands = pico_config_shorthands(&count);
    for (size_t i = 0; i < count; i++) {
        if (pico_command_takes(command, shorthands[i].section, shorthands[i].key)) {
            add_name(&list, shorthands[i].flag, shorthands[i].key);
        }
    }
    for (size_t i = 0; i < PICO_N_COMMON; i++) {
        add_name(&list, common_options[i].name, NULL);
    }
    (void)snprintf(word, sizeof word, "%s", name);
    for (char *c = word; *c != '\0'; c++) {
        *c = *c == '_' ? '-' : *c;
    }
    const char *nearest = pico_text_nearest(word, list.name, list.n);
    for (size_t i = 0; i < list.n; i++) {
        if (list.name[i] == nearest || strcmp(list.name[i], word) == 0) {
            return list.option[i];
        }
    }
    return NULL;
}
