/* The layout of KV pages, for the ops that read and write them. */
#ifndef PICO_BACKEND_CPU_KV_H
#define PICO_BACKEND_CPU_KV_H

#include "plugin.h"

typedef struct kv_layout {
    uint32_t dtype, n_head, head_dim;
    uint32_t size;       /* bytes of an element */
    uint32_t n_line;     /* positions whose K of one dimension fills 64 bytes */
    uint32_t n_scale;    /* of a position, in K and in V; 0: none */
    uint64_t code_bytes; /* elements of K, or of V, of one head of a page; scales follow */
    uint64_t half_bytes; /* all of K, or of V */
    uint64_t page_bytes;
} kv_layout;

pico_status cpu_kv_layout(const pico_kv_desc *desc, kv_layout *out);
/* One position of one head; from and to point to the K of that head in their pages. */
void cpu_kv_move(const kv_layout *kv, const uint8_t *from, uint32_t from_offset, uint8_t *to,
                 uint32_t to_offset);

#endif
