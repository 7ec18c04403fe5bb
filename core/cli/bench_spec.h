/* The part of bench that compares decoders that draft: --decoders, --gamma, --accept. */
#ifndef PICO_CLI_BENCH_SPEC_H
#define PICO_CLI_BENCH_SPEC_H

#include "cli/cli.h"
#include "measure/bench.h"

/* Whether the options ask for it. */
int pico_bench_wants_spec(const pico_cli *cli);
/* Measures and prints in the format md, csv or json; n_new tokens, `repeats` times. The runtime has
 * been opened for decoding. Gives the exit code. */
int pico_bench_spec(const pico_cli *cli, pico_runtime *runtime, const char *format, uint32_t n_new,
                    uint32_t repeats);

#endif
