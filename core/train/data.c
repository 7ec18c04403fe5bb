/* Documents as rows of tokens; see data.h. */
#include "train/data.h"

#include <stdlib.h>
#include <string.h>

#include "host/host.h"

enum { CHOICE = 1000 }; /* pieces among which best fit chooses */

typedef struct piece {
    uint64_t begin; /* of its text in the tokens */
    uint32_t n;     /* with the begin-of-text token in front, where there is one */
} piece;

struct pico_train_data {
    const pico_train_tokens *tokens;
    uint64_t n_token;
    piece *piece; /* (n_piece) */
    uint64_t n_piece, piece_capacity;
    uint32_t row;                 /* length + 1 */
    uint64_t seed, n_row, served; /* rows of the first epoch; rows handed out */
    /* the epoch at hand */
    uint64_t epoch, next; /* next of order that has not been looked at */
    uint64_t *order;      /* (n_piece) */
    uint64_t choice[CHOICE];
    uint32_t n_choice;
    uint32_t packing; /* PICO_PACKING_x */
    piece rest;       /* STREAM: of the piece that the last row has cut; n 0: none */
};

static int has_bos(const pico_train_data *data) {
    return data->tokens->bos >= 0;
}

/* ---- documents to pieces ---- */

static pico_status add_piece(pico_train_data *data, uint64_t begin, uint32_t n, pico_error *err) {
    if (data->n_piece == data->piece_capacity) {
        const uint64_t next = data->n_piece + data->n_piece / 2 + 1024;
        piece *bigger = next > SIZE_MAX / sizeof *bigger
                            ? NULL
                            : realloc(data->piece, (size_t)next * sizeof *bigger);
        if (bigger == NULL) {
            return pico_fail(err, PICO_E_NOMEM, "out of memory for the training data");
        }
        data->piece = bigger;
        data->piece_capacity = next;
    }
    n += (uint32_t)has_bos(data);
    data->piece[data->n_piece++] = (piece){begin, n};
    data->n_token += n;
    return PICO_OK;
}

static pico_status add_document(pico_train_data *data, uint64_t begin, uint64_t end,
                                pico_error *err) {
    const uint64_t room = data->row - (uint32_t)has_bos(data);
    pico_status status = PICO_OK;
    for (; status == PICO_OK && begin < end; begin += room) {
        status = add_piece(data, begin, (uint32_t)(end - begin < room ? end - begin : room), err);
    }
    return status;
}

/* ---- an epoch ---- */

static void begin_epoch(pico_train_data *data, uint64_t epoch) {
    const pico_random_key key = {.seed = data->seed, .purpose = PICO_RANDOM_PLUGIN, .t = epoch};
    data->epoch = epoch;
    data->next = 0;
    data->n_choice = 0;
    data->rest.n = 0;
    for (uint64_t i = 0; i < data->n_piece; i++) {
        data->order[i] = i;
    }
    for (uint64_t i = data->n_piece; i-- > 1;) {
        const uint64_t j = pico_random_u64(&key, i) % (i + 1), swap = data->order[i];
        data->order[i] = data->order[j];
        data->order[j] = swap;
    }
}

static void fill_choice(pico_train_data *data) {
    while (data->n_choice < CHOICE && data->next < data->n_piece) {
        data->choice[data->n_choice++] = data->order[data->next++];
    }
}

/* The longest piece of at most `room` tokens, else the shortest; the first of equal ones. */
static uint32_t choose(const pico_train_data *data, uint32_t room) {
    uint32_t fits = UINT32_MAX, shortest = 0;
    for (uint32_t i = 0; i < data->n_choice; i++) {
        const uint32_t n = data->piece[data->choice[i]].n;
        if (n <= room && (fits == UINT32_MAX || n > data->piece[data->choice[fits]].n)) {
            fits = i;
        }
        shortest = n < data->piece[data->choice[shortest]].n ? i : shortest;
    }
    return fits != UINT32_MAX ? fits : shortest;
}

/* The first n tokens of a piece. */
static void copy_piece(const pico_train_data *data, const piece *from, uint32_t n, int32_t *out) {
    const uint32_t first = (uint32_t)has_bos(data);
    if (first) {
        out[0] = data->tokens->bos;
    }
    memcpy(out + first, data->tokens->id + from->begin, (n - first) * sizeof *out);
}

/* One piece after the other; what a row has no room for begins the next one. */
static int next_of_stream(pico_train_data *data, int32_t *out) {
    const uint32_t bos = (uint32_t)has_bos(data);
    for (uint32_t filled = 0; filled < data->row;) {
        piece taken = data->rest;
        if (taken.n == 0) {
            if (data->next == data->n_piece) {
                return 0;
            }
            taken = data->piece[data->order[data->next++]];
        }
        const uint32_t room = data->row - filled, n = taken.n < room ? taken.n : room;
        if (out != NULL) {
            copy_piece(data, &taken, n, out + filled);
        }
        data->rest = (piece){taken.begin + n - bos, taken.n == n ? 0 : taken.n - n + bos};
        filled += n;
    }
    return 1;
}

/* The next row of the epoch into out (may be NULL); 0 when what is left does not fill one. */
static int next_row(pico_train_data *data, int32_t *out) {
    uint32_t filled = 0;
    if (data->packing == PICO_PACKING_STREAM) {
        return next_of_stream(data, out);
    }
    while (filled < data->row) {
        fill_choice(data);
        if (data->n_choice == 0) {
            return 0;
        }
        const uint32_t room = data->row - filled, i = choose(data, room);
        const piece *taken = &data->piece[data->choice[i]];
        const uint32_t n = taken->n < room ? taken->n : room;
        if (out != NULL) {
            copy_piece(data, taken, n, out + filled);
        }
        filled += n;
        data->choice[i] = data->choice[--data->n_choice];
    }
    return 1;
}

static void serve(pico_train_data *data, int32_t *out) {
    while (!next_row(data, out)) {
        begin_epoch(data, data->epoch + 1); /* every epoch has a row: the first one had */
    }
    data->served++;
}

/* ---- interface ---- */

pico_status pico_train_data_open(const pico_train_tokens *tokens, uint64_t first, uint64_t n,
                                 uint32_t length, uint32_t packing, uint64_t seed,
                                 pico_train_data **out, pico_error *err) {
    *out = NULL;
    pico_train_data *data = calloc(1, sizeof *data);
    if (data == NULL || length == 0) {
        free(data);
        return pico_fail(err, PICO_E_NOMEM, "no room for rows of %u tokens", length);
    }
    data->tokens = tokens;
    data->row = length + 1;
    data->packing = packing;
    data->seed = seed;
    pico_status status = PICO_OK;
    for (uint64_t i = first; status == PICO_OK && i < first + n; i++) {
        status = add_document(data, i == 0 ? 0 : tokens->end[i - 1], tokens->end[i], err);
    }
    if (status == PICO_OK && data->n_token < data->row) {
        status = pico_fail(err, PICO_E_INVALID,
                           "%llu documents with %llu tokens do not fill one row of %u tokens; give "
                           "more text or make sequences shorter",
                           (unsigned long long)n, (unsigned long long)data->n_token, data->row);
    }
    if (status == PICO_OK) {
        data->order = malloc((size_t)data->n_piece * sizeof *data->order);
        status = data->order == NULL
                     ? pico_fail(err, PICO_E_NOMEM, "out of memory for the training data")
                     : PICO_OK;
    }
    if (status != PICO_OK) {
        pico_train_data_close(data);
        return status;
    }
    begin_epoch(data, 0);
    while (next_row(data, NULL)) {
        data->n_row++;
    }
    begin_epoch(data, 0);
    *out = data;
    return PICO_OK;
}

void pico_train_data_close(pico_train_data *data) {
    if (data != NULL) {
        free(data->piece);
        free(data->order);
        free(data);
    }
}

uint64_t pico_train_data_rows(const pico_train_data *data) {
    return data->n_row;
}

uint64_t pico_train_data_tokens(const pico_train_data *data) {
    return data->n_token;
}

void pico_train_data_next(pico_train_data *data, uint32_t n, int32_t *tokens) {
    for (uint32_t i = 0; i < n; i++) {
        serve(data, tokens + (size_t)i * data->row);
    }
}

void pico_train_data_seek(pico_train_data *data, uint64_t row) {
    begin_epoch(data, 0);
    data->served = 0;
    while (data->served < row) {
        serve(data, NULL);
    }
}

uint64_t pico_train_data_tell(const pico_train_data *data) {
    return data->served;
}
