/*
 * Opening and closing a decode loop, giving slots their prompts, looking at them. See decode.h; the
 * rounds are round.c's.
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "decode/internal.h"

const char *pico_finish_name(uint32_t finish) {
    static const char *const names[] = {"running", "end", "stop", "length", "context", "cancelled"};
    return finish < sizeof names / sizeof *names ? names[finish] : "?";
}

pico_status pico_plugin_failed(const char *kind, const char *name, const char *slot,
                               pico_status status, const pico_error *inner, pico_error *err) {
    name = name == NULL ? "" : name;
    pico_status code = status < 0 && status >= PICO_E_NOT_FOUND ? status : PICO_E_ABI;
    if (inner != NULL && inner->message[0] != '\0') {
        return pico_fail(err, code, "%s %s: %s", kind, name, inner->message);
    }
    return pico_fail(err, code,
                     "%s %s: %s failed with status %d and does not say why; a slot that fails must "
                     "fill in err",
                     kind, name, slot, status);
}

/* ---- opening and closing ---- */

uint32_t pico_decode_max_timeline(const pico_decode *decode) {
    const pico_decode_params *params = &decode->params;
    uint32_t positions =
        params->max_positions == 0 ? decode->model->desc.n_ctx_train : params->max_positions;
    return params->max_timeline > positions ? params->max_timeline : positions;
}

uint32_t pico_decode_base(const pico_decode *decode, size_t n) {
    uint32_t positions = pico_session_max_positions(decode->session);
    uint32_t kept = positions / 2 > 0 ? positions / 2 : 1;
    return n > positions ? (uint32_t)n - kept : 0;
}

static pico_status open_slots(pico_decode *decode, pico_error *err) {
    const pico_decode_params *params = &decode->params;
    int penalties =
        params->repetition != 1.0f || params->presence != 0.0f || params->frequency != 0.0f;
    uint32_t n_q = decode->decoder_need.want_q && decode->n_beam == 0 ? MAX_ROOM * 64u : 0;
    pico_arena *arena = &decode->arena;
    decode->slot = pico_arena_alloc(arena, decode->n_slot, sizeof *decode->slot);
    decode->sequence = pico_arena_alloc(arena, decode->n_slot, sizeof *decode->sequence);
    decode->outcome = pico_arena_alloc(arena, decode->n_slot, sizeof *decode->outcome);
    decode->sequence_slot = pico_arena_alloc(arena, decode->n_slot, sizeof(uint32_t));
    decode->q_token = pico_arena_alloc(arena, (size_t)decode->n_slot * n_q, sizeof(int32_t));
    decode->q_p = pico_arena_alloc(arena, (size_t)decode->n_slot * n_q, sizeof(double));
    if (decode->slot == NULL || decode->sequence == NULL || decode->outcome == NULL ||
        decode->sequence_slot == NULL || decode->q_token == NULL || decode->q_p == NULL) {
        return pico_fail(err, PICO_E_NOMEM, "out of memory");
    }
    for (uint32_t s = 0; s < decode->n_slot; s++) {
        pico_slot *slot = &decode->slot[s];
        size_t room = (size_t)pico_decode_max_timeline(decode) + MAX_ROOM + 2;
        slot->decode = decode;
        slot->leader = slot->origin = PICO_NO_SLOT;
        slot->token = pico_arena_alloc(arena, room, sizeof *slot->token);
        slot->sequence.q_token = n_q == 0 ? NULL : decode->q_token + (size_t)s * n_q;
        slot->sequence.q_p = n_q == 0 ? NULL : decode->q_p + (size_t)s * n_q;
        slot->sequence.q_capacity = n_q;
        if (penalties) {
            slot->count = pico_arena_alloc(arena, decode->n_vocab, sizeof *slot->count);
            slot->seen = pico_arena_alloc(arena, room, sizeof *slot->seen);
        }
        if (slot->token == NULL || (penalties && (slot->count == NULL || slot->seen == NULL))) {
            return pico_fail(err, PICO_E_NOMEM, "out of memory");
        }
        pico_status status = pico_text_open(&slot->text, params->tokenizer, params->max_stop, err);
        if (status != PICO_OK) {
            return status;
        }
    }
    decode->edits = penalties || params->n_bias != 0;
    return PICO_OK;
}

static pico_status open_session(pico_decode *decode, pico_error *err) {
    const pico_decode_params *params = &decode->params;
    uint32_t per_slot = decode->decoder_need.max_proposals + 1;
    uint32_t max_positions =
        params->max_positions == 0 ? decode->model->desc.n_ctx_train : params->max_positions;
    decode->max_out = decode->n_slot * per_slot + 1;
    if (params->repetition != 1.0f || params->presence != 0.0f || params->frequency != 0.0f ||
        params->n_bias != 0) {
        uint64_t tokens = (uint64_t)pico_decode_max_timeline(decode) + MAX_ROOM + params->n_bias;
        tokens = tokens < decode->n_vocab ? tokens : decode->n_vocab;
        uint64_t edits = tokens * decode->max_out;
        if (edits > INT32_MAX / 8) {
            return pico_fail(err, PICO_E_LIMIT,
                             "penalties over %u slots of %u tokens need too many edits",
                             decode->n_slot, pico_decode_max_timeline(decode));
        }
        decode->max_edits = (uint32_t)edits;
    }
    pico_session_params session = {.n_slots = decode->n_slot,
                                   .max_positions = max_positions,
                                   .window_limit = params->window_limit,
                                   .max_rows = params->ubatch + decode->n_slot * per_slot,
                                   .max_logit_rows = decode->max_out,
                                   .max_top_k =
                                       decode->need.kind == PICO_NEED_TOP_K ? decode->need.k : 1,
                                   .max_edits = decode->max_edits};
    decode->row = pico_arena_alloc(&decode->arena, session.max_rows, sizeof *decode->row);
    if (decode->row == NULL) {
        return pico_fail(err, PICO_E_NOMEM, "out of memory");
    }
    pico_status status = pico_session_open(decode->model, &session, &decode->session, err);
    return status == PICO_OK ? open_slots(decode, err) : status;
}

static pico_status ask_sampler(pico_decode *decode, pico_error *err) {
    const pico_decode_params *params = &decode->params;
    pico_sampler_need *need = &decode->need;
    need->struct_size = sizeof *need;
    pico_status status = params->sampler->need(params->sampler_self, need);
    if (status != PICO_OK) {
        return pico_plugin_failed("sampler", params->sampler_name, "need", status, NULL, err);
    }
    if (need->kind < PICO_NEED_ARGMAX || need->kind > PICO_NEED_FULL ||
        need->state_bytes > MAX_STATE ||
        (need->state_bytes != 0 &&
         (params->sampler->state_init == NULL || params->sampler->state_next == NULL))) {
        return pico_fail(
            err, PICO_E_ABI,
            "sampler %s: need gives kind %u (1 to 3 exist) and a state of %u bytes (at "
            "most %d, and only with state_init and state_next)",
            params->sampler_name == NULL ? "" : params->sampler_name, need->kind, need->state_bytes,
            MAX_STATE);
    }
    if (need->kind == PICO_NEED_TOP_K) {
        need->k = need->k < 1 ? 1 : need->k;
        need->k = need->k > decode->n_vocab ? decode->n_vocab : need->k;
    }
    return PICO_OK;
}

/* A decoder that steers: the sampler has no say. */
static pico_status ask_steering(pico_decode *decode, pico_error *err) {
    const pico_decode_params *params = &decode->params;
    const pico_decoder_need *need = &decode->decoder_need;
    const char *name = params->decoder_name == NULL ? "" : params->decoder_name;
    if (need->n_beam > PICO_BEAM_MAX || need->max_proposals != 0 || need->n_continuation == 0 ||
        params->decoder->advance == NULL) {
        return pico_fail(err, PICO_E_ABI,
                         "decoder %s: begin asks for n_beam %u, n_continuation %u and "
                         "max_proposals %u; expected at most %u, at least 1 and 0, and advance",
                         name, need->n_beam, need->n_continuation, need->max_proposals,
                         PICO_BEAM_MAX);
    }
    if (params->max_timeline != 0) {
        return pico_fail(err, PICO_E_UNSUPPORTED,
                         "decoder %s keeps several timelines, and none can be run again when a "
                         "context with learned positions is full; use [generate] overflow = stop",
                         name);
    }
    decode->n_beam = need->n_beam;
    decode->n_slot = params->n_slots * need->n_beam;
    decode->need = (pico_sampler_need){
        .struct_size = sizeof decode->need,
        .kind = PICO_NEED_TOP_K,
        .k = need->n_continuation < decode->n_vocab ? need->n_continuation : decode->n_vocab,
        .inv_temperature = 1.0f};
    return PICO_OK;
}

static pico_status ask_plugins(pico_decode *decode, pico_error *err) {
    const pico_decode_params *params = &decode->params;
    pico_error inner = {0};
    decode->decoder_need = (pico_decoder_need){.struct_size = sizeof decode->decoder_need,
                                               .max_positions = pico_decode_max_timeline(decode),
                                               .window_limit = params->window_limit,
                                               .accept = params->accept};
    pico_status status = params->decoder->begin(params->decoder_self, decode->model,
                                                params->n_slots, &decode->decoder_need, &inner);
    if (status != PICO_OK) {
        return pico_plugin_failed("decoder", params->decoder_name, "begin", status, &inner, err);
    }
    decode->decoder_begun = 1;
    uint32_t most = params->draft_n == 0 || params->draft_n > MAX_ROOM ? MAX_ROOM : params->draft_n;
    if (decode->decoder_need.max_proposals > most) {
        decode->decoder_need.max_proposals = most;
    }
    pico_draft_length_open(&decode->drafts, decode->decoder_need.max_proposals,
                           params->draft_n == PICO_DRAFT_AUTO);
    return decode->decoder_need.n_beam == 0 ? ask_sampler(decode, err) : ask_steering(decode, err);
}

pico_status pico_decode_open(pico_model *model, const pico_decode_params *params, pico_decode **out,
                             pico_error *err) {
    *out = NULL;
    if (params->n_slots == 0 || params->ubatch == 0 || !(params->repetition > 0)) {
        return pico_fail(err, PICO_E_INVALID,
                         "decoding needs at least one slot, a ubatch of at least 1 and a positive "
                         "repetition penalty");
    }
    pico_decode *decode = calloc(1, sizeof *decode);
    if (decode == NULL) {
        return pico_fail(err, PICO_E_NOMEM, "out of memory");
    }
    decode->model = model;
    decode->params = *params;
    decode->n_vocab = model->desc.n_vocab;
    decode->n_slot = params->n_slots;
    pico_status status = ask_plugins(decode, err);
    if (status == PICO_OK) {
        status = open_session(decode, err);
    }
    if (status == PICO_OK && decode->n_beam != 0) {
        status = pico_beam_open(decode, err);
    }
    if (status == PICO_OK) {
        status = pico_sampling_open(decode, err);
    }
    if (status != PICO_OK) {
        pico_decode_close(decode);
        return status;
    }
    *out = decode;
    return PICO_OK;
}

void pico_decode_close(pico_decode *decode) {
    if (decode == NULL) {
        return;
    }
    if (decode->decoder_begun) {
        decode->params.decoder->end(decode->params.decoder_self);
    }
    for (uint32_t s = 0; decode->slot != NULL && s < decode->n_slot; s++) {
        pico_text_close(&decode->slot[s].text);
    }
    pico_sampling_close(decode);
    pico_session_close(decode->session);
    pico_arena_free(&decode->arena);
    free(decode);
}

/* ---- starting and ending a sequence ---- */

int pico_slot_ends_at(const pico_decode *decode, const pico_slot *slot, int32_t token) {
    const pico_request *request = &slot->request;
    for (size_t i = 0; i < request->n_end_token; i++) {
        if (request->end_token[i] == token) {
            return 1;
        }
    }
    return !request->ignore_end && decode->params.tokenizer != NULL &&
           pico_tokenizer_is_end(decode->params.tokenizer, token);
}

/* The sequence of a slot, as the decoder counts them. */
static uint32_t sequence_of(const pico_decode *decode, uint32_t slot) {
    return decode->n_beam == 0 ? slot : slot / decode->n_beam;
}

void pico_slot_finish(pico_decode *decode, pico_slot *slot, uint32_t why) {
    if (why != PICO_FINISH_STOP) {
        pico_text_end(&slot->text);
    }
    uint32_t index = (uint32_t)(slot - decode->slot);
    slot->finish = why;
    slot->running = 0;
    slot->leader = PICO_NO_SLOT;
    pico_share_promote(decode, index);
    if (decode->params.decoder->end_sequence != NULL) {
        decode->params.decoder->end_sequence(decode->params.decoder_self,
                                             sequence_of(decode, index));
    }
}

void pico_decode_cancel(pico_decode *decode, uint32_t slot) {
    if (decode->n_beam != 0) {
        if (decode->beam[slot].running) {
            pico_beam_finish(decode, &decode->beam[slot], PICO_FINISH_CANCELLED);
        }
    } else if (decode->slot[slot].running) {
        pico_slot_finish(decode, &decode->slot[slot], PICO_FINISH_CANCELLED);
    }
}

pico_status pico_request_check(const pico_decode *decode, const pico_request *request,
                               pico_error *err) {
    uint32_t most = pico_decode_max_timeline(decode);
    if (request->n_prompt == 0) {
        return pico_fail(err, PICO_E_INVALID, "the prompt has no tokens");
    }
    if (request->n_prompt > most) {
        return pico_fail(err, PICO_E_LIMIT,
                         "the prompt has %zu tokens, the context %u; shorten it, raise --ctx-size "
                         "or set [generate] overflow = slide",
                         request->n_prompt, most);
    }
    for (size_t i = 0; i < request->n_prompt; i++) {
        if (request->prompt[i] < 0 || (uint32_t)request->prompt[i] >= decode->n_vocab) {
            return pico_fail(err, PICO_E_INVALID,
                             "token %d of the prompt is not in the model's vocabulary of %u",
                             request->prompt[i], decode->n_vocab);
        }
    }
    for (size_t i = 0; i < request->n_stop; i++) {
        if (strlen(request->stop[i]) > decode->params.max_stop) {
            return pico_fail(err, PICO_E_LIMIT, "a stop string is longer than was announced");
        }
    }
    return PICO_OK;
}

uint32_t pico_slot_common(const pico_decode *decode, uint32_t slot_index,
                          const pico_request *request) {
    const pico_slot *slot = &decode->slot[slot_index];
    uint32_t length = pico_session_length(decode->session, slot_index), common = 0;
    if (slot->base != 0 || pico_decode_base(decode, request->n_prompt) != 0) {
        length = 0; /* the places of the tokens differ */
    }
    while (common < length && common + 1 < request->n_prompt &&
           slot->token[common] == request->prompt[common]) {
        common++;
    }
    return common;
}

pico_status pico_slot_rewind(pico_decode *decode, uint32_t slot_index, uint32_t *length,
                             pico_error *err) {
    if (pico_session_truncate(decode->session, slot_index, *length, NULL) == PICO_OK) {
        return PICO_OK;
    }
    *length = 0; /* the window has moved on: start again */
    return pico_session_truncate(decode->session, slot_index, 0, err);
}

pico_status pico_slot_begin(pico_decode *decode, uint32_t slot_index, const pico_request *request,
                            uint32_t n_reused, pico_error *err) {
    pico_slot *slot = &decode->slot[slot_index];
    pico_status status = PICO_OK;
    slot->request = *request;
    slot->leader = PICO_NO_SLOT;
    slot->ordinal = decode->n_started++;
    slot->n_token = slot->n_prompt = (uint32_t)request->n_prompt;
    slot->n_reused = n_reused;
    slot->base = pico_decode_base(decode, request->n_prompt);
    slot->n_fill = slot->n_prompt;
    slot->n_live_round = slot->n_idle_round = 0;
    memcpy(slot->token, request->prompt, request->n_prompt * sizeof *slot->token);
    pico_sampling_reset(slot);
    for (uint32_t i = 0; i < slot->n_token; i++) {
        pico_sampling_remember(slot, slot->token[i]);
    }
    pico_text_begin(&slot->text, slot->token[slot->n_token - 1], request->stop, request->n_stop,
                    decode->n_beam == 0 ? request->on_text : NULL, request->arg);
    slot->finish = PICO_FINISH_NONE;
    slot->running = 1;
    slot->sequence.slot = sequence_of(decode, slot_index);
    slot->sequence.token = slot->token;
    slot->sequence.n_token = slot->sequence.n_prompt = slot->n_prompt;
    slot->sequence.sampling = slot;
    slot->sequence.proposal = slot->proposal;
    slot->sequence.n_proposal = 0;
    if (decode->params.decoder->begin_sequence != NULL) {
        pico_error inner = {0};
        status = decode->params.decoder->begin_sequence(decode->params.decoder_self,
                                                        &slot->sequence, &inner);
        if (status != PICO_OK) {
            status = pico_plugin_failed("decoder", decode->params.decoder_name, "begin_sequence",
                                        status, &inner, err);
        }
    }
    if (status == PICO_OK && request->max_tokens == 0) {
        pico_slot_finish(decode, slot, PICO_FINISH_LENGTH);
    }
    slot->running = status == PICO_OK && slot->finish == PICO_FINISH_NONE;
    return status;
}

pico_status pico_decode_start(pico_decode *decode, uint32_t slot_index, const pico_request *request,
                              pico_error *err) {
    assert(slot_index < decode->params.n_slots);
    pico_status status = pico_request_check(decode, request, err);
    if (status != PICO_OK || decode->n_beam != 0) {
        return status == PICO_OK ? pico_beam_start(decode, slot_index, request, err) : status;
    }
    assert(!decode->slot[slot_index].running);
    uint32_t common = pico_slot_common(decode, slot_index, request);
    status = pico_slot_rewind(decode, slot_index, &common, err);
    return status == PICO_OK ? pico_slot_begin(decode, slot_index, request, common, err) : status;
}

void pico_decode_forget(pico_decode *decode, uint32_t slot) {
    uint32_t each = decode->n_beam == 0 ? 1 : decode->n_beam;
    for (uint32_t s = slot * each; s < (slot + 1) * each; s++) {
        assert(!decode->slot[s].running);
        (void)pico_session_truncate(decode->session, s, 0, NULL); /* always possible */
    }
}

pico_slot_state pico_decode_slot(const pico_decode *decode, uint32_t slot) {
    if (decode->n_beam != 0) {
        return pico_beam_state(&decode->beam[slot], decode->slot);
    }
    const pico_slot *s = &decode->slot[slot];
    return (pico_slot_state){.finish = s->finish,
                             .token = s->token,
                             .n_token = s->n_token,
                             .n_prompt = s->n_prompt,
                             .n_reused = s->n_reused};
}

const pico_decode_stats *pico_decode_statistics(const pico_decode *decode) {
    return &decode->stats;
}

uint32_t pico_decode_max_proposals(const pico_decode *decode) {
    return decode->decoder_need.max_proposals;
}

pico_session *pico_decode_session(const pico_decode *decode) {
    return decode->session;
}
