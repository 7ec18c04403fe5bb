/*
 * The forward of a session: checks the rows, gives them places in the KV pages, writes the call's
 * data to the device, runs the model. A timeline changes only when everything has been queued and,
 * where no outputs are going to be read, has been done.
 */
#include <string.h>

#include "session/internal.h"

enum { ROW_ARRAYS = 5 }; /* token, prev, pos, slot, base */

/* Layout of the call's words for n rows: five arrays of n, anc_begin (n + 1), cell of each group (n
 * each), then anc_cell. It depends on n alone, so that a recorded step finds its data again. */
typedef struct call_layout {
    uint64_t anc_begin, cell, anc_cell;
} call_layout;

static call_layout layout_of(const pico_session *session, uint64_t n) {
    call_layout at;
    at.anc_begin = ROW_ARRAYS * n;
    at.cell = at.anc_begin + n + 1;
    at.anc_cell = at.cell + n * session->n_group;
    return at;
}

uint64_t pico_call_words(const pico_session *session) {
    uint64_t rows = session->params.max_rows;
    call_layout at = layout_of(session, rows);
    uint64_t tree_rows = rows < (uint64_t)session->params.n_slots * PICO_DECODE_ROWS_MAX
                             ? rows
                             : (uint64_t)session->params.n_slots * PICO_DECODE_ROWS_MAX;
    uint64_t words = at.anc_cell + tree_rows * PICO_DECODE_ROWS_MAX * session->n_group;
    uint64_t copies = 2 * PICO_PAGE_POSITIONS;
    return words > copies ? words : copies;
}

static pico_tensor call_view(const pico_session *session, uint64_t word, uint64_t n) {
    return pico_view_vector(session->device_words, session->call_offset + word * 4, PICO_DTYPE_I32,
                            (int64_t)n);
}

/* Copies cells host_words[0..n) -> host_words[n..2n) in every layer of a group, and waits: a copy
 * that fails late would spoil positions that a timeline already counts on. */
static pico_status copy_cells(pico_session *session, uint32_t group, uint32_t n) {
    const pico_device *device = session->model->device;
    pico_status status =
        device->ops->buffer_write(device->self, session->device_words, session->call_offset,
                                  session->host_words, (uint64_t)n * 8);
    for (uint32_t i = 0; status == PICO_OK && i < session->model->desc.n_layer; i++) {
        if (session->group_of[i] == group) {
            pico_kv_copy_args args = {.kv = session->kv[i].kv,
                                      .pages = session->kv[i].pages,
                                      .from = call_view(session, 0, n),
                                      .to = call_view(session, n, n)};
            status = device->ops->kv_copy(device->self, &args);
        }
    }
    return status == PICO_OK ? device->ops->sync(device->self, NULL) : status;
}

pico_status pico_call_copy_page(pico_session *session, uint32_t group,
                                const pico_pages_copy *copy) {
    if (copy->from < 0) {
        return PICO_OK;
    }
    for (uint32_t i = 0; i < copy->n; i++) {
        session->host_words[i] = copy->from * (int32_t)PICO_PAGE_POSITIONS + (int32_t)i;
        session->host_words[copy->n + i] = copy->to * (int32_t)PICO_PAGE_POSITIONS + (int32_t)i;
    }
    return copy_cells(session, group, copy->n);
}

/* ---- checking and sorting the rows ---- */

static pico_status check_row(pico_session *session, const pico_row *rows, uint32_t i,
                             pico_error *err) {
    const pico_row *row = &rows[i];
    const pico_model_desc *desc = &session->model->desc;
    if (row->slot >= session->params.n_slots || row->token < 0 ||
        (uint32_t)row->token >= desc->n_vocab) {
        return pico_fail(err, PICO_E_INVALID,
                         "row %u: token %d of slot %u; the model has %u tokens, the session %u "
                         "slots",
                         i, row->token, row->slot, desc->n_vocab, session->params.n_slots);
    }
    if (row->prev < -1 || row->prev >= (int32_t)desc->n_vocab) {
        return pico_fail(err, PICO_E_INVALID,
                         "row %u: prev is %d; expected the token before it, or -1 at the start", i,
                         row->prev);
    }
    pico_session_slot *slot = &session->slot[row->slot];
    if (row->parent >= (int32_t)i || (row->parent >= 0 && rows[row->parent].slot != row->slot)) {
        return pico_fail(err, PICO_E_INVALID, "row %u: parent %d is no earlier row of its slot", i,
                         row->parent);
    }
    uint32_t depth = row->parent < 0 ? 1 : session->row[row->parent].depth + 1;
    if (row->pos != (int32_t)(slot->length + depth - 1)) {
        return pico_fail(err, PICO_E_INVALID, "row %u: position %d where %u comes next", i,
                         row->pos, slot->length + depth - 1);
    }
    if (slot->length + depth > session->params.max_positions) {
        return pico_fail(err, PICO_E_LIMIT, "slot %u is full: %u positions", row->slot,
                         session->params.max_positions);
    }
    const int on_stem = slot->n_row == 0 || row->parent == (int32_t)slot->tip;
    session->row[i] = (pico_session_row){
        .slot = row->slot, .parent = row->parent, .depth = depth, .tree_index = on_stem ? -1 : 0};
    slot->n_stem = slot->n_row == 0 ? 1 : slot->n_stem + (uint32_t)on_stem;
    slot->tip = on_stem ? i : slot->tip;
    slot->n_row++;
    return PICO_OK;
}

/* Whether the slot's rows are more than a chain. */
static int is_tree(const pico_session_slot *slot) {
    return slot->n_stem != slot->n_row;
}

static pico_status check_rows(pico_session *session, const pico_row *rows, uint32_t n,
                              uint32_t *n_out, pico_error *err) {
    if (n == 0 || n > session->params.max_rows) {
        return pico_fail(err, PICO_E_LIMIT, "%u rows in one forward; the session takes 1 to %u", n,
                         session->params.max_rows);
    }
    for (uint32_t s = 0; s < session->params.n_slots; s++) {
        session->slot[s].n_row = session->slot[s].n_stem = 0;
    }
    *n_out = 0;
    session->n_row = 0;
    for (uint32_t i = 0; i < n; i++) {
        pico_status status = check_row(session, rows, i, err);
        if (status != PICO_OK) {
            return status;
        }
        if (rows[i].want != 0) {
            session->row[i].out = (*n_out)++;
        }
    }
    if (*n_out > session->params.max_logit_rows) {
        return pico_fail(err, PICO_E_LIMIT, "%u rows ask for outputs; the session gives %u", *n_out,
                         session->params.max_logit_rows);
    }
    for (uint32_t s = 0; s < session->params.n_slots; s++) {
        const pico_session_slot *slot = &session->slot[s];
        if (slot->n_row > PICO_DECODE_ROWS_MAX && is_tree(slot)) {
            return pico_fail(err, PICO_E_LIMIT, "a tree of %u rows; at most %u are possible",
                             slot->n_row, PICO_DECODE_ROWS_MAX);
        }
    }
    return PICO_OK;
}

/* Decode rows first, each class in the caller's order; returns how many are of the decode class. */
static uint32_t sort_rows(pico_session *session, const pico_row *rows, uint32_t n) {
    uint32_t at = 0, n_decode = 0;
    for (uint32_t prefill = 0; prefill < 2; prefill++) {
        for (uint32_t i = 0; i < n; i++) {
            if ((session->slot[rows[i].slot].n_row > PICO_DECODE_ROWS_MAX) == (prefill == 1)) {
                session->order[at++] = i;
            }
        }
        if (prefill == 0) {
            n_decode = at;
        }
    }
    return n_decode;
}

static uint32_t find_runs(pico_session *session, const pico_row *rows, uint32_t n) {
    uint32_t n_run = 0;
    for (uint32_t d = 0; d < n; d++) {
        uint32_t i = session->order[d], out = session->row[i].out;
        uint32_t logits = (rows[i].want & PICO_ROW_LOGITS) != 0;
        if (rows[i].want == 0) {
            continue;
        }
        pico_output_run *last = n_run == 0 ? NULL : &session->run[n_run - 1];
        if (last != NULL && last->begin + last->n == d && last->out + last->n == out &&
            last->logits == logits) {
            last->n++;
        } else {
            session->run[n_run++] = (pico_output_run){d, 1, out, logits};
        }
    }
    return n_run;
}

/* ---- places in the pages ---- */

/* Gives a timeline pages for n more positions in one group. Pages that have left the window go only
 * now, so that the call before can still be undone. */
static pico_status grow(pico_session *session, uint32_t slot, uint32_t group, uint32_t n) {
    pico_pages *pages = &session->group[group];
    uint32_t length = session->slot[slot].length;
    pico_pages_copy copy;
    pico_pages_drop(pages, slot, length);
    pico_pages_extend(pages, slot, length, length + n, &copy);
    pico_status status = pico_call_copy_page(session, group, &copy);
    if (status != PICO_OK) {
        pico_pages_undo(pages, slot, length, &copy);
        pico_pages_truncate(pages, slot, length);
    }
    return status;
}

/* The stem goes straight into the pages, as a chain does: in a tree it is what is most likely to be
 * kept. The other rows see it there as far as their path follows it. */
static pico_status place_rows(pico_session *session, const pico_row *rows, uint32_t n) {
    for (uint32_t s = 0; s < session->params.n_slots; s++) {
        pico_session_slot *slot = &session->slot[s];
        slot->n_tree = 0;
        for (uint32_t g = 0; slot->n_row != 0 && g < session->n_group; g++) {
            pico_pages_truncate(&session->group[g], s, slot->length); /* of a tree that was left */
            pico_status status = grow(session, s, g, slot->n_stem);
            if (status != PICO_OK) {
                return status;
            }
        }
    }
    for (uint32_t i = 0; i < n; i++) {
        pico_session_slot *slot = &session->slot[rows[i].slot];
        pico_session_row *row = &session->row[i];
        row->base = rows[i].pos + 1;
        if (row->tree_index >= 0) {
            row->tree_index = (int32_t)slot->n_tree++;
            row->base = row->parent < 0 ? (int32_t)slot->length : session->row[row->parent].base;
        }
    }
    return PICO_OK;
}

/* Undoes place_rows: gives back the pages beyond each timeline's length. */
static void unplace_rows(pico_session *session) {
    for (uint32_t s = 0; s < session->params.n_slots; s++) {
        session->slot[s].n_tree = 0;
        for (uint32_t g = 0; session->slot[s].n_row != 0 && g < session->n_group; g++) {
            pico_pages_truncate(&session->group[g], s, session->slot[s].length);
        }
    }
}

static int32_t cell_of(const pico_session *session, uint32_t group, const pico_row *row,
                       const pico_session_row *place) {
    const pico_pages *pages = &session->group[group];
    if (place->tree_index >= 0) {
        return pages->scratch[row->slot] * (int32_t)PICO_PAGE_POSITIONS + place->tree_index;
    }
    return pico_pages_cell(pages, row->slot, (uint32_t)row->pos);
}

/* Fills the staging words of a call; returns how many words are used. Scratch pages have the same
 * numbers in every group (each group hands out its first pages for them), so one ancestor list
 * serves all. */
static uint64_t fill_words(pico_session *session, const pico_row *rows, uint32_t n) {
    int32_t *words = session->host_words;
    call_layout at = layout_of(session, n);
    uint64_t n_anc = 0;
    for (uint32_t d = 0; d < n; d++) {
        uint32_t i = session->order[d];
        const pico_session_row *place = &session->row[i];
        const int32_t values[ROW_ARRAYS] = {rows[i].token, rows[i].prev, rows[i].pos,
                                            (int32_t)rows[i].slot, place->base};
        for (uint32_t k = 0; k < ROW_ARRAYS; k++) {
            words[k * (uint64_t)n + d] = values[k];
        }
        words[at.anc_begin + d] = (int32_t)n_anc;
        for (uint32_t g = 0; g < session->n_group; g++) {
            words[at.cell + (uint64_t)g * n + d] = cell_of(session, g, &rows[i], place);
        }
        if (place->tree_index >= 0) {
            const uint32_t n_own = (uint32_t)(rows[i].pos + 1 - place->base);
            int32_t at_row = (int32_t)i;
            for (uint32_t k = n_own; k > 0; k--) {
                words[at.anc_cell + n_anc + k - 1] =
                    cell_of(session, 0, &rows[at_row], &session->row[at_row]);
                at_row = rows[at_row].parent;
            }
            n_anc += n_own;
        }
    }
    words[at.anc_begin + n] = (int32_t)n_anc;
    return at.anc_cell + n_anc;
}

static pico_status write_tables(pico_session *session) {
    const pico_device *device = session->model->device;
    for (uint32_t g = 0; g < session->n_group; g++) {
        pico_pages *pages = &session->group[g];
        if (pages->dirty) {
            pico_status status = device->ops->buffer_write(
                device->self, session->device_words, session->table_offset[g], pages->table,
                (uint64_t)pages->n_slot * pages->max_pages * 4);
            if (status != PICO_OK) {
                return status;
            }
            pages->dirty = 0;
        }
    }
    return PICO_OK;
}

static void make_batch(const pico_session *session, const pico_row *rows, uint32_t n,
                       uint32_t n_decode, uint64_t n_words, pico_batch *out) {
    call_layout at = layout_of(session, n);
    uint32_t longest = 0, has_tree = 0;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t end = (uint32_t)rows[i].pos + 1;
        longest = end > longest ? end : longest;
        has_tree |= session->row[i].tree_index >= 0;
    }
    *out = (pico_batch){.n_rows = n,
                        .n_decode = n_decode,
                        .n_pages = (longest + PICO_PAGE_POSITIONS - 1) / PICO_PAGE_POSITIONS,
                        .has_tree = has_tree,
                        .token = call_view(session, 0, n),
                        .prev = call_view(session, n, n),
                        .pos = call_view(session, 2 * (uint64_t)n, n),
                        .slot = call_view(session, 3 * (uint64_t)n, n),
                        .base = call_view(session, 4 * (uint64_t)n, n),
                        .anc_begin = call_view(session, at.anc_begin, (uint64_t)n + 1),
                        .anc_cell = call_view(session, at.anc_cell, n_words - at.anc_cell)};
}

static pico_status run_model(pico_session *session, const pico_row *rows, uint32_t n,
                             pico_error *err) {
    const pico_device *device = session->model->device;
    uint32_t n_decode = sort_rows(session, rows, n);
    uint64_t n_words = fill_words(session, rows, n);
    pico_status status =
        device->ops->buffer_write(device->self, session->device_words, session->call_offset,
                                  session->host_words, n_words * 4);
    if (status == PICO_OK) {
        status = write_tables(session);
    }
    if (status != PICO_OK) {
        return status;
    }
    call_layout at = layout_of(session, n);
    for (uint32_t i = 0; i < session->model->desc.n_layer; i++) {
        session->kv[i].cell = call_view(session, at.cell + (uint64_t)session->group_of[i] * n, n);
    }
    pico_forward_args args = {.layer = session->kv,
                              .rope_cos = session->rope_cos,
                              .rope_sin = session->rope_sin,
                              .run = session->run,
                              .n_run = find_runs(session, rows, n),
                              .work = &session->work};
    make_batch(session, rows, n, n_decode, n_words, &args.batch);
    return pico_steps_run(session, &args, err);
}

pico_status pico_session_forward(pico_session *session, const pico_row *rows, uint32_t n,
                                 pico_forward_out *out, pico_error *err) {
    uint32_t n_out = 0;
    pico_error why = {0};
    pico_status status = check_rows(session, rows, n, &n_out, err);
    if (status != PICO_OK) {
        return status;
    }
    status = place_rows(session, rows, n);
    if (status == PICO_OK) {
        status = run_model(session, rows, n, &why);
    }
    if (status == PICO_OK && n_out == 0) { /* nobody will read, so ask now whether it went well */
        status = session->model->device->ops->sync(session->model->device->self, &why);
    }
    if (status != PICO_OK) {
        unplace_rows(session);
        return pico_fail(err, status, "the backend failed in a forward pass of %u rows%s%.300s", n,
                         why.message[0] == '\0' ? "" : ": ", why.message);
    }
    for (uint32_t s = 0; s < session->params.n_slots; s++) {
        pico_session_slot *slot = &session->slot[s];
        if (!is_tree(slot)) {
            slot->length += slot->n_row;
        }
    }
    session->n_row = n;
    *out = (pico_forward_out){.n = n_out};
    if (n_out != 0) {
        out->logits = pico_view_rows(&session->work.logits, 0, n_out);
        out->hidden = pico_view_rows(&session->work.hidden, 0, n_out);
    }
    return PICO_OK;
}

/* Whether path[i] is a row of the slot's last tree and the child of path[i - 1]. */
static int is_step(const pico_session *session, uint32_t slot, const uint32_t *path, uint32_t i) {
    if (path[i] >= session->n_row || session->slot[slot].n_tree == 0) {
        return 0;
    }
    const pico_session_row *row = &session->row[path[i]];
    int32_t parent = i == 0 ? -1 : (int32_t)path[i - 1];
    return row->slot == slot && row->parent == parent;
}

pico_status pico_session_commit(pico_session *session, uint32_t slot_index, const uint32_t *path,
                                uint32_t n, pico_error *err) {
    if (slot_index >= session->params.n_slots) {
        return pico_fail(err, PICO_E_INVALID, "there is no slot %u", slot_index);
    }
    pico_session_slot *slot = &session->slot[slot_index];
    for (uint32_t i = 0; i < n; i++) {
        if (!is_step(session, slot_index, path, i)) {
            return pico_fail(err, PICO_E_INVALID,
                             "slot %u: row %u is not step %u of a path of its last tree",
                             slot_index, path[i], i + 1);
        }
    }
    if (n == 0) {
        return PICO_OK;
    }
    pico_status status = PICO_OK;
    uint32_t n_stem = 0;
    while (n_stem < n && session->row[path[n_stem]].tree_index < 0) {
        n_stem++;
    }
    for (uint32_t g = 0; status == PICO_OK && g < session->n_group; g++) {
        const pico_pages *pages = &session->group[g];
        status = n_stem < n ? grow(session, slot_index, g, n) : PICO_OK;
        for (uint32_t i = n_stem; status == PICO_OK && i < n; i++) {
            session->host_words[i - n_stem] =
                pages->scratch[slot_index] * (int32_t)PICO_PAGE_POSITIONS +
                session->row[path[i]].tree_index;
            session->host_words[n - n_stem + i - n_stem] =
                pico_pages_cell(pages, slot_index, slot->length + i);
        }
        if (status == PICO_OK && n_stem < n) {
            status = copy_cells(session, g, n - n_stem);
        }
    }
    if (status != PICO_OK) {
        for (uint32_t g = 0; g < session->n_group; g++) { /* the tree stays as it is */
            pico_pages_truncate(&session->group[g], slot_index, slot->length + slot->n_stem);
        }
        return pico_fail(err, status, "slot %u: the accepted rows cannot be kept", slot_index);
    }
    slot->length += n;
    slot->n_tree = 0;
    for (uint32_t g = 0; g < session->n_group; g++) {
        pico_pages_truncate(&session->group[g], slot_index, slot->length);
    }
    return PICO_OK;
}
