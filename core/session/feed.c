/*
 * Text through a model, for what a tap sees on the way: how compressors calibrate. See pico_feed in
 * plugin.h. The text is cut into parts, each of which is run from an empty timeline: windows one
 * behind the other, or pieces that are spread over it. Nothing is random. It looks at no logits.
 */
#include <stdlib.h>
#include <string.h>

#include "session/session.h"
#include "util/checked.h"
#include "util/file.h"

enum { WINDOW = 2048, TEXT_BYTES = 1 << 28 };

typedef struct feeding {
    const pico_host *host;
    pico_model *model;
    pico_feed feed; /* as this version knows it */
    pico_session *session;
    int32_t *id; /* (n_id) the text */
    uint64_t n_id;
    int32_t bos;     /* in front of each part; -1: none */
    uint64_t n_part; /* parts */
    uint32_t length; /* positions of a part, bos included; the last window may be shorter */
    uint32_t n_row;  /* of a forward pass */
    pico_row *row;   /* (n_row) */
} feeding;

static pico_status no_memory(pico_error *err) {
    return pico_fail(err, PICO_E_NOMEM, "calibration: out of memory");
}

/* ---- the text ---- */

/* At most `most` of its tokens. */
static pico_status encode(feeding *f, const char *text, uint64_t n, uint32_t flags, uint64_t most,
                          pico_error *err) {
    uint64_t bytes;
    f->id = !pico_checked_mul(most, sizeof *f->id, &bytes) || bytes >= SIZE_MAX
                ? NULL
                : malloc((size_t)bytes + 1);
    if (f->id == NULL) {
        return pico_fail(err, PICO_E_NOMEM, "calibration: out of memory for %llu tokens",
                         (unsigned long long)most);
    }
    pico_status status =
        pico_text_table.encode(f->model, text, n, flags, f->id, most, &f->n_id, err);
    f->n_id = f->n_id < most ? f->n_id : most;
    return status;
}

/* The beginning of the text, in windows. */
static pico_status cut_windows(feeding *f, const char *text, uint64_t n, pico_error *err) {
    const uint32_t trained = f->model->desc.n_ctx_train;
    pico_status status = encode(f, text, n, PICO_TEXT_BOS, f->feed.max_tokens, err);
    if (status == PICO_OK && f->n_id < 2) {
        status = pico_fail(err, PICO_E_INVALID, "calibration: %s has no text", f->feed.path);
    }
    f->length = trained < WINDOW ? trained : (uint32_t)WINDOW;
    f->n_part = (f->n_id + f->length - 1) / f->length;
    return status;
}

/* Tokens of the text in each piece. */
static uint64_t fresh_of(const feeding *f) {
    return f->feed.piece - (f->bos >= 0 ? 1u : 0u);
}

/* How many pieces the text has room for, and whether that is enough. */
static pico_status count_pieces(feeding *f, pico_error *err) {
    const uint64_t fresh = fresh_of(f), room = fresh == 0 ? 0 : f->n_id / fresh;
    const uint64_t wanted = f->feed.n_piece;
    if (room == 0 || room < wanted) {
        return pico_fail(
            err, PICO_E_INVALID,
            "calibration: %s has %llu tokens, enough for %llu pieces of %llu, expected "
            "%llu; ask for fewer or shorter ones, or give a longer text",
            f->feed.path, (unsigned long long)f->n_id, (unsigned long long)room,
            (unsigned long long)fresh, (unsigned long long)(wanted == 0 ? 1 : wanted));
    }
    f->n_part = wanted != 0 ? wanted : room < PICO_FEED_PIECES ? room : (uint64_t)PICO_FEED_PIECES;
    return PICO_OK;
}

static pico_status cut_pieces(feeding *f, const char *text, uint64_t n, pico_error *err) {
    const pico_text_api *api = &pico_text_table;
    uint64_t n_text = 0, n_bos = 0;
    f->length = f->feed.piece;
    if (f->length > f->model->desc.n_ctx_train) {
        return pico_fail(err, PICO_E_INVALID,
                         "calibration: pieces of %u tokens, but the model was trained with %u "
                         "positions; ask for that many at most",
                         f->length, f->model->desc.n_ctx_train);
    }
    pico_status status = api->encode(f->model, text, n, 0, NULL, 0, &n_text, err);
    if (status == PICO_OK) {
        status = encode(f, text, n, 0, n_text, err);
    }
    if (status == PICO_OK) {
        status = api->encode(f->model, "", 0, PICO_TEXT_BOS, &f->bos, 1, &n_bos, err);
        f->bos = n_bos == 0 ? -1 : f->bos;
    }
    return status == PICO_OK ? count_pieces(f, err) : status;
}

static pico_status read_parts(feeding *f, pico_error *err) {
    char *text = NULL;
    uint64_t n = 0;
    pico_error why = {0};
    pico_status status = pico_file_read(f->feed.path, TEXT_BYTES, &text, &n, &why);
    if (status != PICO_OK) {
        return pico_fail(err, status, "calibration: %.400s", why.message);
    }
    status = f->feed.piece == 0 ? cut_windows(f, text, n, err) : cut_pieces(f, text, n, err);
    free(text);
    return status;
}

/* ---- forward passes ---- */

/* Where part i begins in the text: pieces are spread evenly over it. */
static uint64_t begin_of(const feeding *f, uint64_t i) {
    if (f->feed.piece == 0) {
        return i * f->length;
    }
    return f->n_part < 2 ? 0 : i * (f->n_id - fresh_of(f)) / (f->n_part - 1);
}

/* The part's token at pos; -1 in front of the first. */
static int32_t token_at(const feeding *f, uint64_t begin, uint64_t pos) {
    const int has_bos = f->bos >= 0;
    return has_bos && pos == 0 ? f->bos : f->id[begin + pos - (has_bos ? 1u : 0u)];
}

/* Part i from position 0 on. *done: tokens so far, of `total`. */
static pico_status run_part(const feeding *f, uint64_t i, uint64_t *done, uint64_t total,
                            pico_error *err) {
    const pico_host *host = f->host;
    const uint64_t begin = begin_of(f, i);
    const uint64_t n =
        f->feed.piece != 0 || f->n_id - begin > f->length ? f->length : f->n_id - begin;
    int32_t prev = -1;
    pico_forward_out out;
    pico_status status = pico_session_truncate(f->session, 0, 0, err);
    for (uint64_t at = 0; status == PICO_OK && at < n;) {
        const uint32_t rows = n - at < f->n_row ? (uint32_t)(n - at) : f->n_row;
        if (host->should_stop(host->ctx)) {
            return pico_fail(err, PICO_E_CANCELLED, "interrupted");
        }
        for (uint32_t k = 0; k < rows; k++) {
            const int32_t token = token_at(f, begin, at + k);
            f->row[k] = (pico_row){.token = token,
                                   .prev = prev,
                                   .pos = (int32_t)(at + k),
                                   .parent = (int32_t)k - 1,
                                   .want = f->feed.want};
            prev = token;
        }
        status = pico_session_forward(f->session, f->row, rows, &out, err);
        at += rows;
        *done += rows;
        host->progress(host->ctx, f->feed.what, *done, total);
    }
    return status;
}

static pico_status run(feeding *f, pico_error *err) {
    const uint64_t total = f->feed.piece == 0 ? f->n_id : f->n_part * f->length;
    const uint32_t most = f->feed.max_rows == 0 ? (uint32_t)PICO_FEED_ROWS : f->feed.max_rows;
    uint64_t done = 0;
    f->n_row = most < f->length ? most : f->length;
    f->row = calloc(f->n_row, sizeof *f->row);
    if (f->row == NULL) {
        return no_memory(err);
    }
    pico_status status = pico_session_table.open(
        f->model, 1, f->length, f->n_row, f->feed.want == 0 ? 1 : f->n_row, &f->session, err);
    if (status == PICO_OK) {
        status = pico_model_tap(f->model, f->feed.tap, f->feed.arg);
    }
    if (status == PICO_OK) {
        for (uint64_t i = 0; status == PICO_OK && i < f->n_part; i++) {
            status = run_part(f, i, &done, total, err);
        }
        (void)pico_model_tap(f->model, NULL, NULL);
    }
    if (f->session != NULL) {
        pico_session_close(f->session);
    }
    free(f->row);
    return status;
}

pico_status pico_session_feed(const pico_host *host, pico_model *model, const pico_feed *feed,
                              pico_error *err) {
    feeding f = {.host = host, .model = model, .bos = -1};
    memcpy(&f.feed, feed, feed->struct_size < sizeof f.feed ? feed->struct_size : sizeof f.feed);
    pico_status status = read_parts(&f, err);
    if (status == PICO_OK) {
        status = run(&f, err);
    }
    free(f.id);
    return status;
}
