/*
 * convert: any readable model file to GGUF, with what the configuration asks to be done to the
 * model on the way (pooled KV heads, compress stages). It refuses to write over its own input.
 */
#include "cli/rewrite.h"

static int convert_command(const pico_cli *cli) {
    if (cli->n_argument != 2) {
        return pico_cli_usage(cli, "convert needs two files: IN and OUT.gguf");
    }
    const pico_rewrite job = {.in = cli->argument[0], .out = cli->argument[1]};
    return pico_rewrite_model(cli, &job);
}

const pico_command pico_command_convert = {
    .name = "convert",
    .summary = "write a model as GGUF",
    .usage = "convert IN OUT.gguf [--tokenizer FILE] [--config FILE] [options]",
    .details =
        "An [attention] plugin that wants fewer KV heads, and [compress.N] stages, change "
        "the model on\nthe way, for example --attention mqa --set attention.mqa.convert=mean.",
    .sections = "model.tokenizer model.generation host backend attention",
    .max_arguments = 2,
    .run = convert_command};
