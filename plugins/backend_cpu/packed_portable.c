/* Products with packed weights, for any CPU. */
#define PACKED_VECTORS 0
#include "packed_impl.h"

const cpu_packed_kernels cpu_packed_portable = {
    .kinds = 1u << CPU_PACK_I8 | 1u << CPU_PACK_GROUP8 | 1u << CPU_PACK_Q8 | 1u << CPU_PACK_Q4,
    .strips = strips,
    .quantise = quantise,
};
