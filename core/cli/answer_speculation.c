/* What is said of speculation after an answer; see answer.h. */
#include <math.h>

#include "cli/answer.h"

enum { ENOUGH_DRAFTS = 48 }; /* to say that a drafter is never right */

void pico_answer_check_drafts(pico_runtime *runtime, const pico_decode *decode, int *reported) {
    const pico_decode_stats *stats = pico_decode_statistics(decode);
    if (*reported || stats->n_accepted != 0 || stats->n_tried[0] < ENOUGH_DRAFTS) {
        return;
    }
    *reported = 1;
    pico_log_write(&runtime->log, PICO_LOG_WARN,
                   "none of %llu drafts of decoder %s was right: is it a draft model or head that "
                   "was trained for this model, or a text that repeats itself? At a high "
                   "temperature few drafts can be right. The text is the same without: --decoder "
                   "greedy",
                   (unsigned long long)stats->n_drafted, runtime->decoder.loaded->plugin.name);
}

/* " 82 71 60": per cent of the drafts at each place that were right. */
static void by_place(const pico_decode_stats *stats, char *out, size_t size) {
    size_t used = 0;
    out[0] = '\0';
    for (uint32_t i = 0; i < PICO_DRAFT_MAX && used + 8 < size && stats->n_tried[i] != 0; i++) {
        int n = snprintf(out + used, size - used, " %.0f",
                         100.0 * (double)stats->n_right[i] / (double)stats->n_tried[i]);
        used += n > 0 ? (size_t)n : 0;
    }
}

static void describe_costs(pico_runtime *runtime, const pico_decode *decode,
                           const pico_decode_stats *stats) {
    char worth[160] = "", even[96] = "";
    pico_draft_report report;
    double live = (double)stats->n_decode_sequence / (double)stats->n_decode_round;
    double all = stats->decode_seconds > 0 ? stats->decode_seconds : 1e-9;
    double draft = 100 * stats->draft_seconds / all, verify = 100 * stats->verify_seconds / all;
    pico_decode_draft_report(decode, live < 1 ? 1 : (uint32_t)(live + 0.5), &report);
    if (!isnan(report.plain_seconds)) {
        double reached = (double)stats->n_decode_token / all * report.plain_seconds / live;
        (void)snprintf(worth, sizeof worth,
                       "; %.2f x plain decoding, expected of %u draft%s a round %.2f x", reached,
                       report.limit, report.limit == 1 ? "" : "s", report.speedup);
    }
    if (report.break_even <= 1) {
        (void)snprintf(even, sizeof even, ", pays if more than %.0f %% are right",
                       100 * report.break_even);
    }
    pico_log_write(&runtime->log, PICO_LOG_INFO,
                   "speculation: drafting %.1f %% of the time, verifying %.1f %%, the rest %.1f "
                   "%%%s%s",
                   draft, verify, fmax(0, 100 - draft - verify), worth, even);
}

void pico_answer_speculation(pico_runtime *runtime, const pico_decode *decode, int *reported) {
    const pico_decode_stats *stats = pico_decode_statistics(decode);
    char places[160];
    if (stats->n_drafted == 0 || stats->n_decode_round == 0) {
        return;
    }
    by_place(stats, places, sizeof places);
    pico_log_write(&runtime->log, PICO_LOG_INFO,
                   "speculation: %llu rounds of %.2f tokens, %llu of %llu drafts accepted (%.1f "
                   "%%); right by place:%s %%",
                   (unsigned long long)stats->n_decode_round,
                   (double)stats->n_decode_token / (double)stats->n_decode_sequence,
                   (unsigned long long)stats->n_accepted, (unsigned long long)stats->n_drafted,
                   100.0 * (double)stats->n_accepted / (double)stats->n_drafted, places);
    describe_costs(runtime, decode, stats);
    pico_answer_check_drafts(runtime, decode, reported);
}
