/* layers: registry */
/* The registry: the message of every way to fail, binding and creation, search path, order of ends.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "bad_plugins/good_options.h"
#include "registry/registry.h"

#define FOLDER PICO_BUILD_DIR "/tests/bad_plugins"
#define FILE_OF(name) FOLDER "/sample_" name ".so"

static pico_registry *open_registry(void) {
    pico_registry *registry = NULL;
    pico_error err = {0};
    pico_status status = pico_registry_open(FOLDER, &registry, &err);
    if (status != PICO_OK) {
        print_error("%s\n", err.message);
    }
    assert_int_equal(status, PICO_OK);
    return registry;
}

static void assert_message(const char *found, const char *expected) {
    if (strcmp(found, expected) != 0) {
        print_error("found    %s\nexpected %s\n", found, expected);
    }
    assert_string_equal(found, expected);
}

/* Every spoiled plugin is refused with the sentence that names its one fault. */
static void each_fault_has_its_message(void **state) {
    (void)state;
    static const struct {
        const char *name, *message; /* message follows "PATH: " */
    } cases[] = {
        {"wrong_magic", "plugin 0: expected magic 0x4f434950, found 0x12345678; set .magic = "
                        "PICO_PLUGIN_MAGIC"},
        {"wrong_major",
         "plugin 0: expected ABI version 0.x, found 7.11; build it with this version's plugin.h"},
        {"newer_minor", "plugin 0: needs ABI version 0.99, this picochat offers 0.11; use a newer "
                        "picochat or build the plugin for the older version"},
        {"short_struct", "plugin 0: expected a descriptor of at least 96 bytes, found struct_size "
                         "32; set .struct_size = sizeof(pico_plugin)"},
        {"unknown_kind", "plugin 0: expected a kind from 1 to 6, found 77; set .kind to one of "
                         "PICO_KIND_x"},
        {"bad_name", "plugin 0: expected a name of at most 64 lower-case letters, digits, '_' and "
                     "'-', found 'Bad Name'; correct .name"},
        {"empty", "expected a plugin, found none: pico_plugin_query(0) returned NULL"},
        {"twice", "plugins 0 and 1 are both sampler 'twice'; names have to differ"},
        {"wrong_kind", "expected a plugin of kind sampler, found decoder 'wrong_kind'; name it in "
                       "the section of its own kind"},
        {"wrong_name", "the file name promises sampler 'wrong_name', found sampler 'other'; "
                       "correct .name or rename the file to sample_other.so"},
        {"no_query", "expected the symbol pico_plugin_query, found none; this is not a picochat "
                     "plugin, or the function lacks PICO_EXPORT"},
        {"missing_symbol",
         "the dynamic linker refuses it: undefined symbol: pico_symbol_that_nobody_defines; a "
         "plugin needs nothing but libc and the libraries that it links itself"},
        {"no_create", "sampler 'no_create': create is NULL; every plugin needs one"},
        {"no_ops", "sampler 'no_ops': ops is NULL; set it to the table of functions"},
        {"tiny_ops", "sampler 'tiny_ops': the table of functions has struct_size 0; set it to "
                     "sizeof the table"},
        {"short_ops", "sampler 'short_ops': the required slot dist lies beyond the table's "
                      "struct_size 16; set it to sizeof the table"},
        {"missing_slot", "sampler 'missing_slot': the required slot dist is NULL; a plugin of "
                         "this kind has to implement it"},
        {"bad_offset", "sampler 'bad_offset': option 0 (far): its field lies outside the struct "
                       "of options_bytes; use offsetof and sizeof"},
        {"bad_alignment", "sampler 'bad_alignment': option 0 (crooked): its offset is not aligned "
                          "for the type; use offsetof"},
        {"bad_default", "sampler 'bad_default': option 0 (level): its default '3' is not valid: "
                        "expected a number from 0 to 1"},
        {"bad_enum", "sampler 'bad_enum': option 0 (mode): an ENUM needs choices, a "
                     "NULL-terminated list of words"},
        {"bad_overlap", "sampler 'bad_overlap': option 1 (two): its field overlaps another "
                        "option's; use offsetof"},
        {"bad_twice", "sampler 'bad_twice': option 1 (same): this name is declared twice"},
        {"no_count", "sampler 'no_count': there is a table of options, but n_options is 0, so that "
                     "nothing would be bound; set n_options to the number of options"},
        {"no_table", "sampler 'no_table': options_bytes is not 0, but n_options is 0, so that "
                     "nothing would be bound; set n_options to the number of options"},
        {"huge_options", "sampler 'huge_options': options_bytes is 100000; expected at most 4096"},
    };
    pico_registry *registry = open_registry();
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char expected[1024];
        const pico_loaded *loaded = NULL;
        pico_error err = {0};
        (void)snprintf(expected, sizeof expected, FOLDER "/sample_%s.so: %s", cases[i].name,
                       cases[i].message);
        assert_int_equal(
            pico_registry_load(registry, PICO_KIND_SAMPLER, cases[i].name, &loaded, &err),
            PICO_E_ABI);
        assert_message(err.message, expected);
        assert_null(loaded);
    }
    pico_registry_close(registry);
}

static pico_config *open_config(const char *text) {
    pico_config *config = NULL;
    pico_error err;
    assert_int_equal(pico_config_open(&config, &err), PICO_OK);
    assert_int_equal(pico_config_read_text(config, "a.ini", text, strlen(text), &err), PICO_OK);
    return config;
}

/* A create that fails is reported with the plugin's own words, or with the fact that it has none.
 */
static void failing_create_is_reported(void **state) {
    (void)state;
    pico_registry *registry = open_registry();
    pico_config *config = open_config("");
    const pico_host host = {.struct_size = sizeof host};
    pico_instance instance;
    pico_error err;
    assert_int_equal(pico_registry_create(registry, config, PICO_KIND_SAMPLER, "failing_create",
                                          "sampler.failing_create", &host, &instance, &err),
                     PICO_E_DEVICE);
    assert_message(err.message,
                   FILE_OF("failing_create") ": sampler 'failing_create' could not be created: the "
                                             "moon is in the wrong phase (status -6)");
    assert_null(instance.loaded);
    assert_int_equal(pico_registry_create(registry, config, PICO_KIND_SAMPLER, "silent_create",
                                          "sampler.silent_create", &host, &instance, &err),
                     PICO_E_NOMEM);
    assert_message(err.message,
                   FILE_OF("silent_create") ": sampler 'silent_create' could not be created: the "
                                            "plugin does not say why (status -1)");
    assert_int_equal(pico_registry_create(registry, config, PICO_KIND_SAMPLER, "null_self",
                                          "sampler.null_self", &host, &instance, &err),
                     PICO_E_ABI);
    assert_message(err.message, FILE_OF("null_self") ": create of sampler 'null_self' succeeded "
                                                     "without an instance; set *self");
    assert_null(instance.loaded);
    pico_config_close(config);
    pico_registry_close(registry);
}

typedef struct journal {
    char text[256];
} journal;

static void note(void *ctx, uint32_t level, const char *message) {
    (void)level;
    journal *j = ctx;
    (void)strncat(j->text, message, sizeof j->text - strlen(j->text) - 1);
    (void)strncat(j->text, " ", sizeof j->text - strlen(j->text) - 1);
}

/* Options arrive in the plugin as bound, and instances end in reverse order of creation. */
static void good_plugin_is_bound_and_destroyed_in_order(void **state) {
    (void)state;
    journal j = {""};
    const pico_host host = {.struct_size = sizeof host, .ctx = &j, .log = note};
    pico_registry *registry = open_registry();
    pico_config *config =
        open_config("[sampler.good]\ntemperature = 0.5\nexact = yes\nmode = flat\nlabel = one\n"
                    "table = /tab\nwindow = 9\n[sampler.two]\nlabel = two\n"
                    "[sampler.three]\nlabel = three\n");
    pico_instance a, b, c;
    pico_error err;
    assert_int_equal(pico_registry_create(registry, config, PICO_KIND_SAMPLER, "good",
                                          "sampler.good", &host, &a, &err),
                     PICO_OK);
    assert_int_equal(pico_registry_create(registry, config, PICO_KIND_SAMPLER, "good",
                                          "sampler.two", &host, &b, &err),
                     PICO_OK);
    assert_int_equal(pico_registry_create(registry, config, PICO_KIND_SAMPLER, FILE_OF("good"),
                                          "sampler.three", &host, &c, &err),
                     PICO_OK);
    assert_ptr_equal(a.loaded, b.loaded);
    assert_ptr_equal(a.loaded, c.loaded);
    assert_ptr_not_equal(a.self, b.self);
    const good_options *bound = &((const good_sampler *)a.self)->options;
    assert_true(bound->temperature == 0.5 && bound->top_k == 40 && bound->exact == 1);
    assert_true(bound->mode == 2 && bound->window == 9);
    assert_string_equal(bound->label, "one");
    assert_string_equal(bound->table, "/tab");
    assert_int_equal(((const good_sampler *)b.self)->options.window, -1);
    /* The table is the host's size: what the plugin does not offer is NULL. */
    assert_string_equal(a.loaded->plugin.name, "good");
    assert_non_null(a.loaded->ops.sampler.dist);
    assert_null(a.loaded->ops.sampler.state_init);
    pico_registry_destroy(registry, &b);
    assert_null(b.self);
    pico_registry_close(registry);
    assert_string_equal(j.text, "two three one ");
    pico_config_close(config);
}

static void bad_option_values_stop_creation(void **state) {
    (void)state;
    pico_registry *registry = open_registry();
    pico_config *config = open_config("[sampler.good]\nmode = flta\n");
    const pico_host host = {.struct_size = sizeof host};
    pico_instance instance;
    pico_error err;
    assert_int_equal(pico_registry_create(registry, config, PICO_KIND_SAMPLER, "good",
                                          "sampler.good", &host, &instance, &err),
                     PICO_E_INVALID);
    assert_message(err.message, "a.ini:2: [sampler.good] mode = flta: expected plain, sharp or "
                                "flat; did you mean flat?");
    pico_config_close(config);
    pico_registry_close(registry);
}

/* Files that are no shared objects at all, and files and names that are not there. */
static void files_that_are_no_plugins(void **state) {
    (void)state;
    char folder[] = "/tmp/pico_registry_XXXXXX";
    char path[128], expected[1024];
    const pico_loaded *loaded;
    pico_error err;
    assert_non_null(mkdtemp(folder));
    (void)snprintf(path, sizeof path, "%s/sample_text.so", folder);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    assert_true(fputs("this is text, and not short\n", file) >= 0);
    assert_int_equal(fclose(file), 0);
    pico_registry *registry = NULL;
    assert_int_equal(pico_registry_open(folder, &registry, &err), PICO_OK);
    assert_int_equal(pico_registry_load(registry, PICO_KIND_SAMPLER, "text", &loaded, &err),
                     PICO_E_ABI);
    (void)snprintf(expected, sizeof expected,
                   "%s: expected a shared object (ELF), found another kind of file; build the "
                   "plugin again",
                   path);
    assert_message(err.message, expected);
    /* An ELF header and nothing behind it: the dynamic linker's turn. */
    file = fopen(path, "w");
    assert_non_null(file);
    assert_int_equal(fwrite("\177ELF\2\1\1\0\0\0\0\0\0\0\0\0", 1, 16, file), 16);
    assert_int_equal(fclose(file), 0);
    assert_int_equal(pico_registry_load(registry, PICO_KIND_SAMPLER, "text", &loaded, &err),
                     PICO_E_ABI);
    assert_non_null(strstr(err.message, "sample_text.so: the dynamic linker refuses it: file too "
                                        "short"));
    assert_int_equal(unlink(path), 0);
    assert_int_equal(pico_registry_load(registry, PICO_KIND_SAMPLER, path, &loaded, &err),
                     PICO_E_NOT_FOUND);
    (void)snprintf(expected, sizeof expected,
                   "%s: cannot open this plugin: No such file or directory", path);
    assert_message(err.message, expected);
    pico_registry_close(registry);
    assert_int_equal(rmdir(folder), 0);
}

static void missing_names_list_the_folders_and_the_nearest(void **state) {
    (void)state;
    const pico_loaded *loaded;
    pico_error err;
    pico_registry *registry = open_registry();
    assert_int_equal(pico_registry_load(registry, PICO_KIND_SAMPLER, "goood", &loaded, &err),
                     PICO_E_NOT_FOUND);
    const char *start = "there is no sampler plugin 'goood'; did you mean 'good'? There are bad_";
    assert_memory_equal(err.message, start, strlen(start));
    assert_non_null(strstr(err.message, "; sample_goood.so is not in " FOLDER));
    assert_int_equal(pico_registry_load(registry, PICO_KIND_BACKEND, "good", &loaded, &err),
                     PICO_E_NOT_FOUND);
    start = "there is no backend plugin 'good': 'good' is a sampler and belongs into [sampler]; "
            "there are ";
    assert_memory_equal(err.message, start, strlen(start));
    assert_non_null(strstr(err.message, "; backend_good.so is not in "));
    assert_int_equal(pico_registry_load(registry, PICO_KIND_BACKEND, "zzzzzz", &loaded, &err),
                     PICO_E_NOT_FOUND);
    assert_non_null(strstr(err.message, "; set [host] plugin_path or PICOCHAT_PLUGIN_PATH"));
    assert_int_equal(pico_registry_load(registry, PICO_KIND_SAMPLER, "\"good\"", &loaded, &err),
                     PICO_E_INVALID);
    assert_non_null(strstr(err.message, "leave the quotes out"));
    assert_int_equal(pico_registry_load(registry, PICO_KIND_SAMPLER, "Good!", &loaded, &err),
                     PICO_E_INVALID);
    assert_int_equal(pico_registry_load(registry, PICO_KIND_SAMPLER, "", &loaded, &err),
                     PICO_E_INVALID);
    assert_int_equal(pico_registry_load(registry, 9, "good", &loaded, &err), PICO_E_INVALID);
    pico_registry_close(registry);
}

/* A file given by path: its name binds only if it is of the kind's form. */
static void paths_name_a_file(void **state) {
    (void)state;
    char folder[] = "/tmp/pico_registry_XXXXXX";
    char path[128];
    const pico_loaded *loaded = NULL;
    pico_error err;
    pico_registry *registry = open_registry();
    assert_int_equal(
        pico_registry_load(registry, PICO_KIND_SAMPLER, FILE_OF("wrong_name"), &loaded, &err),
        PICO_E_ABI);
    assert_non_null(mkdtemp(folder));
    (void)snprintf(path, sizeof path, "%s/mine.so", folder);
    assert_int_equal(symlink(FILE_OF("wrong_name"), path), 0);
    assert_int_equal(pico_registry_load(registry, PICO_KIND_SAMPLER, path, &loaded, &err), PICO_OK);
    assert_string_equal(loaded->plugin.name, "other");
    assert_int_equal(pico_registry_load(registry, PICO_KIND_BACKEND, path, &loaded, &err),
                     PICO_E_ABI);
    assert_non_null(
        strstr(err.message, "expected a plugin of kind backend, found sampler 'other'"));
    /* Kind 0: what the file holds; the fault that is said is the file's own. */
    assert_int_equal(pico_registry_load(registry, 0, path, &loaded, &err), PICO_OK);
    assert_int_equal(loaded->plugin.kind, PICO_KIND_SAMPLER);
    assert_int_equal(pico_registry_load(registry, 0, "good", &loaded, &err), PICO_E_INVALID);
    assert_int_equal(pico_registry_load(registry, 0, FILE_OF("good"), &loaded, &err), PICO_OK);
    assert_string_equal(loaded->plugin.name, "good");
    assert_int_equal(pico_registry_load(registry, 0, FILE_OF("missing_slot"), &loaded, &err),
                     PICO_E_ABI);
    assert_non_null(strstr(err.message, "the required slot dist is NULL"));
    assert_null(loaded);
    assert_int_equal(pico_registry_load(registry, 0, FILE_OF("wrong_kind"), &loaded, &err),
                     PICO_E_ABI);
    assert_non_null(strstr(err.message, "expected a plugin of kind sampler, found decoder"));
    assert_int_equal(unlink(path), 0);
    assert_int_equal(rmdir(folder), 0);
    pico_registry_close(registry);
}

/* Relative folders are refused in both places; the first folder that has the file wins, even if
 * the file there is bad. */
static void search_path_is_strict(void **state) {
    (void)state;
    char folder[] = "/tmp/pico_registry_XXXXXX";
    char path[128], search[512];
    const pico_loaded *loaded;
    pico_registry *registry = NULL;
    pico_error err;
    assert_int_equal(pico_registry_open("/tmp:plugins", &registry, &err), PICO_E_INVALID);
    assert_message(err.message, "plugin path: 'plugins' is a relative folder; plugins are only "
                                "looked for in absolute ones, so that the working directory never "
                                "decides what is run");
    assert_null(registry);
    assert_int_equal(setenv("PICOCHAT_PLUGIN_PATH", ".", 1), 0);
    assert_int_equal(pico_registry_open(NULL, &registry, &err), PICO_E_INVALID);
    assert_memory_equal(err.message, "PICOCHAT_PLUGIN_PATH: '.' is a relative folder", 46);
    assert_int_equal(setenv("PICOCHAT_PLUGIN_PATH", FOLDER "/", 1), 0);
    assert_int_equal(pico_registry_open(NULL, &registry, &err), PICO_OK);
    assert_int_equal(pico_registry_load(registry, PICO_KIND_SAMPLER, "good", &loaded, &err),
                     PICO_OK);
    assert_string_equal(loaded->path, FILE_OF("good"));
    pico_registry_close(registry);
    assert_int_equal(unsetenv("PICOCHAT_PLUGIN_PATH"), 0);
    assert_non_null(mkdtemp(folder));
    (void)snprintf(path, sizeof path, "%s/sample_good.so", folder);
    (void)snprintf(search, sizeof search, "/nonexistent::%s:%s", folder, FOLDER);
    assert_int_equal(symlink(FILE_OF("wrong_magic"), path), 0);
    assert_int_equal(pico_registry_open(search, &registry, &err), PICO_OK);
    assert_int_equal(pico_registry_load(registry, PICO_KIND_SAMPLER, "good", &loaded, &err),
                     PICO_E_ABI);
    assert_non_null(strstr(err.message, "expected magic"));
    pico_registry_close(registry);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(rmdir(folder), 0);
}

typedef struct listing {
    int good, refused, wrong_magic, wrong_name;
} listing;

static void note_entry(void *arg, const pico_registry_entry *entry) {
    listing *l = arg;
    if (strncmp(entry->path, FOLDER "/", sizeof FOLDER) != 0) {
        return;
    }
    assert_true((entry->plugin == NULL) != (entry->reason == NULL));
    if (entry->plugin != NULL && strcmp(entry->plugin->name, "good") == 0) {
        l->good++;
        assert_int_equal(entry->plugin->n_options, 7);
    }
    if (entry->plugin == NULL) {
        l->refused++;
        assert_memory_equal(entry->reason, entry->path, strlen(entry->path));
        l->wrong_magic += strcmp(entry->path, FILE_OF("wrong_magic")) == 0;
        l->wrong_name += strcmp(entry->path, FILE_OF("wrong_name")) == 0 &&
                         strstr(entry->reason, "rename the file to sample_other.so") != NULL;
    }
}

/* `plugins list` sees the good and the refused ones, each with its reason. */
static void list_shows_everything(void **state) {
    (void)state;
    listing l = {0};
    pico_error err;
    pico_registry *registry = open_registry();
    assert_int_equal(pico_registry_list(registry, note_entry, &l, &err), PICO_OK);
    assert_int_equal(l.good, 1);
    assert_int_equal(l.wrong_magic, 1);
    assert_int_equal(l.wrong_name, 1);
    assert_true(l.refused >= 20);
    assert_string_equal(pico_registry_folder(registry, 0), FOLDER);
    assert_null(pico_registry_folder(registry, 64));
    pico_registry_close(registry);
}

static void note_misnamed(void *arg, const pico_registry_entry *entry) {
    int *refused = arg;
    const char *base = strrchr(entry->path, '/') + 1;
    if (strcmp(base, "good.so") == 0 || strcmp(base, "decode_good.so") == 0) {
        assert_null(entry->plugin);
        assert_non_null(strstr(entry->reason, "rename it to sample_good.so"));
        ++*refused;
    }
}

/* A good plugin in a file that selection would never look at is not listed as usable. */
static void misnamed_files_are_refused(void **state) {
    (void)state;
    static const char *const names[] = {"good.so", "decode_good.so"};
    char folder[] = "/tmp/pico_registry_XXXXXX", path[128];
    pico_registry *registry = NULL;
    pico_error err;
    int refused = 0;
    assert_non_null(mkdtemp(folder));
    for (size_t i = 0; i < 2; i++) {
        (void)snprintf(path, sizeof path, "%s/%s", folder, names[i]);
        assert_int_equal(symlink(FILE_OF("good"), path), 0);
    }
    assert_int_equal(pico_registry_open(folder, &registry, &err), PICO_OK);
    assert_int_equal(pico_registry_list(registry, note_misnamed, &refused, &err), PICO_OK);
    assert_int_equal(refused, 2);
    pico_registry_close(registry);
    for (size_t i = 0; i < 2; i++) {
        (void)snprintf(path, sizeof path, "%s/%s", folder, names[i]);
        assert_int_equal(unlink(path), 0);
    }
    assert_int_equal(rmdir(folder), 0);
}

static void kinds_have_names(void **state) {
    (void)state;
    for (uint32_t kind = PICO_KIND_BACKEND; kind <= PICO_KIND_TRAINER; kind++) {
        assert_int_equal(pico_kind_from_name(pico_kind_name(kind)), kind);
    }
    assert_string_equal(pico_kind_prefix(PICO_KIND_ATTENTION), "attn_");
    assert_null(pico_kind_name(0));
    assert_null(pico_kind_prefix(7));
    assert_int_equal(pico_kind_from_name("compressor"), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_fault_has_its_message),
        cmocka_unit_test(failing_create_is_reported),
        cmocka_unit_test(good_plugin_is_bound_and_destroyed_in_order),
        cmocka_unit_test(bad_option_values_stop_creation),
        cmocka_unit_test(files_that_are_no_plugins),
        cmocka_unit_test(missing_names_list_the_folders_and_the_nearest),
        cmocka_unit_test(paths_name_a_file),
        cmocka_unit_test(search_path_is_strict),
        cmocka_unit_test(list_shows_everything),
        cmocka_unit_test(misnamed_files_are_refused),
        cmocka_unit_test(kinds_have_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
