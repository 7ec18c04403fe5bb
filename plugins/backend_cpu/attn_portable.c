/* The attention kernels for any CPU: vectors of four, which every compiler target can lower. */
#define CPU_LANES 4
#define ATTN_TABLE cpu_attn_portable
#include "attn_impl.h"
