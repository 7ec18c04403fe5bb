/* layers: config */
/* The config layer: INI text, values, precedence, host keys, binding of plugins' options. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <locale.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "config/config.h"
#include "config/keys.h"
#include "config/value.h"

static pico_config *open_config(void) {
    pico_config *config = NULL;
    pico_error err;
    assert_int_equal(pico_config_open(&config, &err), PICO_OK);
    return config;
}

static pico_config *config_of(const char *text) {
    pico_config *config = open_config();
    pico_error err = {0};
    pico_status status = pico_config_read_text(config, "dir/a.ini", text, strlen(text), &err);
    if (status != PICO_OK) {
        print_error("%s\n", err.message);
    }
    assert_int_equal(status, PICO_OK);
    return config;
}

/* Reading n bytes of text, or checking what was read, fails with exactly this message. */
static void fails_n(const char *text, size_t n, const char *message) {
    pico_config *config = open_config();
    pico_error err = {0};
    pico_status status = pico_config_read_text(config, "a.ini", text, n, &err);
    if (status == PICO_OK) {
        status = pico_config_check(config, &err);
    }
    assert_true(status < 0);
    assert_int_equal(err.code, status);
    assert_string_equal(err.message, message);
    pico_config_close(config);
}

static void fails(const char *text, const char *message) {
    fails_n(text, strlen(text), message);
}

static void reads_the_usual_forms(void **state) {
    (void)state;
    pico_error err;
    pico_config *config = config_of("\xef\xbb\xbf; a comment\r\n"
                                    "[model]\r\n"
                                    "path = m.gguf ; the model\r\n"
                                    "\r\n"
                                    "# another\n"
                                    "[generate] ; more\n"
                                    "prompt: Once; upon\n"
                                    "max_tokens=  12\n"
                                    "echo = Yes\n"
                                    "[sampler]\n"
                                    "frequency_penalty = -1e-1\n"
                                    "[attention]\n"
                                    "kv_type = bf16");
    assert_int_equal(pico_config_check(config, &err), PICO_OK);
    assert_string_equal(pico_config_string(config, "generate", "prompt"), "Once; upon");
    assert_int_equal(pico_config_int(config, "generate", "max_tokens"), 12);
    assert_int_equal(pico_config_bool(config, "generate", "echo"), 1);
    assert_true(pico_config_float(config, "sampler", "frequency_penalty") == -0.1);
    assert_string_equal(pico_config_string(config, "attention", "kv_type"), "bf16");
    assert_int_equal(pico_config_int(config, "attention", "kv_type"), 2);
    assert_string_equal(pico_config_origin(config, "generate", "max_tokens"), "dir/a.ini:8");
    pico_config_close(config);
}

static void defaults_are_the_tables(void **state) {
    (void)state;
    pico_config *config = open_config();
    pico_error err;
    assert_int_equal(pico_config_check(config, &err), PICO_OK);
    assert_int_equal(pico_config_int(config, "host", "threads"), -1);
    assert_int_equal(pico_config_int(config, "generate", "seed"), 42);
    assert_string_equal(pico_config_string(config, "backend", "plugin"), "cpu");
    assert_string_equal(pico_config_string(config, "attention", "kv_type"), "f32");
    assert_null(pico_config_path(config, "model", "path"));
    assert_null(pico_config_string(config, "generate", "prompt"));
    assert_string_equal(pico_config_origin(config, "generate", "seed"), "default");
    assert_int_equal(pico_config_is_set(config, "generate", "seed"), 0);
    pico_config_close(config);
}

/* Every row of the table is usable: its default is valid, its flags and environment names are
 * unique, it is found under its own name. */
static void the_table_is_sound(void **state) {
    (void)state;
    size_t n, n_short;
    const pico_config_key *keys = pico_config_keys(&n);
    const pico_config_shorthand *shorthands = pico_config_shorthands(&n_short);
    for (size_t i = 0; i < n; i++) {
        char why[128], a[128], b[128];
        pico_value value;
        const pico_option *option = &keys[i].option;
        assert_non_null(option->help);
        int is_stage = strcmp(keys[i].section, PICO_CONFIG_STAGE_SECTION) == 0;
        assert_ptr_equal(
            pico_config_key_find(is_stage ? "compress.7" : keys[i].section, option->name),
            &keys[i]);
        if (option->def != NULL) {
            assert_int_equal(pico_value_parse(option, option->def, &value, why, sizeof why),
                             PICO_OK);
        }
        assert_true(pico_config_env_name(keys[i].section, option->name, a, sizeof a));
        for (size_t j = 0; j < i; j++) {
            assert_true(pico_config_env_name(keys[j].section, keys[j].option.name, b, sizeof b));
            assert_string_not_equal(a, b);
            if (keys[i].flag != NULL && keys[j].flag != NULL) {
                assert_string_not_equal(keys[i].flag, keys[j].flag);
            }
            if (keys[i].flag_short != NULL && keys[j].flag_short != NULL) {
                assert_string_not_equal(keys[i].flag_short, keys[j].flag_short);
            }
        }
        for (size_t j = 0; j < n_short && keys[i].flag != NULL; j++) {
            assert_string_not_equal(keys[i].flag, shorthands[j].flag);
        }
    }
}

/* Lines around and beyond inih's own limit of 200 bytes give the whole value, cut at a comment by
 * the same rule; so does a value of 64 KiB. */
static void long_values_are_whole(void **state) {
    (void)state;
    enum { MOST = 65000 };
    static const size_t lengths[] = {1,   150, 180, 185, 190,  195, 198,
                                     199, 200, 201, 399, 4000, MOST};
    char *text = malloc(MOST + 100), *value = malloc(MOST + 1);
    assert_non_null(text);
    assert_non_null(value);
    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
        memset(value, 'x', lengths[i]);
        value[lengths[i]] = '\0';
        if (lengths[i] > 10) {
            memcpy(value + 4, " a=b;c: ", 8);
        }
        (void)snprintf(text, MOST + 100, "[generate]\nprompt =  %s ; comment\nseed = 7\n", value);
        pico_config *config = config_of(text);
        assert_string_equal(pico_config_string(config, "generate", "prompt"), value);
        assert_int_equal(pico_config_int(config, "generate", "seed"), 7);
        pico_config_close(config);
    }
    free(text);
    free(value);
}

static void continuation_lines_are_joined(void **state) {
    (void)state;
    char *text = malloc(200000);
    assert_non_null(text);
    pico_config *config = config_of("[chat]\nsystem = You are\n  kind ; said often\n; between\n\n"
                                    "\tand = brief\n  [not a section]\nmax_tokens = 3\n"
                                    "[generate]\nprompt =\n    only below\n");
    assert_string_equal(pico_config_string(config, "chat", "system"),
                        "You are\nkind\nand = brief\n[not a section]");
    assert_int_equal(pico_config_int(config, "chat", "max_tokens"), 3);
    assert_string_equal(pico_config_string(config, "generate", "prompt"), "\nonly below");
    pico_config_close(config);
    /* Many lines, one of them longer than inih takes. */
    size_t used = (size_t)sprintf(text, "[generate]\nprompt = first\n");
    for (int i = 0; i < 300; i++) {
        used += (size_t)sprintf(text + used, "  %0*d\n", 1 + i, 7);
    }
    config = config_of(text);
    const char *value = pico_config_string(config, "generate", "prompt");
    assert_memory_equal(value, "first\n7\n07\n007\n", 15);
    assert_int_equal(strlen(value), 5 + 300 + 300 * 301 / 2);
    pico_config_close(config);
    free(text);
}

static void unreadable_text_is_refused(void **state) {
    (void)state;
    fails("[model\npath = x\n",
          "a.ini:1: expected [section], a name of at most 48 letters, digits, '.', '_' and '-', "
          "and nothing behind it");
    fails("[model] path = x\n",
          "a.ini:1: expected [section], a name of at most 48 letters, digits, '.', '_' and '-', "
          "and nothing behind it");
    fails("[]\n", "a.ini:1: expected [section], a name of at most 48 letters, digits, '.', '_' and "
                  "'-', and nothing behind it");
    fails("[model]\n\njust words\n[generate]\nseed = 1\n",
          "a.ini:3: expected key = value or [section]");
    fails("[model]\njust words", "a.ini:2: expected key = value or [section]");
    fails("path = x\n", "a.ini:1: a key before the first [section]: 'path'");
    fails("[model]\n= x\n", "a.ini:2: no key before '='");
    fails("[model]\n  path = x\n",
          "a.ini:2: this line is indented, which continues the value above it, but there is none; "
          "start keys and [sections] in the first column");
    fails("[model]\npath = a\n[host]\nlog = info\n[model]\npath = b\n",
          "a.ini:6: [model] path was already set in line 2; remove one");
    fails_n("[model]\npath = a\0b\n", 20, "a.ini:2: has a NUL byte; this is not a text file");
}

/* Lines that are too long, with and without a key, and the file as a whole. */
static void absurd_sizes_are_refused(void **state) {
    (void)state;
    size_t n = 5000000;
    char *text = malloc(n + 1);
    assert_non_null(text);
    memset(text, 'k', n);
    text[n] = '\0';
    memcpy(text, "[model]\npath = ", 15);
    fails_n(text, 70000,
            "a.ini:2: the line is longer than 65536 bytes; continue long values on indented lines");
    memcpy(text, "[model]\nkkkkkkkkkkk", 19);
    fails_n(text, 3000, "a.ini:2: expected key = value or [section]");
    fails_n(text, n, "a.ini: larger than 4194304 bytes");
    for (size_t i = 8; i + 1 < n; i += 2) {
        memcpy(text + i, "a\n", 2);
    }
    fails_n(text, 4000000, "a.ini:2: expected key = value or [section]");
    free(text);
    /* More keys than any configuration has. */
    char *keys = malloc(200000);
    assert_non_null(keys);
    size_t used = (size_t)sprintf(keys, "[sampler.x]\n");
    for (int i = 0; i < 5000; i++) {
        used += (size_t)sprintf(keys + used, "k%d=1\n", i);
    }
    fails_n(keys, used, "a.ini: more than 4096 keys");
    free(keys);
}

static void unknown_names_are_refused_with_the_nearest(void **state) {
    (void)state;
    fails("[smapler]\n", "a.ini:1: there is no section [smapler]; did you mean [sampler]?");
    fails("[samplr.standard]\ntop_k = 1\n",
          "a.ini:1: there is no section [samplr.standard]; did you mean [sampler.standard]?");
    fails("[zzz]\n",
          "a.ini:1: there is no section [zzz]; the sections are model, host, backend, "
          "attention, sampler, decoder, compress.N, shape, trainer, generate, chat, and for a "
          "plugin's own keys [kind.NAME] or [compress.N.NAME]");
    fails("[model.x]\na = 1\n", "a.ini:1: there is no section [model.x]; did you mean [model]?");
    fails("[host]\n\ntreads = 2\n", "a.ini:3: [host] has no key treads; did you mean threads?");
    fails("[sampler]\ntemperature = 2\n",
          "a.ini:2: [sampler] has no key temperature, it has plugin, repetition_penalty, "
          "presence_penalty, frequency_penalty, logit_bias; keys of the plugin itself belong into "
          "[sampler.standard]");
    /* What a user wrote is quoted in one line, whatever it holds. */
    fails("[backend]\nplugin = a\n  b\nzz = 2\n",
          "a.ini:4: [backend] has no key zz; it has plugin");
    fails("[backend]\nz\001z = 2\n",
          "a.ini:2: [backend] has no key z z, it has plugin; keys of the plugin itself belong into "
          "[backend.cpu]");
    fails("[compress.01]\nplugin = int8\n",
          "a.ini:1: there is no section [compress.01]; stages are [compress.1] to [compress.999]");
    fails("[compress.2.int8]\na = 1\n[compress.3]\n",
          "a.ini:3: [compress.3] needs a line plugin = NAME");
}

static void invalid_values_are_refused(void **state) {
    (void)state;
    fails("[host]\nthreads = 0\n",
          "a.ini:2: [host] threads = 0: expected a whole number from 1 to 1024 or auto");
    fails("[host]\nlog = wran\n", "a.ini:2: [host] log = wran: expected debug, info, warn or "
                                  "error; did you mean warn?");
    fails("[generate]\nseed = 99999999999999999999\n",
          "a.ini:2: [generate] seed = 99999999999999999999: expected a whole number");
    fails("[generate]\nmax_tokens = 2k\n", "a.ini:2: [generate] max_tokens = 2k: expected a whole "
                                           "number from 0 to 2147483647 (tokens)");
    fails("[generate]\necho = maybe\n", "a.ini:2: [generate] echo = maybe: expected on or off");
    fails("[model]\npath =\n", "a.ini:2: [model] path = : expected a path, found nothing");
    fails("[host]\nthreads = 1\n  log = info\n",
          "a.ini:2: [host] threads = 1 log = info: expected a whole number from 1 to 1024 or auto "
          "(indented lines continue the value above them)");
}

/* Which texts are numbers: those of C without hexadecimal, inf and nan, whatever the locale. */
static void numbers_are_strict(void **state) {
    (void)state;
    const pico_option number = {.name = "x", .type = PICO_OPT_FLOAT};
    const pico_option whole = {.name = "x", .type = PICO_OPT_INT};
    static const char *const bad[] = {"",    ".",   "1.2.3", "1,5",  "0x10",    "inf",
                                      "nan", "1e",  "e1",    "1e+",  "1e999",   "--1",
                                      "+-1", "1 2", "1.0f",  "1e5x", "infinity"};
    static const char *const bad_whole[] = {
        "", "1.0", "1e3", "0x1", "9223372036854775808", "-9223372036854775809", "1_000", "+", "٣"};
    static const struct {
        const char *text;
        double value;
    } good[] = {{"1", 1},     {" -0.5\t", -0.5}, {".25", .25},  {"5.", 5},
                {"1e3", 1e3}, {"+2E-2", 2e-2},   {"1e-999", 0}, {"0010", 10}};
    pico_value value;
    char why[128];
    const char *locale = setlocale(LC_ALL, "de_DE.UTF-8"); /* a decimal comma, where installed */
    (void)locale;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_int_equal(pico_value_parse(&number, bad[i], &value, why, sizeof why),
                         PICO_E_INVALID);
    }
    for (size_t i = 0; i < sizeof bad_whole / sizeof bad_whole[0]; i++) {
        assert_int_equal(pico_value_parse(&whole, bad_whole[i], &value, why, sizeof why),
                         PICO_E_INVALID);
    }
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        assert_int_equal(pico_value_parse(&number, good[i].text, &value, why, sizeof why), PICO_OK);
        assert_true(value.f == good[i].value);
    }
    assert_int_equal(pico_value_parse(&whole, "-9223372036854775808", &value, why, sizeof why),
                     PICO_OK);
    assert_true(value.i == INT64_MIN);
    (void)setlocale(LC_ALL, "C");
}

/* Command line over environment over file over default; the later of two flags. */
static void precedence(void **state) {
    (void)state;
    pico_error err;
    pico_config *config = config_of("[generate]\nseed = 1\nmax_tokens = 1\nubatch = 1\n");
    assert_int_equal(setenv("PICOCHAT_GENERATE_SEED", "2", 1), 0);
    assert_int_equal(setenv("PICOCHAT_GENERATE_MAX_TOKENS", "2", 1), 0);
    assert_int_equal(setenv("PICOCHAT_COMPRESS_4_PLUGIN", "int8", 1), 0);
    assert_int_equal(pico_config_read_environment(config, &err), PICO_OK);
    assert_int_equal(pico_config_set(config, "generate.seed=3", "--set", &err), PICO_OK);
    assert_int_equal(pico_config_set_value(config, "generate", "seed", "4", "--seed", &err),
                     PICO_OK);
    assert_int_equal(pico_config_check(config, &err), PICO_OK);
    assert_int_equal(pico_config_int(config, "generate", "seed"), 4);
    assert_string_equal(pico_config_origin(config, "generate", "seed"), "--seed");
    assert_int_equal(pico_config_int(config, "generate", "max_tokens"), 2);
    assert_string_equal(pico_config_origin(config, "generate", "max_tokens"),
                        "PICOCHAT_GENERATE_MAX_TOKENS");
    assert_int_equal(pico_config_int(config, "generate", "ubatch"), 1);
    assert_string_equal(pico_config_string(config, "compress.4", "plugin"), "int8");
    pico_config_close(config);
    assert_int_equal(unsetenv("PICOCHAT_GENERATE_MAX_TOKENS"), 0);
    assert_int_equal(unsetenv("PICOCHAT_COMPRESS_4_PLUGIN"), 0);
    /* A variable that stands for no key, and one with a bad value, are errors that name it. */
    assert_int_equal(setenv("PICOCHAT_GENERATE_SEED", "x", 1), 0);
    config = open_config();
    assert_int_equal(pico_config_read_environment(config, &err), PICO_OK);
    assert_int_equal(pico_config_check(config, &err), PICO_E_INVALID);
    assert_string_equal(err.message,
                        "PICOCHAT_GENERATE_SEED: [generate] seed = x: expected a whole number");
    pico_config_close(config);
    assert_int_equal(unsetenv("PICOCHAT_GENERATE_SEED"), 0);
    assert_int_equal(setenv("PICOCHAT_HOST_TREADS", "1", 1), 0);
    config = open_config();
    assert_int_equal(pico_config_read_environment(config, &err), PICO_OK);
    assert_int_equal(pico_config_check(config, &err), PICO_E_INVALID);
    assert_string_equal(err.message, "environment: PICOCHAT_HOST_TREADS stands for no key; [host] "
                                     "has threads, plugin_path, log");
    pico_config_close(config);
    assert_int_equal(unsetenv("PICOCHAT_HOST_TREADS"), 0);
}

static void set_splits_at_the_last_dot(void **state) {
    (void)state;
    pico_error err;
    pico_config *config = open_config();
    static const char *const bad[] = {"", "x", "x=1", ".x=1", "x.=1", "=", "seed=a.b"};
    assert_int_equal(pico_config_set(config, "generate.prompt= a=b. ", "--set", &err), PICO_OK);
    assert_string_equal(pico_config_string(config, "generate", "prompt"), " a=b. ");
    assert_int_equal(pico_config_set(config, "compress.2.plugin=int8", "--set", &err), PICO_OK);
    assert_string_equal(pico_config_string(config, "compress.2", "plugin"), "int8");
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_int_equal(pico_config_set(config, bad[i], "--set", &err), PICO_E_INVALID);
    }
    assert_string_equal(err.message, "--set: expected section.key=value, for example "
                                     "sampler.standard.temperature=0.8, found 'seed=a.b'");
    assert_int_equal(pico_config_set(config, "hots.log=info", "--set", &err), PICO_OK);
    assert_int_equal(pico_config_check(config, &err), PICO_E_INVALID);
    assert_string_equal(err.message, "--set: there is no section [hots]; did you mean [host]?");
    pico_config_close(config);
}

/* Relative paths: those of the file from its folder, others from the working directory. */
static void paths_are_absolute(void **state) {
    (void)state;
    char cwd[4096], expected[4200];
    pico_error err;
    assert_non_null(getcwd(cwd, sizeof cwd));
    pico_config *config = config_of("[model]\npath = ../m.gguf\ntokenizer = /t.bin\n"
                                    "[sampler]\nplugin = ./sample_x.so\n");
    (void)snprintf(expected, sizeof expected, "%s/dir/../m.gguf", cwd);
    assert_string_equal(pico_config_path(config, "model", "path"), expected);
    assert_string_equal(pico_config_path(config, "model", "tokenizer"), "/t.bin");
    (void)snprintf(expected, sizeof expected, "%s/dir/./sample_x.so", cwd);
    assert_string_equal(pico_config_string(config, "sampler", "plugin"), expected);
    assert_int_equal(pico_config_set_value(config, "model", "path", "m", "-m", &err), PICO_OK);
    (void)snprintf(expected, sizeof expected, "%s/m", cwd);
    assert_string_equal(pico_config_path(config, "model", "path"), expected);
    pico_config_close(config);
}

static void stages_are_sorted(void **state) {
    (void)state;
    uint32_t numbers[4];
    pico_config *config = config_of("[compress.12]\nplugin = a\n[compress.3]\nplugin = b\n"
                                    "[compress.3.b]\nx = 1\n[compress.5.c]\ny = 1\n");
    assert_int_equal(pico_config_stages(config, numbers, 4), 2);
    assert_int_equal(numbers[0], 3);
    assert_int_equal(numbers[1], 12);
    assert_int_equal(pico_config_stages(config, NULL, 0), 2);
    pico_config_close(config);
}

typedef struct bound {
    double temperature;
    int64_t top_k;
    uint32_t exact, mode;
    const char *label, *table;
} bound;

static const char *const modes[] = {"plain", "sharp", NULL};
static const pico_option options[] = {
    {.name = "temperature",
     .type = PICO_OPT_FLOAT,
     .offset = offsetof(bound, temperature),
     .def = "1.0",
     .max = 10},
    {.name = "top_k",
     .type = PICO_OPT_INT,
     .flags = PICO_OPTF_AUTO,
     .offset = offsetof(bound, top_k),
     .def = "40",
     .max = 100},
    {.name = "exact", .type = PICO_OPT_BOOL, .offset = offsetof(bound, exact)},
    {.name = "mode",
     .type = PICO_OPT_ENUM,
     .offset = offsetof(bound, mode),
     .def = "sharp",
     .choices = modes},
    {.name = "label", .type = PICO_OPT_STRING, .offset = offsetof(bound, label)},
    {.name = "table", .type = PICO_OPT_PATH, .offset = offsetof(bound, table)},
};
enum { N_OPTIONS = sizeof options / sizeof options[0] };

static pico_status bind(const pico_config *config, const char *section, bound *out,
                        pico_error *err) {
    return pico_config_bind(config, section, options, N_OPTIONS, sizeof options[0], out,
                            sizeof *out, err);
}

static void binding_fills_the_struct(void **state) {
    (void)state;
    char cwd[4096], expected[4200];
    bound out;
    pico_error err;
    assert_non_null(getcwd(cwd, sizeof cwd));
    pico_config *config = config_of("[sampler.a]\ntemperature = 0.25\nexact = on\nlabel = hi\n"
                                    "table = t\n[sampler.b]\ntop_k = auto\n");
    memset(&out, 0x5a, sizeof out);
    assert_int_equal(bind(config, "sampler.a", &out, &err), PICO_OK);
    assert_true(out.temperature == 0.25 && out.top_k == 40 && out.exact == 1 && out.mode == 1);
    assert_string_equal(out.label, "hi");
    (void)snprintf(expected, sizeof expected, "%s/dir/t", cwd);
    assert_string_equal(out.table, expected);
    assert_int_equal(setenv("PICOCHAT_SAMPLER_B_TEMPERATURE", "3", 1), 0);
    assert_int_equal(pico_config_read_environment(config, &err), PICO_OK);
    assert_int_equal(unsetenv("PICOCHAT_SAMPLER_B_TEMPERATURE"), 0);
    assert_int_equal(bind(config, "sampler.b", &out, &err), PICO_OK);
    assert_true(out.temperature == 3.0 && out.top_k == -1);
    assert_null(out.label);
    assert_int_equal(pico_config_set(config, "sampler.b.temperature=4", "--set", &err), PICO_OK);
    assert_int_equal(bind(config, "sampler.b", &out, &err), PICO_OK);
    assert_true(out.temperature == 4.0);
    pico_config_close(config);
}

static void binding_refuses_with_origin(void **state) {
    (void)state;
    bound out;
    pico_error err;
    pico_config *config = config_of("[sampler.a]\ntemprature = 1\n[sampler.b]\nmode = plane\n"
                                    "[sampler.c]\nzzzzz = 1\n[sampler.d]\ntop_k = 101\n");
    assert_int_equal(bind(config, "sampler.a", &out, &err), PICO_E_INVALID);
    assert_string_equal(err.message, "dir/a.ini:2: [sampler.a] has no key temprature; did you mean "
                                     "temperature?");
    assert_int_equal(bind(config, "sampler.b", &out, &err), PICO_E_INVALID);
    assert_string_equal(err.message, "dir/a.ini:4: [sampler.b] mode = plane: expected plain or "
                                     "sharp; did you mean plain?");
    assert_int_equal(bind(config, "sampler.c", &out, &err), PICO_E_INVALID);
    assert_string_equal(err.message, "dir/a.ini:6: [sampler.c] has no key zzzzz; it has "
                                     "temperature, top_k, exact, mode, label, table");
    assert_int_equal(bind(config, "sampler.d", &out, &err), PICO_E_INVALID);
    assert_string_equal(err.message, "dir/a.ini:8: [sampler.d] top_k = 101: expected a whole "
                                     "number from 0 to 100 or auto");
    const pico_option required = {
        .name = "tau", .type = PICO_OPT_FLOAT, .flags = PICO_OPTF_REQUIRED, .help = "the target"};
    double tau;
    assert_int_equal(pico_config_bind(config, "sampler.e", &required, 1, sizeof required, &tau,
                                      sizeof tau, &err),
                     PICO_E_INVALID);
    assert_string_equal(err.message, "[sampler.e] needs a value for tau: the target");
    pico_config_close(config);
}

/* --temp reaches the selected sampler, and only that one; against --set the later one counts. */
static void shorthands_follow_the_selection(void **state) {
    (void)state;
    bound out;
    pico_error err;
    const pico_option other = {.name = "tau", .type = PICO_OPT_FLOAT};
    double tau;
    pico_config *config = config_of("[sampler]\nplugin = mine\n[sampler.mine]\ntemperature = 2\n");
    assert_int_equal(pico_config_set_shorthand(config, "--temp", "0.5", &err), PICO_OK);
    assert_int_equal(pico_config_set_shorthand(config, "--tmp", "0.5", &err), PICO_E_NOT_FOUND);
    assert_int_equal(pico_config_check(config, &err), PICO_OK);
    assert_int_equal(bind(config, "sampler.mine", &out, &err), PICO_OK);
    assert_true(out.temperature == 0.5);
    assert_int_equal(bind(config, "sampler.standard", &out, &err), PICO_OK);
    assert_true(out.temperature == 1.0);
    assert_int_equal(
        pico_config_bind(config, "sampler.mine", &other, 1, sizeof other, &tau, sizeof tau, &err),
        PICO_E_INVALID);
    assert_string_equal(err.message,
                        "dir/a.ini:4: [sampler.mine] has no key temperature; it has tau");
    assert_int_equal(pico_config_set(config, "sampler.mine.temperature=3", "--set", &err), PICO_OK);
    assert_int_equal(bind(config, "sampler.mine", &out, &err), PICO_OK);
    assert_true(out.temperature == 3.0);
    pico_config_close(config);
    config = config_of("[sampler]\nplugin = mirostat\n");
    assert_int_equal(pico_config_set_shorthand(config, "--top-k", "3", &err), PICO_OK);
    assert_int_equal(pico_config_bind(config, "sampler.mirostat", &other, 1, sizeof other, &tau,
                                      sizeof tau, &err),
                     PICO_E_INVALID);
    assert_string_equal(err.message,
                        "--top-k sets top_k, which the selected plugin [sampler.mirostat] does not "
                        "have; it has tau; leave the flag out or select another plugin");
    pico_config_close(config);
}

/* A failed read leaves nothing behind, and a second file is refused. */
static void reading_is_all_or_nothing(void **state) {
    (void)state;
    pico_error err;
    pico_config *config = open_config();
    const char *broken = "[generate]\nseed = 9\nbroken\n", *fine = "[generate]\nseed = 8\n";
    assert_int_equal(pico_config_read_text(config, "a", broken, strlen(broken), &err),
                     PICO_E_INVALID);
    assert_int_equal(pico_config_is_set(config, "generate", "seed"), 0);
    assert_int_equal(pico_config_read_text(config, "b", fine, strlen(fine), &err), PICO_OK);
    assert_int_equal(pico_config_int(config, "generate", "seed"), 8);
    assert_int_equal(pico_config_read_text(config, "c", fine, strlen(fine), &err), PICO_E_INVALID);
    pico_config_close(config);
    config = open_config();
    assert_int_equal(pico_config_read_file(config, "/nonexistent.ini", &err), PICO_E_NOT_FOUND);
    pico_config_close(config);
}

typedef struct dump {
    char text[8192];
} dump;

static void dump_value(void *arg, const char *section, const pico_option *option, const char *value,
                       const char *origin) {
    dump *d = arg;
    size_t used = strlen(d->text);
    (void)snprintf(d->text + used, sizeof d->text - used, "%s.%s=%s (%s)\n", section, option->name,
                   value == NULL ? "-" : value, origin);
}

static pico_status count_section(void *arg, const char *section, pico_error *err) {
    (void)err;
    dump *d = arg;
    (void)strncat(d->text, section, sizeof d->text - strlen(d->text) - 1);
    (void)strncat(d->text, " ", sizeof d->text - strlen(d->text) - 1);
    return PICO_OK;
}

/* What `config dump` needs: every key once, with the value that counts and its origin. */
static void dump_lists_effective_values(void **state) {
    (void)state;
    pico_error err;
    static dump d;
    pico_config *config = config_of("[host]\nlog = warn\n[compress.2]\nplugin = int8\n"
                                    "[sampler.a]\ntop_k = 7\n[decoder.z]\nx = 1\n[sampler.a]\n");
    assert_int_equal(pico_config_set(config, "generate.seed=5", "--set", &err), PICO_OK);
    pico_config_each_value(config, dump_value, &d);
    assert_non_null(strstr(d.text, "model.path=- (default)\n"));
    assert_non_null(strstr(d.text, "host.log=warn (dir/a.ini:2)\n"));
    assert_non_null(strstr(d.text, "compress.2.plugin=int8 (dir/a.ini:4)\n"));
    assert_non_null(strstr(d.text, "generate.seed=5 (--set)\n"));
    d.text[0] = '\0';
    pico_config_each_option(config, "sampler.a", options, N_OPTIONS, sizeof options[0], dump_value,
                            &d);
    assert_string_equal(d.text, "sampler.a.temperature=1.0 (default)\n"
                                "sampler.a.top_k=7 (dir/a.ini:6)\n"
                                "sampler.a.exact=- (default)\n"
                                "sampler.a.mode=sharp (default)\n"
                                "sampler.a.label=- (default)\n"
                                "sampler.a.table=- (default)\n");
    d.text[0] = '\0';
    assert_int_equal(pico_config_each_plugin_section(config, count_section, &d, &err), PICO_OK);
    assert_string_equal(d.text, "sampler.a decoder.z ");
    pico_config_close(config);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_the_usual_forms),
        cmocka_unit_test(defaults_are_the_tables),
        cmocka_unit_test(the_table_is_sound),
        cmocka_unit_test(long_values_are_whole),
        cmocka_unit_test(continuation_lines_are_joined),
        cmocka_unit_test(unreadable_text_is_refused),
        cmocka_unit_test(absurd_sizes_are_refused),
        cmocka_unit_test(unknown_names_are_refused_with_the_nearest),
        cmocka_unit_test(invalid_values_are_refused),
        cmocka_unit_test(numbers_are_strict),
        cmocka_unit_test(precedence),
        cmocka_unit_test(set_splits_at_the_last_dot),
        cmocka_unit_test(paths_are_absolute),
        cmocka_unit_test(stages_are_sorted),
        cmocka_unit_test(binding_fills_the_struct),
        cmocka_unit_test(binding_refuses_with_origin),
        cmocka_unit_test(shorthands_follow_the_selection),
        cmocka_unit_test(reading_is_all_or_nothing),
        cmocka_unit_test(dump_lists_effective_values),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
