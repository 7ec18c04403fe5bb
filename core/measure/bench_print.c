/* Tables of a bench for people and for spreadsheets; JSON is the command's. See bench.h. */
#include <math.h>
#include <string.h>

#include "measure/bench.h"

/* The layout that holds most of the weights' bytes names the whole. */
static const char *main_dtype(const pico_model_file *file) {
    uint64_t bytes[PICO_DTYPE_NF4 + 1] = {0};
    uint32_t best = PICO_DTYPE_F32;
    for (uint32_t i = 0; i < file->n_tensor; i++) {
        uint32_t dtype = file->tensor[i].data.dtype;
        if (dtype <= PICO_DTYPE_NF4) {
            bytes[dtype] += file->tensor[i].bytes;
            best = bytes[dtype] > bytes[best] ? dtype : best;
        }
    }
    return pico_dtype_name(best);
}

void pico_bench_describe(const pico_model *model, const char *name, pico_bench_about *out) {
    const pico_model_file *file = model->file;
    *out = (pico_bench_about){0};
    (void)snprintf(out->model, sizeof out->model, "%.100s %s",
                   file->name != NULL ? file->name : name, main_dtype(file));
    for (char *c = out->model; *c != '\0'; c++) {
        if (*c == '|' || *c == ',' || *c == '\n' || *c == '"') {
            *c = '_'; /* would break the table */
        }
    }
    for (uint32_t i = 0; i < file->n_tensor; i++) {
        out->model_bytes += file->tensor[i].bytes;
        out->n_params += (uint64_t)(file->tensor[i].data.rows * file->tensor[i].data.cols);
    }
}

/* "438.12 MiB" */
static void print_scaled(FILE *to, double value, double unit, const char *const units[3]) {
    int i = 0;
    for (value /= unit; i < 2 && value >= unit; i++) {
        value /= unit;
    }
    (void)fprintf(to, "%.2f %s", value, units[i]);
}

static void print_size(FILE *to, uint64_t bytes) {
    static const char *const units[3] = {"KiB", "MiB", "GiB"};
    print_scaled(to, (double)bytes, 1024.0, units);
}

static void print_count(FILE *to, uint64_t count) {
    static const char *const units[3] = {"K", "M", "B"};
    print_scaled(to, (double)count, 1000.0, units);
}

static void print_share(FILE *to, const pico_bench_row *row) {
    if (isnan(row->share)) {
        (void)fprintf(to, "-");
    } else {
        (void)fprintf(to, "%.1f %%%s%s", 100.0 * row->share,
                      row->kind == PICO_BENCH_PREFILL ? " of FMA" : "",
                      row->probe_fault ? " (!)" : "");
    }
}

static void print_notes(const pico_bench_result *result, FILE *to) {
    int faults = 0;
    for (size_t i = 0; i < result->n_row; i++) {
        faults += result->row[i].probe_fault;
    }
    if (result->note[0] != '\0') {
        (void)fprintf(to, "%s\n", result->note);
    } else {
        (void)fprintf(to,
                      "limits (%s probe): %.1f GB/s read, %.0f GFLOP/s F32; a decode step reads "
                      "%.1f MB of weights\n",
                      result->instructions, result->read_rate / 1e9, result->flop_rate / 1e9,
                      (double)result->step_bytes / 1e6);
    }
    (void)fprintf(to, "peak memory ");
    print_size(to, result->peak_rss);
    (void)fprintf(to, ", KV pages ");
    print_size(to, result->kv_bytes);
    (void)fprintf(to, " (%.2f KiB a token)\n", (double)result->kv_bytes_per_token / 1024.0);
    if (faults != 0) {
        (void)fprintf(to,
                      "(!) probe fault: a share above %.0f %% means that something else slowed the "
                      "probe down; measure again\n",
                      100.0 * PICO_BENCH_MAX_SHARE);
    }
}

void pico_bench_print_md(const pico_bench_about *about, const pico_bench_result *result, FILE *to) {
    (void)fprintf(to, "| model | size | params | backend | threads | test | t/s | share |\n"
                      "| --- | ---: | ---: | --- | ---: | --- | ---: | ---: |\n");
    for (size_t i = 0; i < result->n_row; i++) {
        const pico_bench_row *row = &result->row[i];
        (void)fprintf(to, "| %s | ", about->model);
        print_size(to, about->model_bytes);
        (void)fprintf(to, " | ");
        print_count(to, about->n_params);
        (void)fprintf(to, " | %s | %u | %s | ", about->backend, about->threads, row->test);
        if (row->kind == PICO_BENCH_ROWS_OF_ONE) {
            (void)fprintf(to, "%.3f x ± %.3f", row->ratio.mean, row->ratio.sd);
        } else {
            (void)fprintf(to, "%.2f ± %.2f", row->tokens_per_s.mean, row->tokens_per_s.sd);
        }
        (void)fprintf(to, " | ");
        print_share(to, row);
        (void)fprintf(to, " |\n");
    }
    (void)fprintf(to, "\n");
    print_notes(result, to);
}

static void print_number(FILE *to, double value, const char *end) {
    if (!isnan(value)) {
        (void)fprintf(to, "%.6g", value);
    }
    (void)fprintf(to, "%s", end);
}

void pico_bench_print_csv(const pico_bench_about *about, const pico_bench_result *result,
                          FILE *to) {
    (void)fprintf(to, "model,model_bytes,params,backend,threads,test,tokens_per_s,"
                      "tokens_per_s_sd,tokens_per_s_median,ratio,ratio_sd,limit,share,"
                      "probe_fault\n");
    for (size_t i = 0; i < result->n_row; i++) {
        const pico_bench_row *row = &result->row[i];
        int is_ratio = row->kind == PICO_BENCH_ROWS_OF_ONE;
        (void)fprintf(to, "%s,%llu,%llu,%s,%u,%s,", about->model,
                      (unsigned long long)about->model_bytes, (unsigned long long)about->n_params,
                      about->backend, about->threads, row->test);
        print_number(to, row->tokens_per_s.mean, ",");
        print_number(to, row->tokens_per_s.sd, ",");
        print_number(to, row->tokens_per_s.median, ",");
        print_number(to, is_ratio ? row->ratio.mean : (double)NAN, ",");
        print_number(to, is_ratio ? row->ratio.sd : (double)NAN, ",");
        print_number(to, row->limit, ",");
        print_number(to, row->share, ",");
        (void)fprintf(to, "%d\n", row->probe_fault);
    }
}
