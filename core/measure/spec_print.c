/* Tables of speculation for people and for spreadsheets; JSON is the command's. See spec.h. */
#include <math.h>

#include "measure/spec.h"

const char *pico_spec_gamma_text(uint32_t gamma, char out[16]) {
    if (gamma == PICO_DRAFT_AUTO) {
        (void)snprintf(out, 16, "auto");
    } else {
        (void)snprintf(out, 16, "%u", gamma);
    }
    return out;
}

void pico_spec_print_md(const pico_spec_params *params, const pico_spec_result *result, FILE *to) {
    int scripted = 0;
    (void)fprintf(to, "| decoder | gamma | plain t/s | t/s | speed-up | predicted | accepted | "
                      "tokens a round | drafting |\n"
                      "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n");
    for (uint32_t i = 0; i < result->n_row; i++) {
        const pico_spec_row *row = &result->row[i];
        char gamma[16], accepted[32] = "-";
        if (!isnan(row->acceptance)) {
            (void)snprintf(accepted, sizeof accepted, "%.1f %%", 100 * row->acceptance);
        }
        (void)fprintf(to,
                      "| %s | %s | %.2f ± %.2f | %.2f ± %.2f | %.2f x ± %.2f | %.2f x | %s | %.2f "
                      "| %.1f %% |\n",
                      row->decoder, pico_spec_gamma_text(row->gamma, gamma), row->plain.mean,
                      row->plain.sd, row->speculative.mean, row->speculative.sd, row->speedup.mean,
                      row->speedup.sd, row->predicted, accepted, row->tokens_per_round,
                      100 * row->draft_share);
    }
    (void)fprintf(to,
                  "\ngamma: most drafts of a round; plain and speculative runs of %u tokens in "
                  "turns, %u of each\npredicted: by the cost model, from v and the drafts that "
                  "were made\nv(rows), a round over a plain one of %.3f ms:",
                  params->n_new, params->repeats, 1e3 * result->plain_seconds);
    for (uint32_t i = 1; i < result->n_v; i++) {
        (void)fprintf(to, " v(%u) %.2f", result->v_rows[i], result->v[i]);
    }
    (void)fprintf(to, "\n");
    for (uint32_t i = 0; i < params->n_decoder; i++) {
        scripted |= params->decoder[i].ops == NULL;
    }
    if (scripted) {
        (void)fprintf(to,
                      "scripted: drafts that are right with probability %g, each independent of "
                      "the others; a draft costs %g plain rounds\n",
                      params->accept, params->draft_cost);
    }
}

void pico_spec_print_csv(const pico_spec_result *result, FILE *to) {
    (void)fprintf(to, "decoder,gamma,plain_tokens_per_s,plain_sd,tokens_per_s,sd,speedup,"
                      "speedup_sd,predicted,acceptance,tokens_per_round,draft_share\n");
    for (uint32_t i = 0; i < result->n_row; i++) {
        const pico_spec_row *row = &result->row[i];
        char gamma[16], accepted[32] = "";
        if (!isnan(row->acceptance)) {
            (void)snprintf(accepted, sizeof accepted, "%.6g", row->acceptance);
        }
        (void)fprintf(to, "%s,%s,%.6g,%.6g,%.6g,%.6g,%.6g,%.6g,%.6g,%s,%.6g,%.6g\n", row->decoder,
                      pico_spec_gamma_text(row->gamma, gamma), row->plain.mean, row->plain.sd,
                      row->speculative.mean, row->speculative.sd, row->speedup.mean,
                      row->speedup.sd, row->predicted, accepted, row->tokens_per_round,
                      row->draft_share);
    }
}
