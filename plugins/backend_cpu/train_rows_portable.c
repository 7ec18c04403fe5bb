/* The row kernels of training for any CPU. */
#define CPU_LANES 4
#define TRAIN_TABLE cpu_train_portable
#include "train_rows_impl.h"
