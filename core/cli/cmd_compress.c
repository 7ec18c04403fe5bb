/*
 * compress: the [compress.N] stages of a configuration, or one plugin, applied to a model, and the
 * result written as GGUF. The plan goes to stdout before any work is done. It refuses to run without
 * a stage and to write over its own input.
 */
#include "cli/rewrite.h"

/* --plugin NAME is [compress.1] plugin, where there are no stages yet. */
static int add_stage(const pico_cli *cli) {
    const char *name = pico_cli_value(cli, "--plugin");
    pico_error err = {0};
    size_t n = pico_config_stages(cli->config, NULL, 0);
    if (name == NULL) {
        return n != 0 ? PICO_EXIT_OK
                      : pico_cli_usage(cli, "which compressor? --plugin NAME, or a --config FILE "
                                            "with [compress.N] sections");
    }
    if (n != 0) {
        return pico_cli_usage(cli, "the configuration has [compress.N] stages already; one of them "
                                   "is changed with --set compress.N.plugin=NAME, not --plugin");
    }
    return pico_config_set_value(cli->config, "compress.1", "plugin", name, "--plugin", &err) ==
                   PICO_OK
               ? PICO_EXIT_OK
               : pico_cli_fail_error(cli, &err);
}

static int compress_command(const pico_cli *cli) {
    const char *out = pico_cli_value(cli, "-o");
    int plan_only = pico_cli_has(cli, "--dry-run");
    if (out != NULL && cli->n_argument != 0) {
        return pico_cli_usage(cli, "the file to write is given twice: %s and %s", out,
                              cli->argument[0]);
    }
    out = cli->n_argument != 0 ? cli->argument[0] : out;
    if (out == NULL && !plan_only) {
        return pico_cli_usage(cli, "compress needs a file to write: -o OUT.gguf (or --dry-run)");
    }
    int code = add_stage(cli);
    const pico_rewrite job = {
        .out = out, .table = cli->quiet && !plan_only ? NULL : stdout, .plan_only = plan_only};
    return code == PICO_EXIT_OK ? pico_rewrite_model(cli, &job) : code;
}

static const pico_cli_option options[] = {
    {"-o", NULL, "OUT.gguf", "the file to write"},
    {"--plugin", NULL, "NAME", "the compressor, as [compress.1] plugin: compress_NAME.so"},
    {"--dry-run", NULL, NULL, "print the plan, and do nothing"}};

const pico_command pico_command_compress = {
    .name = "compress",
    .summary = "make a model smaller, and write it as GGUF",
    .usage = "compress -m IN -o OUT.gguf (--plugin NAME | --config FILE) [options]",
    .details =
        "The options of the plugin are those of its section: --set "
        "compress.1.int8.granularity=row;\n"
        "'picochat plugins show int8' lists them. The plan is printed before any work is done: "
        "what\n"
        "cannot be done as asked is an error. [compress.N] sections also work at load: with run, "
        "eval,\nbench and chat the same stages change the model in memory.",
    .sections = "model.path model.tokenizer model.generation host backend attention",
    .options = options,
    .n_options = sizeof options / sizeof *options,
    .max_arguments = 1,
    .runs_plugins = 1,
    .run = compress_command};
