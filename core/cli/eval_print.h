/* What eval reports, for people and for programs. */
#ifndef PICO_CLI_EVAL_PRINT_H
#define PICO_CLI_EVAL_PRINT_H

#include "cli/cli.h"
#include "measure/compare.h"

/* To stdout. comparison: NULL without a reference. json: returns the exit code, and has printed what
 * went wrong. */
int pico_eval_print_json(const pico_cli *cli, const pico_eval_result *model,
                         const pico_comparison *comparison);
void pico_eval_print_table(const pico_eval_result *model, const pico_comparison *comparison);

#endif
