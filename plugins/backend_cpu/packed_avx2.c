/* Products with packed weights, for CPUs with AVX2. */
#include "packed.h"

#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)

#define PACKED_VECTORS 256
#include "packed_impl.h"

const cpu_packed_kernels cpu_packed_avx2 = {
    .kinds = 1u << CPU_PACK_I8 | 1u << CPU_PACK_GROUP8 | 1u << CPU_PACK_Q8 | 1u << CPU_PACK_Q4,
    .strips = strips,
    .quantise = quantise,
};

#else

const cpu_packed_kernels cpu_packed_avx2 = {0};

#endif
