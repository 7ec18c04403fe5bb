/* Products with packed weights, for CPUs with AVX-512 VNNI. */
#include "packed.h"

#if defined(__AVX512VNNI__) && defined(__AVX512BW__) && defined(__AVX512VL__)

#define PACKED_VECTORS 512
#include "packed_impl.h"

const cpu_packed_kernels cpu_packed_vnni = {
    .kinds = 1u << CPU_PACK_I8 | 1u << CPU_PACK_GROUP8 | 1u << CPU_PACK_Q8 | 1u << CPU_PACK_Q4 |
             1u << CPU_PACK_NF4,
    .strips = strips,
    .quantise = quantise,
};

#else

const cpu_packed_kernels cpu_packed_vnni = {0};

#endif
