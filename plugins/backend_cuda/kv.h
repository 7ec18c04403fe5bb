/* The layout of KV pages, for the slots that use them; see shapes.h. */
#ifndef PICO_BACKEND_CUDA_KV_H
#define PICO_BACKEND_CUDA_KV_H

#include "cuda.h"
#include "shapes.h"

/* PICO_E_INVALID where kv_page_bytes is 0. */
pico_status cuda_kv_layout_of(const pico_kv_desc *desc, cuda_kv_layout *out);

#endif
