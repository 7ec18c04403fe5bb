/*
 * tales: a corpus of generated stories on standard output, for training the models of this folder.
 * Documents are separated by <|endoftext|> on a line of its own. Whole documents only: the last one is
 * the one with which the wanted size is reached.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "corpus/tales.h"

enum { DONE, FAILED, USAGE };

static const char separator[] = "<|endoftext|>\n";

static int usage(const char *complaint, const char *what) {
    (void)fprintf(stderr,
                  "tales: error: %s%s\n"
                  "usage: tales [--seed N] (--bytes N | --documents N)\n"
                  "  --seed N       which corpus; default 1\n"
                  "  --bytes N      whole documents until there are N bytes\n"
                  "  --documents N  so many documents\n",
                  complaint, what);
    return USAGE;
}

/* A number and nothing else. */
static int parse(const char *text, uint64_t *out) {
    char *end = NULL;
    errno = 0;
    *out = strtoull(text, &end, 10);
    return text[0] >= '0' && text[0] <= '9' && *end == '\0' && errno == 0;
}

static int write_all(uint64_t seed, uint64_t bytes, uint64_t documents) {
    char text[TALE_BYTES];
    uint64_t written = 0;
    for (uint64_t i = 0; i < documents && written < bytes && !ferror(stdout); i++) {
        if (i > 0) {
            written += fwrite(separator, 1, sizeof separator - 1, stdout);
        }
        const size_t n = tale_write(seed, i, text);
        written += fwrite(text, 1, n, stdout);
    }
    if (fflush(stdout) != 0 || ferror(stdout)) {
        (void)fprintf(stderr, "tales: error: standard output cannot be written: %s\n",
                      strerror(errno));
        return FAILED;
    }
    return DONE;
}

int main(int argc, char **argv) {
    uint64_t seed = 1, bytes = UINT64_MAX, documents = UINT64_MAX;
    int n_size = 0;
    for (int i = 1; i < argc; i += 2) {
        const int is_seed = strcmp(argv[i], "--seed") == 0;
        const int is_bytes = strcmp(argv[i], "--bytes") == 0;
        if (!is_seed && !is_bytes && strcmp(argv[i], "--documents") != 0) {
            return usage("unknown argument ", argv[i]);
        }
        if (i + 1 == argc) {
            return usage("a number is missing after ", argv[i]);
        }
        n_size += !is_seed;
        if (!parse(argv[i + 1], is_seed ? &seed : is_bytes ? &bytes : &documents)) {
            return usage("expected a whole number, found ", argv[i + 1]);
        }
    }
    if (n_size != 1) {
        return usage("give one of --bytes and --documents", "");
    }
    return write_all(seed, bytes, documents);
}
