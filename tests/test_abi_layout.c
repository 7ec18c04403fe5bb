/* layers: util */
/*
 * The binary layout of plugin.h on 64-bit machines: every size, offset and number that a compiled
 * plugin relies on. A failure here means that plugins built before the change would misread the
 * host: structs grow only at the end, and numbers are never reused (see the top of plugin.h). Then
 * raise PICO_ABI_MINOR, or undo the change.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>

#include "plugin.h"

typedef struct fact {
    const char *what;
    int64_t actual, expected;
} fact;

#define SIZE(type, n)                                                                              \
    { "sizeof(" #type ")", (int64_t)sizeof(type), n }
#define AT(type, field, n)                                                                         \
    { #type "." #field, (int64_t)offsetof(type, field), n }
#define NUMBER(name, n)                                                                            \
    { #name, name, n }

/* clang-format off */
static const fact layout[] = {
    SIZE(pico_error, 512),
    AT(pico_error, code, 0), AT(pico_error, message, 4),
    SIZE(pico_option, 72),
    AT(pico_option, name, 0), AT(pico_option, type, 8), AT(pico_option, flags, 12),
    AT(pico_option, offset, 16), AT(pico_option, reserved, 20), AT(pico_option, def, 24),
    AT(pico_option, min, 32), AT(pico_option, max, 40), AT(pico_option, unit, 48),
    AT(pico_option, choices, 56), AT(pico_option, help, 64),
    SIZE(pico_tensor, 88),
    AT(pico_tensor, buffer, 0), AT(pico_tensor, offset, 8), AT(pico_tensor, dtype, 16),
    AT(pico_tensor, rank, 20), AT(pico_tensor, shape, 24), AT(pico_tensor, stride, 56),
    SIZE(pico_weight_desc, 112),
    AT(pico_weight_desc, codes, 0), AT(pico_weight_desc, codes_bytes, 8),
    AT(pico_weight_desc, dtype, 16), AT(pico_weight_desc, scale_dtype, 20),
    AT(pico_weight_desc, scales, 24), AT(pico_weight_desc, n_scales, 32),
    AT(pico_weight_desc, codebook, 40), AT(pico_weight_desc, rows, 48),
    AT(pico_weight_desc, cols, 56), AT(pico_weight_desc, group, 64),
    AT(pico_weight_desc, input_scale, 72), AT(pico_weight_desc, input_perm, 80),
    AT(pico_weight_desc, outlier_col, 88), AT(pico_weight_desc, outlier_value, 96),
    AT(pico_weight_desc, n_outlier, 104),
    SIZE(pico_layer_desc, 24),
    AT(pico_layer_desc, n_head, 0), AT(pico_layer_desc, n_kv_head, 4),
    AT(pico_layer_desc, head_dim, 8), AT(pico_layer_desc, n_ff, 12),
    AT(pico_layer_desc, window, 16), AT(pico_layer_desc, has_value_embed, 20),
    SIZE(pico_model_desc, 136),
    AT(pico_model_desc, family, 0), AT(pico_model_desc, n_layer, 24),
    AT(pico_model_desc, n_embd, 28), AT(pico_model_desc, n_vocab, 32),
    AT(pico_model_desc, n_vocab_rows, 36), AT(pico_model_desc, n_ctx_train, 40),
    AT(pico_model_desc, flags, 44), AT(pico_model_desc, norm, 48),
    AT(pico_model_desc, norm_eps, 52), AT(pico_model_desc, pos, 56),
    AT(pico_model_desc, rope_layout, 60), AT(pico_model_desc, rope_dim, 64),
    AT(pico_model_desc, rope_table, 68), AT(pico_model_desc, rope_base, 72),
    AT(pico_model_desc, act, 80), AT(pico_model_desc, attn_scale, 84),
    AT(pico_model_desc, qk_scale, 88), AT(pico_model_desc, logit_softcap, 92),
    AT(pico_model_desc, smear_width, 96), AT(pico_model_desc, ve_width, 100),
    AT(pico_model_desc, ve_scale, 104), AT(pico_model_desc, backout_layer, 108),
    AT(pico_model_desc, n_mtp_head, 112), AT(pico_model_desc, n_draft, 116),
    AT(pico_model_desc, draft_hidden, 120), AT(pico_model_desc, layer, 128),
    SIZE(pico_backend_caps, 120),
    AT(pico_backend_caps, struct_size, 0), AT(pico_backend_caps, flags, 4),
    AT(pico_backend_caps, device, 8), AT(pico_backend_caps, memory_bytes, 104),
    AT(pico_backend_caps, free_bytes, 112),
    SIZE(pico_reserve, 36),
    AT(pico_reserve, max_rows, 0), AT(pico_reserve, max_in, 4), AT(pico_reserve, max_out, 8),
    AT(pico_reserve, max_head, 12), AT(pico_reserve, max_head_dim, 16),
    AT(pico_reserve, max_positions, 20), AT(pico_reserve, max_logit_rows, 24),
    AT(pico_reserve, max_top_k, 28), AT(pico_reserve, max_edits, 32),
    SIZE(pico_kv_desc, 12),
    AT(pico_kv_desc, dtype, 0), AT(pico_kv_desc, n_kv_head, 4), AT(pico_kv_desc, head_dim, 8),
    SIZE(pico_batch, 632),
    AT(pico_batch, n_rows, 0), AT(pico_batch, n_decode, 4), AT(pico_batch, n_pages, 8),
    AT(pico_batch, has_tree, 12), AT(pico_batch, token, 16), AT(pico_batch, prev, 104),
    AT(pico_batch, pos, 192), AT(pico_batch, slot, 280), AT(pico_batch, base, 368),
    AT(pico_batch, anc_begin, 456), AT(pico_batch, anc_cell, 544),
    SIZE(pico_embed_args, 192),
    AT(pico_embed_args, table, 0), AT(pico_embed_args, index, 8), AT(pico_embed_args, out, 96),
    AT(pico_embed_args, accumulate, 184),
    SIZE(pico_norm_args, 368),
    AT(pico_norm_args, kind, 0), AT(pico_norm_args, eps, 4), AT(pico_norm_args, scale, 8),
    AT(pico_norm_args, x, 16), AT(pico_norm_args, weight, 104), AT(pico_norm_args, bias, 192),
    AT(pico_norm_args, y, 280),
    SIZE(pico_linear_args, 280),
    AT(pico_linear_args, weight, 0), AT(pico_linear_args, x, 8), AT(pico_linear_args, bias, 96),
    AT(pico_linear_args, y, 184), AT(pico_linear_args, n_decode, 272),
    AT(pico_linear_args, accumulate, 276),
    SIZE(pico_rope_args, 368),
    AT(pico_rope_args, layout, 0), AT(pico_rope_args, reverse, 4), AT(pico_rope_args, rope_dim, 8),
    AT(pico_rope_args, x, 16), AT(pico_rope_args, pos, 104), AT(pico_rope_args, cos, 192),
    AT(pico_rope_args, sin, 280),
    SIZE(pico_kv_store_args, 288),
    AT(pico_kv_store_args, kv, 0), AT(pico_kv_store_args, pages, 16), AT(pico_kv_store_args, k, 24),
    AT(pico_kv_store_args, v, 112), AT(pico_kv_store_args, cell, 200),
    SIZE(pico_kv_copy_args, 200),
    AT(pico_kv_copy_args, kv, 0), AT(pico_kv_copy_args, pages, 16), AT(pico_kv_copy_args, from, 24),
    AT(pico_kv_copy_args, to, 112),
    SIZE(pico_attend_args, 312),
    AT(pico_attend_args, kv, 0), AT(pico_attend_args, pages, 16),
    AT(pico_attend_args, page_table, 24), AT(pico_attend_args, batch, 112),
    AT(pico_attend_args, n_head, 120), AT(pico_attend_args, scale, 124),
    AT(pico_attend_args, window, 128), AT(pico_attend_args, n_sink, 132),
    AT(pico_attend_args, q, 136), AT(pico_attend_args, out, 224),
    SIZE(pico_act_args, 272),
    AT(pico_act_args, kind, 0), AT(pico_act_args, x, 8), AT(pico_act_args, gate, 96),
    AT(pico_act_args, y, 184),
    SIZE(pico_gate_args, 360),
    AT(pico_gate_args, factor, 0), AT(pico_gate_args, scalar, 8), AT(pico_gate_args, g, 96),
    AT(pico_gate_args, u, 184), AT(pico_gate_args, y, 272),
    SIZE(pico_axpby_args, 360),
    AT(pico_axpby_args, a, 0), AT(pico_axpby_args, b, 4), AT(pico_axpby_args, a_scalar, 8),
    AT(pico_axpby_args, b_scalar, 96), AT(pico_axpby_args, x, 184), AT(pico_axpby_args, y, 272),
    SIZE(pico_softcap_args, 96),
    AT(pico_softcap_args, cap, 0), AT(pico_softcap_args, x, 8),
    SIZE(pico_logit_edit_args, 528),
    AT(pico_logit_edit_args, logits, 0), AT(pico_logit_edit_args, row, 88),
    AT(pico_logit_edit_args, token, 176), AT(pico_logit_edit_args, sub, 264),
    AT(pico_logit_edit_args, rep, 352), AT(pico_logit_edit_args, bias, 440),
    SIZE(pico_argmax_args, 176),
    AT(pico_argmax_args, logits, 0), AT(pico_argmax_args, index, 88),
    SIZE(pico_top_k_args, 360),
    AT(pico_top_k_args, logits, 0), AT(pico_top_k_args, k, 88),
    AT(pico_top_k_args, inv_temperature, 92), AT(pico_top_k_args, index, 96),
    AT(pico_top_k_args, value, 184), AT(pico_top_k_args, log_sum, 272),
    SIZE(pico_linear_many_args, 832),
    AT(pico_linear_many_args, n, 0), AT(pico_linear_many_args, n_decode, 4),
    AT(pico_linear_many_args, x, 8), AT(pico_linear_many_args, weight, 96),
    AT(pico_linear_many_args, bias, 128), AT(pico_linear_many_args, y, 480),
    SIZE(pico_linear_gated_args, 200),
    AT(pico_linear_gated_args, w1, 0), AT(pico_linear_gated_args, w3, 8),
    AT(pico_linear_gated_args, act, 16), AT(pico_linear_gated_args, n_decode, 20),
    AT(pico_linear_gated_args, x, 24), AT(pico_linear_gated_args, y, 112),
    SIZE(pico_backend_ops, 256),
    AT(pico_backend_ops, struct_size, 0), AT(pico_backend_ops, reserved, 4),
    AT(pico_backend_ops, caps, 8), AT(pico_backend_ops, buffer_alloc, 16),
    AT(pico_backend_ops, buffer_free, 24), AT(pico_backend_ops, buffer_write, 32),
    AT(pico_backend_ops, buffer_read, 40), AT(pico_backend_ops, buffer_copy, 48),
    AT(pico_backend_ops, sync, 56), AT(pico_backend_ops, supports, 64),
    AT(pico_backend_ops, reserve, 72), AT(pico_backend_ops, kv_page_bytes, 80),
    AT(pico_backend_ops, weight_create, 88), AT(pico_backend_ops, weight_free, 96),
    AT(pico_backend_ops, weight_read, 104), AT(pico_backend_ops, embed, 112),
    AT(pico_backend_ops, norm, 120), AT(pico_backend_ops, linear, 128),
    AT(pico_backend_ops, rope, 136), AT(pico_backend_ops, kv_store, 144),
    AT(pico_backend_ops, kv_copy, 152), AT(pico_backend_ops, attend, 160),
    AT(pico_backend_ops, activation, 168), AT(pico_backend_ops, gate, 176),
    AT(pico_backend_ops, axpby, 184), AT(pico_backend_ops, softcap, 192),
    AT(pico_backend_ops, logit_edit, 200), AT(pico_backend_ops, argmax, 208),
    AT(pico_backend_ops, top_k, 216), AT(pico_backend_ops, buffer_host, 224),
    AT(pico_backend_ops, linear_many, 232), AT(pico_backend_ops, linear_gated, 240),
    AT(pico_backend_ops, extension, 248),
    SIZE(pico_attention_check, 8),
    AT(pico_attention_check, struct_size, 0), AT(pico_attention_check, want_kv_heads, 4),
    SIZE(pico_attention_layer, 32),
    AT(pico_attention_layer, struct_size, 0), AT(pico_attention_layer, n_head, 4),
    AT(pico_attention_layer, n_kv_head, 8), AT(pico_attention_layer, head_dim, 12),
    AT(pico_attention_layer, scale, 16), AT(pico_attention_layer, window, 20),
    AT(pico_attention_layer, n_sink, 24), AT(pico_attention_layer, kv_dtype, 28),
    SIZE(pico_attention_ops, 24),
    AT(pico_attention_ops, struct_size, 0), AT(pico_attention_ops, reserved, 4),
    AT(pico_attention_ops, check, 8), AT(pico_attention_ops, layer, 16),
    SIZE(pico_sampler_need, 20),
    AT(pico_sampler_need, struct_size, 0), AT(pico_sampler_need, kind, 4),
    AT(pico_sampler_need, k, 8), AT(pico_sampler_need, inv_temperature, 12),
    AT(pico_sampler_need, state_bytes, 16),
    SIZE(pico_candidates, 32),
    AT(pico_candidates, n, 0), AT(pico_candidates, n_vocab, 4), AT(pico_candidates, token, 8),
    AT(pico_candidates, logit, 16), AT(pico_candidates, log_sum, 24),
    SIZE(pico_dist, 24),
    AT(pico_dist, n, 0), AT(pico_dist, capacity, 4), AT(pico_dist, token, 8), AT(pico_dist, p, 16),
    SIZE(pico_sampler_ops, 40),
    AT(pico_sampler_ops, struct_size, 0), AT(pico_sampler_ops, reserved, 4),
    AT(pico_sampler_ops, need, 8), AT(pico_sampler_ops, dist, 16),
    AT(pico_sampler_ops, state_init, 24), AT(pico_sampler_ops, state_next, 32),
    SIZE(pico_proposal, 16),
    AT(pico_proposal, token, 0), AT(pico_proposal, parent, 4), AT(pico_proposal, q_begin, 8),
    AT(pico_proposal, q_count, 12),
    SIZE(pico_sequence, 72),
    AT(pico_sequence, slot, 0), AT(pico_sequence, room, 4), AT(pico_sequence, token, 8),
    AT(pico_sequence, n_token, 16), AT(pico_sequence, n_prompt, 20),
    AT(pico_sequence, sampling, 24), AT(pico_sequence, proposal, 32),
    AT(pico_sequence, n_proposal, 40), AT(pico_sequence, n_q, 44),
    AT(pico_sequence, q_capacity, 48), AT(pico_sequence, q_token, 56), AT(pico_sequence, q_p, 64),
    SIZE(pico_outcome, 40),
    AT(pico_outcome, slot, 0), AT(pico_outcome, n_proposed, 4), AT(pico_outcome, n_accepted, 8),
    AT(pico_outcome, n_token, 12), AT(pico_outcome, token, 16), AT(pico_outcome, hidden_row, 24),
    AT(pico_outcome, finished, 32),
    SIZE(pico_decoder_need, 28),
    AT(pico_decoder_need, struct_size, 0), AT(pico_decoder_need, max_proposals, 4),
    AT(pico_decoder_need, want_hidden, 8), AT(pico_decoder_need, want_q, 12),
    AT(pico_decoder_need, max_positions, 16), AT(pico_decoder_need, window_limit, 20),
    AT(pico_decoder_need, accept, 24),
    SIZE(pico_decoder_stats, 24),
    AT(pico_decoder_stats, struct_size, 0), AT(pico_decoder_stats, reserved, 4),
    AT(pico_decoder_stats, n_proposed, 8), AT(pico_decoder_stats, propose_seconds, 16),
    SIZE(pico_decoder_ops, 64),
    AT(pico_decoder_ops, struct_size, 0), AT(pico_decoder_ops, reserved, 4),
    AT(pico_decoder_ops, begin, 8), AT(pico_decoder_ops, propose, 16),
    AT(pico_decoder_ops, observe, 24), AT(pico_decoder_ops, end, 32),
    AT(pico_decoder_ops, begin_sequence, 40), AT(pico_decoder_ops, end_sequence, 48),
    AT(pico_decoder_ops, stats, 56),
    SIZE(pico_tensor_info, 56),
    AT(pico_tensor_info, name, 0), AT(pico_tensor_info, dtype, 8), AT(pico_tensor_info, rank, 12),
    AT(pico_tensor_info, shape, 16), AT(pico_tensor_info, bytes, 48),
    SIZE(pico_tensor_plan, 48),
    AT(pico_tensor_plan, dtype, 0), AT(pico_tensor_plan, shape, 8), AT(pico_tensor_plan, bytes, 40),
    SIZE(pico_compressor_ops, 32),
    AT(pico_compressor_ops, struct_size, 0), AT(pico_compressor_ops, reserved, 4),
    AT(pico_compressor_ops, plan, 8), AT(pico_compressor_ops, apply, 16),
    AT(pico_compressor_ops, calibrate, 24),
    SIZE(pico_train_metrics, 32),
    AT(pico_train_metrics, struct_size, 0), AT(pico_train_metrics, finished, 4),
    AT(pico_train_metrics, step, 8), AT(pico_train_metrics, loss, 16),
    AT(pico_train_metrics, learning_rate, 24),
    SIZE(pico_trainer_ops, 48),
    AT(pico_trainer_ops, struct_size, 0), AT(pico_trainer_ops, reserved, 4),
    AT(pico_trainer_ops, begin, 8), AT(pico_trainer_ops, step, 16), AT(pico_trainer_ops, save, 24),
    AT(pico_trainer_ops, load, 32), AT(pico_trainer_ops, end, 40),
    SIZE(pico_random_key, 24),
    AT(pico_random_key, seed, 0), AT(pico_random_key, sample, 8), AT(pico_random_key, purpose, 12),
    AT(pico_random_key, t, 16),
    SIZE(pico_row, 24),
    AT(pico_row, token, 0), AT(pico_row, prev, 4), AT(pico_row, slot, 8), AT(pico_row, pos, 12),
    AT(pico_row, parent, 16), AT(pico_row, want, 20),
    SIZE(pico_forward_out, 184),
    AT(pico_forward_out, n, 0), AT(pico_forward_out, reserved, 4), AT(pico_forward_out, logits, 8),
    AT(pico_forward_out, hidden, 96),
    SIZE(pico_session_api, 64),
    AT(pico_session_api, struct_size, 0), AT(pico_session_api, reserved, 4),
    AT(pico_session_api, open, 8), AT(pico_session_api, close, 16),
    AT(pico_session_api, length, 24), AT(pico_session_api, truncate, 32),
    AT(pico_session_api, copy, 40), AT(pico_session_api, forward, 48),
    AT(pico_session_api, commit, 56),
    SIZE(pico_head_info, 32),
    AT(pico_head_info, name, 0), AT(pico_head_info, n_slot, 8), AT(pico_head_info, offset, 12),
    AT(pico_head_info, softcap, 16), AT(pico_head_info, n_vocab, 20),
    AT(pico_head_info, vocab_map, 24),
    SIZE(pico_heads_api, 32),
    AT(pico_heads_api, struct_size, 0), AT(pico_heads_api, reserved, 4),
    AT(pico_heads_api, count, 8), AT(pico_heads_api, info, 16), AT(pico_heads_api, apply, 24),
    SIZE(pico_sampling_api, 24),
    AT(pico_sampling_api, struct_size, 0), AT(pico_sampling_api, reserved, 4),
    AT(pico_sampling_api, dist, 8), AT(pico_sampling_api, draw, 16),
    SIZE(pico_tensors_api, 48),
    AT(pico_tensors_api, struct_size, 0), AT(pico_tensors_api, reserved, 4),
    AT(pico_tensors_api, count, 8), AT(pico_tensors_api, info, 16),
    AT(pico_tensors_api, read_f32, 24), AT(pico_tensors_api, read, 32),
    AT(pico_tensors_api, replace, 40),
    SIZE(pico_host, 144),
    AT(pico_host, struct_size, 0), AT(pico_host, abi_minor, 4), AT(pico_host, ctx, 8),
    AT(pico_host, log, 16), AT(pico_host, should_stop, 24), AT(pico_host, progress, 32),
    AT(pico_host, random, 40), AT(pico_host, n_threads, 48), AT(pico_host, parallel_for, 56),
    AT(pico_host, session, 64), AT(pico_host, heads, 72), AT(pico_host, sampling, 80),
    AT(pico_host, tensors, 88), AT(pico_host, model_desc, 96), AT(pico_host, model_open, 104),
    AT(pico_host, model_close, 112), AT(pico_host, tap, 120), AT(pico_host, train, 128),
    AT(pico_host, backend, 136),
    SIZE(pico_plugin, 96),
    AT(pico_plugin, magic, 0), AT(pico_plugin, abi_major, 4), AT(pico_plugin, abi_minor, 8),
    AT(pico_plugin, struct_size, 12), AT(pico_plugin, kind, 16), AT(pico_plugin, flags, 20),
    AT(pico_plugin, name, 24), AT(pico_plugin, version, 32), AT(pico_plugin, summary, 40),
    AT(pico_plugin, options, 48), AT(pico_plugin, n_options, 56), AT(pico_plugin, option_size, 60),
    AT(pico_plugin, options_bytes, 64), AT(pico_plugin, reserved, 68), AT(pico_plugin, create, 72),
    AT(pico_plugin, destroy, 80), AT(pico_plugin, ops, 88),
};

static const fact numbers[] = {
    NUMBER(PICO_OK, 0), NUMBER(PICO_E_NOMEM, -1), NUMBER(PICO_E_INVALID, -2),
    NUMBER(PICO_E_UNSUPPORTED, -3), NUMBER(PICO_E_ABI, -4), NUMBER(PICO_E_IO, -5),
    NUMBER(PICO_E_DEVICE, -6), NUMBER(PICO_E_CANCELLED, -7), NUMBER(PICO_E_CORRUPT, -8),
    NUMBER(PICO_E_LIMIT, -9), NUMBER(PICO_E_NOT_FOUND, -10),
    NUMBER(PICO_OPT_BOOL, 1), NUMBER(PICO_OPT_INT, 2), NUMBER(PICO_OPT_FLOAT, 3),
    NUMBER(PICO_OPT_STRING, 4), NUMBER(PICO_OPT_PATH, 5), NUMBER(PICO_OPT_ENUM, 6),
    NUMBER(PICO_OPTF_REQUIRED, 1), NUMBER(PICO_OPTF_AUTO, 2),
    NUMBER(PICO_DTYPE_NONE, 0), NUMBER(PICO_DTYPE_F32, 1), NUMBER(PICO_DTYPE_F16, 2),
    NUMBER(PICO_DTYPE_BF16, 3), NUMBER(PICO_DTYPE_I32, 4), NUMBER(PICO_DTYPE_I8, 5),
    NUMBER(PICO_DTYPE_Q8_0, 6), NUMBER(PICO_DTYPE_Q4_0, 7), NUMBER(PICO_DTYPE_NF4, 8),
    NUMBER(PICO_USE_PRODUCT, 1), NUMBER(PICO_USE_LOOKUP, 2), NUMBER(PICO_USE_TRANSPOSED, 4),
    NUMBER(PICO_NORM_RMS, 1), NUMBER(PICO_NORM_LAYER, 2),
    NUMBER(PICO_POS_ROPE, 1), NUMBER(PICO_POS_LEARNED, 2),
    NUMBER(PICO_ROPE_PAIRS, 1), NUMBER(PICO_ROPE_HALVES, 2),
    NUMBER(PICO_ACT_SILU, 1), NUMBER(PICO_ACT_GELU_TANH, 2), NUMBER(PICO_ACT_GELU_ERF, 3),
    NUMBER(PICO_ACT_RELU_SQUARED, 4),
    NUMBER(PICO_BIAS_QKV, 1), NUMBER(PICO_BIAS_OUT, 2), NUMBER(PICO_BIAS_FFN, 4),
    NUMBER(PICO_NORM_WEIGHT, 8), NUMBER(PICO_NORM_BIAS, 16), NUMBER(PICO_EMBED_NORM, 32),
    NUMBER(PICO_TIED_HEAD, 64), NUMBER(PICO_FFN_GATED, 128), NUMBER(PICO_QK_NORM, 256),
    NUMBER(PICO_RESID_LAMBDAS, 512), NUMBER(PICO_ROPE_REVERSED, 1024),
    NUMBER(PICO_CAP_BATCH_INVARIANT, 1), NUMBER(PICO_CAP_HOST_MEMORY, 2),
    NUMBER(PICO_OP_PRODUCT, 1), NUMBER(PICO_OP_LOOKUP, 2), NUMBER(PICO_OP_KV, 3),
    NUMBER(PICO_OP_ROPE, 4), NUMBER(PICO_OP_ACT, 5),
    NUMBER(PICO_NEED_ARGMAX, 1), NUMBER(PICO_NEED_TOP_K, 2), NUMBER(PICO_NEED_FULL, 3),
    NUMBER(PICO_LOG_DEBUG, 0), NUMBER(PICO_LOG_INFO, 1), NUMBER(PICO_LOG_WARN, 2),
    NUMBER(PICO_LOG_ERROR, 3),
    NUMBER(PICO_RANDOM_TARGET, 1), NUMBER(PICO_RANDOM_DRAFT, 2), NUMBER(PICO_RANDOM_ACCEPT, 3),
    NUMBER(PICO_RANDOM_RESIDUAL, 4), NUMBER(PICO_RANDOM_PLUGIN, 64),
    NUMBER(PICO_ROW_LOGITS, 1), NUMBER(PICO_ROW_HIDDEN, 2),
    NUMBER(PICO_KIND_BACKEND, 1), NUMBER(PICO_KIND_ATTENTION, 2), NUMBER(PICO_KIND_SAMPLER, 3),
    NUMBER(PICO_KIND_DECODER, 4), NUMBER(PICO_KIND_COMPRESSOR, 5), NUMBER(PICO_KIND_TRAINER, 6),
    NUMBER(PICO_PLUGIN_MAGIC, 0x4f434950), NUMBER(PICO_DECODE_ROWS_MAX, 32),
    NUMBER(PICO_PAGE_POSITIONS, 64),
};
/* clang-format on */

/* All that differ are listed, not only the first. */
static void check(const fact *facts, size_t n) {
    size_t n_bad = 0;
    for (size_t i = 0; i < n; i++) {
        if (facts[i].actual != facts[i].expected) {
            print_error("%s is %lld, it was %lld\n", facts[i].what, (long long)facts[i].actual,
                        (long long)facts[i].expected);
            n_bad++;
        }
    }
    assert_int_equal(n_bad, 0);
}

static void structs_keep_their_layout(void **state) {
    (void)state;
    if (sizeof(void *) != 8) {
        print_message("not a 64-bit machine: skipped\n");
        skip();
    }
    check(layout, sizeof layout / sizeof layout[0]);
}

static void numbers_keep_their_meaning(void **state) {
    (void)state;
    check(numbers, sizeof numbers / sizeof numbers[0]);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(structs_keep_their_layout),
        cmocka_unit_test(numbers_keep_their_meaning),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
