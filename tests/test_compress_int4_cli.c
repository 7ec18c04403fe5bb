/* layers: model */
/*
 * compress_int4 through the program: a stage at load and the same stage written as GGUF compute the
 * same, whatever the format, the method and the order of the columns; the thread count does not
 * matter; errors carry the stage's number and exit with 2; a misspelt option names the right one.
 */
#include "cli_support.h"

typedef struct stage_options {
    const char *format, *method, *act_order;
} stage_options;

static void make_paths(char *folder, char model[128], char text[128], char small[128]) {
    (void)snprintf(model, 128, "%s/tiny.gguf", folder);
    (void)snprintf(text, 128, "--set=compress.1.int4.calibration=%s/text", folder);
    (void)snprintf(small, 128, "%s/small.gguf", folder);
    cli_make_tiny(model, NULL);
    char path[128], words[4000];
    for (size_t i = 0; i < sizeof words; i++) {
        words[i] = "The cat sat on a mat. "[(i * i / 7 + i) % 22];
    }
    (void)snprintf(path, sizeof path, "%s/text", folder);
    cli_write(path, words, sizeof words);
}

static void remove_paths(char *folder, const char *model, const char *small) {
    char path[128];
    (void)snprintf(path, sizeof path, "%s/text", folder);
    (void)unlink(path);
    (void)unlink(model);
    (void)unlink(small);
    (void)rmdir(folder);
    free(folder);
}

static void a_stage_at_load_equals_the_written_file(void **state) {
    static const stage_options cases[] = {{"q4_0", "rtn", "off"},
                                          {"nf4", "awq", "off"},
                                          {"q4_0", "gptq", "on"},
                                          {"nf4", "awq_gptq", "on"}};
    char model[128], text[128], small[128];
    char *folder = cli_folder();
    static cli_run loaded, written, plain;
    (void)state;
    make_paths(folder, model, text, small);
    cli_expect(&plain, 0, "eval", "-m", model, "-f", PICO_SOURCE_DIR "/LICENSE", "-o", "json");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char format[64], method[64], order[64];
        (void)snprintf(format, sizeof format, "compress.1.int4.format=%s", cases[i].format);
        (void)snprintf(method, sizeof method, "compress.1.int4.method=%s", cases[i].method);
        (void)snprintf(order, sizeof order, "compress.1.int4.act_order=%s", cases[i].act_order);
        cli_expect(&loaded, 0, "eval", "-m", model, "-f", PICO_SOURCE_DIR "/LICENSE", "-o", "json",
                   "-t", "2", "--set", "compress.1.plugin=int4", "--set", format, "--set", method,
                   "--set", order, text);
        cli_expect(&written, 0, "compress", "-q", "-m", model, "-o", small, "-t", "1", "--set",
                   "compress.1.plugin=int4", "--set", format, "--set", method, "--set", order,
                   text);
        cli_expect(&written, 0, "eval", "-m", small, "-f", PICO_SOURCE_DIR "/LICENSE", "-o",
                   "json");
        assert_string_equal(loaded.out, written.out);
        assert_string_not_equal(loaded.out, plain.out);
    }
    remove_paths(folder, model, small);
}

static void errors_name_the_stage(void **state) {
    char model[128], text[128], small[128];
    char *folder = cli_folder();
    static cli_run run;
    (void)state;
    make_paths(folder, model, text, small);
    cli_expect(&run, 2, "run", "-m", model, "-p", "a", "--set", "compress.3.plugin=int4", "--set",
               "compress.3.int4.method=gptq");
    assert_contains(run.err, "[compress.3] int4: method = gptq needs a text");
    assert_one_message(&run);
    cli_expect(&run, 2, "run", "-m", model, "-p", "a", "--log", "error", "--set",
               "compress.1.plugin=int4", "--set", "compress.1.int4.method=gptq", "--set",
               "compress.1.int4.samples=1000", text);
    assert_contains(run.err, "[compress.1] int4: calibration: ");
    assert_contains(run.err, "enough for");
    assert_one_message(&run);
    cli_expect(&run, 2, "run", "-m", model, "-p", "a", "--set", "compress.1.plugin=int4", "--set",
               "compress.1.int4.methd=gptq");
    assert_contains(run.err, "method");
    remove_paths(folder, model, small);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_stage_at_load_equals_the_written_file),
        cmocka_unit_test(errors_name_the_stage),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
