/*
 * Text through a model, for what a tap sees on the way: how compressors calibrate. See pico_feed in
 * plugin.h. It looks at no logits.
 */
#include <stdlib.h>

#include "session/session.h"
#include "util/file.h"

enum { WINDOW = 2048, TEXT_BYTES = 1 << 26 };

typedef struct feeding {
    const pico_host *host;
    pico_model *model;
    const pico_feed *feed;
    pico_session *session;
    uint32_t window; /* positions */
    int32_t *id;     /* (n_id) */
    uint64_t n_id;
} feeding;

static pico_status read_tokens(feeding *f, pico_error *err) {
    const char *path = f->feed->path;
    const uint64_t most = f->feed->max_tokens;
    char *text = NULL;
    uint64_t n = 0;
    pico_error why = {0};
    pico_status status = pico_file_read(path, TEXT_BYTES, &text, &n, &why);
    if (status != PICO_OK) {
        return pico_fail(err, status, "calibration: %.400s", why.message);
    }
    f->id = most >= SIZE_MAX / sizeof *f->id ? NULL : malloc((size_t)(most + 1) * sizeof *f->id);
    status =
        f->id == NULL
            ? pico_fail(err, PICO_E_NOMEM, "calibration: out of memory for %llu tokens",
                        (unsigned long long)most)
            : pico_text_table.encode(f->model, text, n, PICO_TEXT_BOS, f->id, most, &f->n_id, err);
    f->n_id = f->n_id < most ? f->n_id : most;
    if (status == PICO_OK && f->n_id < 2) {
        status = pico_fail(err, PICO_E_INVALID, "calibration: %s has no text", path);
    }
    free(text);
    return status;
}

/* Tokens [at, at + n) of the text, which begin at place pos of their window. */
static pico_status run_chunk(const feeding *f, uint64_t at, uint32_t pos, uint32_t n,
                             pico_error *err) {
    pico_row rows[PICO_FEED_ROWS];
    pico_forward_out out;
    for (uint32_t i = 0; i < n; i++) {
        rows[i] = (pico_row){.token = f->id[at + i],
                             .prev = pos + i == 0 ? -1 : f->id[at + i - 1],
                             .pos = (int32_t)(pos + i),
                             .parent = (int32_t)i - 1,
                             .want = f->feed->want};
    }
    const pico_status status = pos == 0 ? pico_session_truncate(f->session, 0, 0, err) : PICO_OK;
    return status == PICO_OK ? pico_session_forward(f->session, rows, n, &out, err) : status;
}

static pico_status run(const feeding *f, pico_error *err) {
    const pico_host *host = f->host;
    pico_status status = PICO_OK;
    for (uint64_t at = 0; status == PICO_OK && at < f->n_id;) {
        const uint32_t pos = (uint32_t)(at % f->window), room = f->window - pos;
        const uint64_t left = f->n_id - at < room ? f->n_id - at : room;
        const uint32_t n = left < PICO_FEED_ROWS ? (uint32_t)left : (uint32_t)PICO_FEED_ROWS;
        if (host->should_stop(host->ctx)) {
            return pico_fail(err, PICO_E_CANCELLED, "interrupted");
        }
        status = run_chunk(f, at, pos, n, err);
        at += n;
        host->progress(host->ctx, f->feed->what, at, f->n_id);
    }
    return status;
}

pico_status pico_session_feed(const pico_host *host, pico_model *model, const pico_feed *feed,
                              pico_error *err) {
    const uint32_t trained = model->desc.n_ctx_train;
    feeding f = {.host = host,
                 .model = model,
                 .feed = feed,
                 .window = trained < WINDOW ? trained : (uint32_t)WINDOW};
    pico_status status = read_tokens(&f, err);
    if (status == PICO_OK) {
        status = pico_session_table.open(model, 1, f.window, PICO_FEED_ROWS,
                                         feed->want == 0 ? 1 : PICO_FEED_ROWS, &f.session, err);
    }
    if (status == PICO_OK) {
        status = pico_model_tap(model, feed->tap, feed->arg);
        if (status == PICO_OK) {
            status = run(&f, err);
            (void)pico_model_tap(model, NULL, NULL);
        }
        pico_session_close(f.session);
    }
    free(f.id);
    return status;
}
