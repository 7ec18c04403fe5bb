/* The row kernels for any CPU: vectors of four, which every compiler target can lower. */
#define CPU_LANES 4
#define ROW_TABLE cpu_row_portable
#include "rows_impl.h"
