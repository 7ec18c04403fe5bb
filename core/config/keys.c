/* The table of host keys and what follows from names alone; see keys.h. */
#include "config/keys.h"

#include <stdio.h>
#include <string.h>

static const char *const log_levels[] = {"debug", "info", "warn", "error", NULL};
static const char *const kv_types[] = {"f32", "f16", "bf16", "q8_0", NULL};
static const char *const accept_rules[] = {"match", "rejection", NULL};
static const char *const stage_targets[] = {"model", "draft", "both", NULL};
static const char *const generations[] = {"auto", "g0", "g1", "g2", "g3", "g4", NULL};
static const char *const tools[] = {"auto", "none", "calculator", NULL};
static const char *const train_logs[] = {"csv", "json", NULL};
static const char *const packings[] = {"best_fit", "stream", NULL};
static const char *const inits[] = {"model", "random", NULL};
static const char *const families[] = {"nanochat", "llama", "gpt2", NULL};
static const char *const draft_heads[] = {"full", "shared", NULL};
static const char *const overflow_policies[] = {"stop", "slide", NULL};

#define KEY(key_section, key_name, key_type, key_def, long_flag, short_flag, key_help, ...)        \
    {                                                                                              \
        .section = key_section, .flag = long_flag, .flag_short = short_flag, .option = {           \
            .name = key_name,                                                                      \
            .type = key_type,                                                                      \
            .def = key_def,                                                                        \
            .help = key_help,                                                                      \
            __VA_ARGS__                                                                            \
        }                                                                                          \
    }
#define RANGE(low, high) .min = low, .max = high
#define PLAIN .flags = 0 /* nothing to add */

/* clang-format off */
static const pico_config_key keys[] = {
    KEY("model", "path", PICO_OPT_PATH, NULL, "--model", "-m",
        "model file; its format is detected from its content", PLAIN),
    KEY("model", "tokenizer", PICO_OPT_PATH, NULL, "--tokenizer", NULL,
        "tokenizer file; needed when the model file holds none", PLAIN),
    KEY("model", "generation", PICO_OPT_ENUM, "auto", NULL, NULL,
        "which nanochat a .pt checkpoint is of; auto: inferred from its tensors",
        .choices = generations),
    KEY("model", "context", PICO_OPT_INT, "0", "--ctx-size", "-c",
        "positions of a timeline; 0: the length that the model was trained with",
        RANGE(0, 16777216), .unit = "tokens"),

    KEY("host", "threads", PICO_OPT_INT, "auto", "--threads", "-t",
        "threads; auto: the least of affinity mask, CPU quota and physical cores",
        RANGE(1, 1024), .flags = PICO_OPTF_AUTO),
    KEY("host", "plugin_path", PICO_OPT_STRING, NULL, "--plugin-path", NULL,
        "folders to look for plugins in first: absolute, separated by colons", PLAIN),
    KEY("host", "log", PICO_OPT_ENUM, "info", "--log", NULL,
        "least severe message that is printed", .choices = log_levels),

    KEY("backend", "plugin", PICO_OPT_STRING, "cpu", "--backend", NULL,
        "where numbers live and how they are computed: backend_NAME.so; auto: cuda where there is a "
        "device, else cpu",
        PLAIN),

    KEY("attention", "plugin", PICO_OPT_STRING, "mha", "--attention", NULL,
        "what attends to what: attn_NAME.so", PLAIN),
    KEY("attention", "kv_type", PICO_OPT_ENUM, "f32", "--kv-type", NULL,
        "how keys and values are kept, where the attention plugin does not say; q8_0: int8 with a "
        "scale for 32 values, for heads whose width is a multiple of 32",
        .choices = kv_types),

    KEY("sampler", "plugin", PICO_OPT_STRING, "standard", "--sampler", NULL,
        "makes a distribution of logits: sample_NAME.so", PLAIN),
    KEY("sampler", "repetition_penalty", PICO_OPT_FLOAT, "1.0", "--repeat-penalty", NULL,
        "divides (positive) or multiplies (negative) the logits of tokens seen before; 1: off",
        RANGE(0.01, 100)),
    KEY("sampler", "presence_penalty", PICO_OPT_FLOAT, "0", "--presence-penalty", NULL,
        "subtracted from the logits of tokens seen before", RANGE(-2, 2)),
    KEY("sampler", "frequency_penalty", PICO_OPT_FLOAT, "0", "--frequency-penalty", NULL,
        "subtracted once for each time that the token was seen", RANGE(-2, 2)),
    KEY("sampler", "logit_bias", PICO_OPT_STRING, NULL, "--logit-bias", NULL,
        "added to logits: id:bias,id:bias", PLAIN),

    KEY("decoder", "plugin", PICO_OPT_STRING, "greedy", "--decoder", NULL,
        "which tokens to try next: decode_NAME.so", PLAIN),
    KEY("decoder", "draft_n", PICO_OPT_INT, "auto", "--draft-n", NULL,
        "most drafts of a round; auto: as many as pay, measured while it runs, or none",
        RANGE(1, 31), .flags = PICO_OPTF_AUTO, .unit = "tokens"),
    KEY("decoder", "accept", PICO_OPT_ENUM, "match", NULL, NULL,
        "match: the text is exactly the plain decoder's; rejection: lossless in distribution",
        .choices = accept_rules),

    KEY(PICO_CONFIG_STAGE_SECTION, "plugin", PICO_OPT_STRING, NULL, NULL, NULL,
        "stage N of making the model smaller: compress_NAME.so", .flags = PICO_OPTF_REQUIRED),
    KEY(PICO_CONFIG_STAGE_SECTION, "apply_to", PICO_OPT_ENUM, "model", NULL, NULL,
        "what it is applied to: the model, the second model that a decoder opens to draft with, both",
        .choices = stage_targets),

    KEY("shape", "n_layer", PICO_OPT_INT, "0", "--depth", NULL,
        "layers of a fresh model, which train makes instead of opening one; 0: it opens one",
        RANGE(0, 1024)),
    KEY("shape", "family", PICO_OPT_ENUM, "nanochat", "--family", NULL,
        "what it is like; of nanochat the newest generation, or [model] generation",
        .choices = families),
    KEY("shape", "n_embd", PICO_OPT_INT, "auto", NULL, NULL,
        "width; auto: 64 for each layer, rounded up to whole heads",
        RANGE(1, 1048576), .flags = PICO_OPTF_AUTO),
    KEY("shape", "n_head", PICO_OPT_INT, "auto", NULL, NULL,
        "heads; auto: each 128 wide (nanochat) or 64",
        RANGE(1, 1024), .flags = PICO_OPTF_AUTO),
    KEY("shape", "n_kv_head", PICO_OPT_INT, "auto", NULL, NULL,
        "KV heads; auto: as many as heads; 1: multi-query attention",
        RANGE(1, 1024), .flags = PICO_OPTF_AUTO),
    KEY("shape", "n_ff", PICO_OPT_INT, "auto", NULL, NULL,
        "width of the feed-forward layers; auto: 4 n_embd, for llama 8/3 n_embd in steps of 32",
        RANGE(1, 1048576), .flags = PICO_OPTF_AUTO),
    KEY("shape", "context", PICO_OPT_INT, "2048", NULL, NULL,
        "positions", RANGE(1, 16777216), .unit = "tokens"),
    KEY("shape", "windows", PICO_OPT_STRING, NULL, NULL, NULL,
        "of nanochat's layers, S (short) or L (long) for each, repeated; none: SSSL", PLAIN),
    KEY("shape", "tied_head", PICO_OPT_BOOL, "off", NULL, NULL,
        "make logits with the embeddings", PLAIN),
    KEY("shape", "mtp_heads", PICO_OPT_INT, "0", NULL, NULL,
        "heads for the tokens after the next one, of a fresh model or added to the one that is opened",
        RANGE(0, 64)),
    KEY("shape", "draft_slots", PICO_OPT_INT, "0", NULL, NULL,
        "slots of a draft head, of a fresh model or added to the one that is opened", RANGE(0, 64)),
    KEY("shape", "draft_head", PICO_OPT_ENUM, "full", NULL, NULL,
        "how it makes logits: full: with a matrix of its own for each slot; shared: with the output "
        "matrix",
        .choices = draft_heads),
    KEY("shape", "draft_reads_token", PICO_OPT_BOOL, "off", NULL, NULL,
        "whether the draft head is told the next token; then its slots are the places after that one",
        PLAIN),
    KEY("shape", "draft_vocab", PICO_OPT_INT, "0", NULL, NULL,
        "tokens that a shared draft head knows: the most frequent ones of the text; 0: all",
        RANGE(0, 16777216), .unit = "tokens"),
    KEY("shape", "draft_hidden", PICO_OPT_INT, "auto", NULL, NULL,
        "inner width of the draft head; auto: half of n_embd",
        RANGE(1, 1048576), .flags = PICO_OPTF_AUTO),

    KEY("trainer", "plugin", PICO_OPT_STRING, "distill", "--trainer", NULL,
        "losses, optimiser and schedule: train_NAME.so", PLAIN),
    KEY("trainer", "data", PICO_OPT_PATH, NULL, "--data", NULL,
        "text to learn from: a file, or a folder whose files are taken", PLAIN),
    KEY("trainer", "validation", PICO_OPT_PATH, NULL, "--validation", NULL,
        "text to validate on; none: a twentieth of the data is held out", PLAIN),
    KEY("trainer", "separator", PICO_OPT_STRING, NULL, "--separator", NULL,
        "what stands between documents; none: <|endoftext|> where a file has it, else each file is"
        " one document", PLAIN),
    KEY("trainer", "cache", PICO_OPT_PATH, NULL, NULL, NULL,
        "file that keeps the tokens of these texts for the next run; made again when texts or"
        " vocabulary are others", PLAIN),
    KEY("trainer", "packing", PICO_OPT_ENUM, "best_fit", NULL, NULL,
        "how documents fill rows; best_fit: whole where they fit, the shortest are cut (nanochat's rule);"
        " stream: one after the other, and nothing is lost",
        .choices = packings),
    KEY("trainer", "output", PICO_OPT_PATH, NULL, "--out", NULL,
        "folder for models, state and log", PLAIN),
    KEY("trainer", "resume", PICO_OPT_BOOL, "off", "--resume", NULL,
        "go on from the state in the output folder", PLAIN),
    KEY("trainer", "init", PICO_OPT_ENUM, "model", "--init", NULL,
        "where values come from at first: the model, or the random numbers of a fresh one",
        .choices = inits),
    KEY("trainer", "seed", PICO_OPT_INT, "42", NULL, NULL,
        "of fresh values and of the order of the data", PLAIN),
    KEY("trainer", "eval_every", PICO_OPT_INT, "250", NULL, NULL,
        "steps between validations; 0: only at the end", RANGE(0, 1e9), .unit = "steps"),
    KEY("trainer", "eval_rows", PICO_OPT_INT, "64", NULL, NULL,
        "most rows of a validation", RANGE(1, 1e9), .unit = "rows"),
    KEY("trainer", "sample", PICO_OPT_STRING, NULL, NULL, NULL,
        "texts that the model continues after each validation, one a line (\\n is a newline)", PLAIN),
    KEY("trainer", "sample_tokens", PICO_OPT_INT, "32", NULL, NULL,
        "most tokens of such a continuation", RANGE(1, 65536), .unit = "tokens"),
    KEY("trainer", "save_every", PICO_OPT_INT, "500", NULL, NULL,
        "steps between checkpoints; 0: only at the end", RANGE(0, 1e9), .unit = "steps"),
    KEY("trainer", "log", PICO_OPT_ENUM, "csv", NULL, NULL,
        "how each step is logged: csv, log.csv; json, log.jsonl, one object a line",
        .choices = train_logs),
    KEY("trainer", "stop_at", PICO_OPT_INT, "0", NULL, NULL,
        "end this run after that step of the schedule; 0: at its end", RANGE(0, 1e9),
        .unit = "steps"),

    KEY("generate", "prompt", PICO_OPT_STRING, NULL, "--prompt", "-p",
        "the text to continue", PLAIN),
    KEY("generate", "max_tokens", PICO_OPT_INT, "256", "--n-predict", "-n",
        "most new tokens", RANGE(0, 2147483647), .unit = "tokens"),
    KEY("generate", "seed", PICO_OPT_INT, "42", "--seed", "-s",
        "the same seed gives the same text", PLAIN),
    KEY("generate", "echo", PICO_OPT_BOOL, "off", "--echo", NULL,
        "print the prompt before the text", PLAIN),
    KEY("generate", "stop", PICO_OPT_STRING, NULL, "--stop", NULL,
        "texts that end the answer and are not printed, one a line (\\n is a newline)", PLAIN),
    KEY("generate", "ignore_eos", PICO_OPT_BOOL, "off", "--ignore-eos", NULL,
        "go on after the end-of-text token", PLAIN),
    KEY("generate", "overflow", PICO_OPT_ENUM, "stop", "--overflow", NULL,
        "when the context is full: end the text, or slide on and forget its beginning",
        .choices = overflow_policies),
    KEY("generate", "ubatch", PICO_OPT_INT, "512", "--ubatch", "-ub",
        "most rows of one forward pass", RANGE(1, 4096), .unit = "rows"),

    KEY("chat", "system", PICO_OPT_STRING, NULL, "--system", NULL,
        "what the model is told before the conversation", PLAIN),
    KEY("chat", "max_tokens", PICO_OPT_INT, "512", NULL, NULL,
        "most new tokens of one answer", RANGE(1, 2147483647), .unit = "tokens"),
    KEY("chat", "template", PICO_OPT_STRING, "auto", "--chat-template", NULL,
        "how the conversation is written: auto (as the model says), chatml, llama3, nanochat, llama2,"
        " plain, or a file, with a '/' in its path", PLAIN),
    KEY("chat", "tool", PICO_OPT_ENUM, "auto", "--tool", NULL,
        "what the model may call in an answer; auto: the calculator, where template and vocabulary"
        " have the tokens for it", .choices = tools),
};

static const pico_config_shorthand shorthands[] = {
    {"--temp", "sampler", "temperature", "randomness; 0: always the best token"},
    {"--top-k", "sampler", "top_k", "keep the k best tokens; 0: all"},
    {"--top-p", "sampler", "top_p", "keep the best tokens that together have this probability"},
    {"--min-p", "sampler", "min_p", "drop tokens below this share of the best one's probability"},
};
/* clang-format on */

/* Kinds whose sections are [kind] and [kind.NAME]. */
static const char *const plain_kinds[] = {"backend", "attention", "sampler", "decoder", "trainer"};

const pico_config_key *pico_config_keys(size_t *n) {
    *n = sizeof keys / sizeof keys[0];
    return keys;
}

const pico_config_shorthand *pico_config_shorthands(size_t *n) {
    *n = sizeof shorthands / sizeof shorthands[0];
    return shorthands;
}

/* Reads "compress.N" at the start of section; returns what follows the digits, NULL if none. */
static const char *skip_stage(const char *section, uint32_t *number) {
    static const char prefix[] = "compress.";
    uint32_t value = 0;
    size_t n = 0;
    if (strncmp(section, prefix, sizeof prefix - 1) != 0) {
        return NULL;
    }
    const char *digits = section + sizeof prefix - 1;
    for (; digits[n] >= '0' && digits[n] <= '9' && n < 4; n++) {
        value = value * 10 + (uint32_t)(digits[n] - '0');
    }
    /* One way of writing each number, so that [compress.1] and [compress.01] cannot both exist. */
    if (n == 0 || digits[0] == '0' || value > PICO_CONFIG_STAGE_MAX) {
        return NULL;
    }
    *number = value;
    return digits + n;
}

uint32_t pico_config_stage_of(const char *section) {
    uint32_t number = 0;
    const char *rest = skip_stage(section, &number);
    return rest != NULL && *rest == '\0' ? number : 0;
}

const pico_config_key *pico_config_key_find(const char *section, const char *key) {
    const char *table_section =
        pico_config_stage_of(section) != 0 ? PICO_CONFIG_STAGE_SECTION : section;
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        if (strcmp(keys[i].section, table_section) == 0 && strcmp(keys[i].option.name, key) == 0) {
            return &keys[i];
        }
    }
    return NULL;
}

int pico_config_section_is_host(const char *section) {
    if (pico_config_stage_of(section) != 0) {
        return 1;
    }
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        if (strcmp(keys[i].section, section) == 0 &&
            strcmp(section, PICO_CONFIG_STAGE_SECTION) != 0) {
            return 1;
        }
    }
    return 0;
}

/* ".name" of lower-case letters, digits, underscores and dashes. */
static int is_dot_name(const char *text) {
    static const char allowed[] = "abcdefghijklmnopqrstuvwxyz0123456789_-";
    return text[0] == '.' && text[1] != '\0' && text[1 + strspn(text + 1, allowed)] == '\0';
}

int pico_config_section_is_plugin(const char *section) {
    uint32_t number;
    const char *rest = skip_stage(section, &number);
    if (rest != NULL) {
        return is_dot_name(rest);
    }
    for (size_t i = 0; i < sizeof plain_kinds / sizeof plain_kinds[0]; i++) {
        size_t n = strlen(plain_kinds[i]);
        if (strncmp(section, plain_kinds[i], n) == 0 && is_dot_name(section + n)) {
            return 1;
        }
    }
    return 0;
}

int pico_config_env_name(const char *section, const char *key, char *out, size_t size) {
    int n = snprintf(out, size, "PICOCHAT_%s_%s", section, key);
    if (n < 0 || (size_t)n >= size) {
        return 0;
    }
    for (char *at = out; *at != '\0'; at++) {
        if (*at >= 'a' && *at <= 'z') {
            *at = (char)(*at - 'a' + 'A');
        } else if (*at == '.' || *at == '-') {
            *at = '_';
        }
    }
    return 1;
}
