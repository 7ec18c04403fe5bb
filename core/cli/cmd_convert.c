/*
 * convert: any readable model file to GGUF, its weights as they are or in another float type, with
 * what the configuration asks to be done to the model on the way (pooled KV heads, compress stages).
 * It refuses to write over its own input.
 */
#include "cli/rewrite.h"

/* NONE where the word is no float type. */
static uint32_t float_type(const char *word) {
    const uint32_t dtype = pico_dtype_of_word(word);
    return dtype == PICO_DTYPE_F32 || dtype == PICO_DTYPE_F16 || dtype == PICO_DTYPE_BF16
               ? dtype
               : (uint32_t)PICO_DTYPE_NONE;
}

static int convert_command(const pico_cli *cli) {
    if (cli->n_argument != 2) {
        return pico_cli_usage(cli, "convert needs two files: IN and OUT.gguf");
    }
    const char *type = pico_cli_value(cli, "--type");
    const pico_rewrite job = {.in = cli->argument[0],
                              .out = cli->argument[1],
                              .dtype = type == NULL ? (uint32_t)PICO_DTYPE_NONE : float_type(type)};
    if (type != NULL && job.dtype == PICO_DTYPE_NONE) {
        return pico_cli_usage(cli, "--type is f32, f16 or bf16, not '%s'; compress makes codes",
                              type);
    }
    return pico_rewrite_model(cli, &job);
}

static const pico_cli_option options[] = {{"--type", "--outtype", "TYPE",
                                           "of the matrices: f32, f16 or bf16, rounded to nearest; "
                                           "codes are widened. Vectors become f32. "
                                           "Without it all weights stay as they are"}};

const pico_command pico_command_convert = {
    .name = "convert",
    .summary = "write a model as GGUF",
    .usage = "convert IN OUT.gguf [--type TYPE] [--tokenizer FILE] [--config FILE] [options]",
    .details =
        "An [attention] plugin that wants fewer KV heads, and [compress.N] stages, change "
        "the model on\nthe way, for example --attention mqa --set attention.mqa.convert=mean. "
        "--type comes before these.",
    .sections = "model.tokenizer model.generation host backend attention",
    .options = options,
    .n_options = sizeof options / sizeof *options,
    .max_arguments = 2,
    .run = convert_command};
